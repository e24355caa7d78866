"""An exported file, read and checked before ONNX Runtime sees it, which opens what a graph tells it to open and
computes what it tells it to compute.

The last bytes of a file are a metadata entry with the SHA-256 of all bytes before it, so that accidents are found. What
was changed on purpose is kept within bounds: no data in other files, no operations but ONNX's own, none that can run on
or grow without end, and values inside the graph of a size that a frame can have.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.config import DecodeConfig, SamplingConfig, SequenceConfig, TimelineNumbers, TransformConfig
from pipeline.description import METADATA_KEY, ExportedDescription, StateDescription, parse_description
from pipeline.errors import UserError

# Names of values inside the graphs, where they are cut.
FRAMES, FEATURES, LOGITS = "frames", "features", "logits"
STEP_FRAME, STEP_FEATURES, STEP_LOGITS = "frame", "step_features", "step_logits"
CONTEXT = "state_context"
# What a graph answers: probabilities ``[B, K]``, and how known each clip looks ``[B]``, which is unknown below the
# ``unknown_threshold`` of the calibration in the metadata.
SCORES, KNOWNNESS = "scores", "knownness"

CHECKSUM_KEY = "clipgru_sha256"
_OPSETS = range(17, 24)
_MAX_FILE_BYTES = 2**31 - 1
"""Of a protobuf message."""
_MAX_VALUE_BYTES = 2**31
"""Of all that a graph computes for one frame."""
# Operations that run as long, or make as much, as a value tells them, or other values each time.
_UNBOUNDED = frozenset({"EyeLike", "If", "ImageDecoder", "Loop", "Range", "SequenceMap", "Unique"}) | {
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
}


_FILLINGS = frozenset({"ConstantOfShape", "Expand", "Tile"})


@dataclass(frozen=True)
class OnnxFile:
    """Description of a model in an exported file."""

    kind: str
    """``clip`` or ``step``; ``backbone`` cannot predict."""
    labels: tuple[str, ...]
    sampling: SamplingConfig
    transform: TransformConfig
    decode: DecodeConfig
    provenance: dict[str, Any]
    metrics: dict[str, float]
    unknown_threshold: float | None
    """Threshold of the model's rule for the unknown."""
    states: tuple[StateDescription, ...]
    """Empty if there is no step."""
    task: str = "clip"
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    timeline: TimelineNumbers | None = None

    @property
    def may_overlap(self) -> bool:
        """True if each label has a probability of its own."""
        return self.task == "timeline" and self.sequence.labels == "several"


def import_onnx() -> ModuleType:
    """The package ``onnx``, if it and ONNX Runtime are there.

    Raises:
        UserError: one is not installed.
    """
    try:
        import onnx
        import onnx.utils
        import onnxruntime  # noqa: F401 (as early as this)
    except ImportError as error:
        raise UserError(
            f"ONNX files need the packages onnx and onnxruntime ({error}); pip install 'clipgru[export]'"
        ) from error
    return onnx


def read_onnx(path: Path) -> tuple[OnnxFile, Any]:
    """Return what an exported file says of itself, and its graph (an ``onnx.ModelProto``), both checked.

    Raises:
        UserError: the file is missing, damaged, none of clipgru's, or asks for what clipgru does not export.
    """
    onnx = import_onnx()
    content = _content(path)
    model = _parsed(path, content, onnx)
    metadata = {item.key: item.value for item in model.metadata_props}
    if METADATA_KEY not in metadata:
        raise UserError(f"{path}: an ONNX file, but not one of clipgru's: it has no {METADATA_KEY!r} metadata")
    said = parse_description(ExportedDescription, metadata[METADATA_KEY], str(path))
    body = content[: -len(_seal(b""))]
    if (said.onnx_format > 1 or CHECKSUM_KEY in metadata) and content != body + _seal(body):
        raise UserError(f"{path}: its content is not what was written (SHA-256 differs); export the model again")
    fault = _fault_of(model, said, onnx)
    if fault:
        raise UserError(f"{path}: its graph is not one that clipgru exports: {fault}; export the model again")
    return (
        OnnxFile(
            said.kind,
            said.labels,
            said.sampling,
            said.transform,
            said.decode_here,
            said.provenance,
            said.metrics,
            said.calibration.unknown_threshold,
            said.states,
            said.task,
            said.sequence,
            said.timeline,
        ),
        model,
    )


def sealed(content: bytes) -> bytes:
    """Return a serialised ONNX model with its checksum behind it, as one more metadata entry."""
    return content + _seal(content)


def _seal(content: bytes) -> bytes:
    from onnx import ModelProto, StringStringEntryProto

    entry = StringStringEntryProto(key=CHECKSUM_KEY, value=hashlib.sha256(content).hexdigest())
    seal: bytes = ModelProto(metadata_props=[entry]).SerializeToString()  # one message after another is both in one
    return seal


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such file; clipgru export writes <model>.clip.onnx")
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UserError(f"{path}: not an ONNX file: larger than 2 GB")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(path: Path, content: bytes, onnx: ModuleType) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(content)
    except DecodeError as error:
        raise UserError(f"{path}: not an ONNX file, or a damaged one ({error})") from error


def _fault_of(model: Any, said: ExportedDescription, onnx: ModuleType) -> str:
    """Fault of a graph, in words; empty if it may be run."""
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if [domain for domain, _ in opsets] != [""] or opsets[0][1] not in _OPSETS:
        return f"operations of {str(opsets)[:100]}"
    if len(model.functions) or len(model.training_info):
        return "functions of its own"
    graphs = list(_graphs(model.graph))
    for graph in graphs:
        if fault := _fault_of_nodes(graph) or _fault_of_tensors(graph, onnx) or _fault_of_fillings(graph, onnx):
            return fault
    if len(graphs) > 2:
        return f"{len(graphs) - 1} loops"
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, TypeError, ValueError) as error:
        return str(error).strip().splitlines()[0][:200]
    return _fault_of_interface(model.graph, said) or _fault_of_sizes(model, said, onnx)


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _fault_of_nodes(graph: Any) -> str:
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in _UNBOUNDED:
            return f"the operation {node.domain}:{node.op_type}"[:100]
    return ""


def _fault_of_tensors(graph: Any, onnx: ModuleType) -> str:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if len(graph.sparse_initializer) or any(a.HasField("sparse_tensor") or a.sparse_tensors for a in attributes):
        return "sparse tensors"
    tensors = [*graph.initializer, *(a.t for a in attributes if a.HasField("t"))]
    tensors += [tensor for attribute in attributes for tensor in attribute.tensors]
    for tensor in tensors:
        name = tensor.name[:100]
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
            return f"{name} lies in another file"
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            return f"{name} is damaged ({error})"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"a value of {name} is no finite number"
    return ""


def _fault_of_fillings(graph: Any, onnx: ModuleType) -> str:
    """Operations that make as much as constants tell them, straight or as parts of a joined shape."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    joined = {node.output[0]: node.input for node in graph.node if node.op_type == "Concat" and node.output}
    for node in graph.node:
        for given in node.input[-1:] if node.op_type in _FILLINGS else ():  # the last one is the shape
            parts = [constants[name] for name in joined.get(given, [given]) if name in constants]
            sides = [int(side) for part in parts for side in onnx.numpy_helper.to_array(part).flat]
            if math.prod(max(side, 1) for side in sides) > _MAX_VALUE_BYTES // 4:
                return f"{node.op_type} would make {str(sides)[:100]} values"
    return ""


def _fault_of_interface(graph: Any, said: ExportedDescription) -> str:
    """Inputs and outputs against what the metadata says of them."""
    size, num_classes, context = said.transform.fit_size_px, len(said.labels), said.lookback_frames
    picture = [3, size, size]
    inputs: dict[str, Sequence[int | str]] = {}
    if said.kind == "step":
        inputs[STEP_FRAME] = ["batch", *picture]
        inputs |= {state.name: state.shape for state in said.states}
        inputs |= {CONTEXT: ["batch", context, *picture]} if context else {}
    else:
        frames = [1 + context] if said.kind == "backbone" and context else ["frames"] if said.kind == "clip" else []
        inputs = {FRAMES: ["batch", *frames, *picture]}
    if _shapes(graph.input) != {name: list(shape) for name, shape in inputs.items()}:
        return f"its inputs are {str(_shapes(graph.input))[:200]}"
    if said.kind == "backbone":
        return ""
    outputs: dict[str, Sequence[int | str]] = {SCORES: ["batch", num_classes], KNOWNNESS: ["batch"]}
    found = _shapes(graph.output)
    if {name: found.get(name) for name in outputs} != outputs:
        return f"its outputs are {str(found)[:200]}"
    following = [f"next_{name}" for name in inputs if name != STEP_FRAME] if said.kind == "step" else []
    if sorted(found) != sorted([*outputs, *following]):
        return f"its outputs are {', '.join(sorted(found))[:200]}"
    return ""


def _shapes(values: Any) -> dict[str, list[int | str]]:
    return {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim] for value in values
    }


def _fault_of_sizes(model: Any, said: ExportedDescription, onnx: ModuleType) -> str:
    """The bytes of all values that a clip of one frame makes, as far as they can be told without computing it; of a
    model without a step, a clip of its own length."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    num_frames = 1 + said.lookback_frames if said.states else said.sampling.num_frames
    for value in sized.graph.input:
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_value = {"batch": 1, "frames": num_frames}.get(side.dim_param, 1)
    del sized.graph.value_info[:]
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(
            sized
        )  # not data_prop, which would itself make what values grow to
    except (onnx.shape_inference.InferenceError, TypeError, ValueError, RuntimeError) as error:
        return str(error).strip().splitlines()[0][:200]
    values = [*inferred.graph.value_info, *inferred.graph.output]
    num_bytes = sum(
        4 * math.prod(max(side.dim_value, 1) for side in value.type.tensor_type.shape.dim) for value in values
    )
    if num_bytes > _MAX_VALUE_BYTES * num_frames:
        return f"it would compute {num_bytes / 1e9:.0f} GB for {num_frames} frames"
    return ""
