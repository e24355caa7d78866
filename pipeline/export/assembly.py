"""The pieces put together: a graph for clips of any length, and one for a stream's next frame.

    clip    frames -> embed -> features -> Scan(step) -> read out -> scores
    step    frame, states -> embed -> features -> step -> scores, next states

ONNX's Scan is the loop over time, with the exported step as its body, so both graphs compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, compose, helper
from onnx.helper import make_node

from pipeline.checkpoint import ModelFile
from pipeline.description import FORMAT_VERSION, METADATA_KEY
from pipeline.export.outcome import describe_part
from pipeline.export.pieces import OPSET, Pieces, StateSlot
from pipeline.inference.onnx_file import (
    CONTEXT,
    FEATURES,
    FRAMES,
    KNOWNNESS,
    LOGITS,
    SCORES,
    STEP_FEATURES,
    STEP_FRAME,
    STEP_LOGITS,
)
from pipeline.schema import to_json

_FLOAT, _UINT8, _INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64


@dataclass(frozen=True)
class _Graph:
    """Nodes and constants of a piece, under names of their own but for its inputs and outputs."""

    nodes: list[Any]
    constants: list[Any]
    outputs: list[Any]


def assemble(file: ModelFile, pieces: Pieces) -> dict[str, Any]:
    """The graphs by kind: ``backbone``, ``clip``, and ``step`` if the model can stream."""
    graphs = {"backbone": _backbone(file, pieces), "clip": _clip(file, pieces)}
    if pieces.step is not None:
        graphs["step"] = _step(file, pieces)
    return graphs


def describe_graph(model: Any, file: ModelFile, kind: str, slots: Sequence[StateSlot], **more: Any) -> None:
    """Writes into the graph what the model file says, and what the graph is."""
    said = describe_part(file, kind, slots) | {"onnx_format": FORMAT_VERSION, **more}
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: to_json(said, ensure_ascii=False, sort_keys=True)})


def _backbone(file: ModelFile, pieces: Pieces) -> Any:
    piece = _piece(pieces.backbone, "")
    num_frames = file.transform.frames_for(1)
    shape: list[str | int | None] = ["batch", *([num_frames] if num_frames > 1 else []), *_picture(file)]
    frames = helper.make_tensor_value_info(FRAMES, _UINT8, shape)
    return _model("backbone", piece.nodes, piece.constants, [frames], piece.outputs)


def _clip(file: ModelFile, pieces: Pieces) -> Any:
    embed = _piece(pieces.embed, "embed_")
    if pieces.step is None:
        time = _piece(pieces.clip, "time_")
    else:
        time = _scan(file, pieces, len(embed.outputs[0].type.tensor_type.shape.dim))
    frames = helper.make_tensor_value_info(FRAMES, _UINT8, ["batch", "frames", *_picture(file)])
    read = _reading(file, LOGITS)
    logits = helper.make_tensor_value_info(LOGITS, _FLOAT, ["batch", len(file.labels)])
    nodes = [*embed.nodes, *time.nodes, *read.nodes]
    constants = [*embed.constants, *time.constants, *read.constants]
    return _model("clip", nodes, constants, [frames], read.outputs, [*embed.outputs, logits])


def _scan(file: ModelFile, pieces: Pieces, rank: int) -> _Graph:
    """``features [B, T, ...]`` -> ``logits [B, K]``."""
    step, slots = pieces.step, pieces.slots
    body = _piece(step, "step_")
    by_name = {value.name: value for value in [*step.graph.input, *step.graph.output]}
    states, following = [slot.name for slot in slots], [f"next_{slot.name}" for slot in slots]
    loop = helper.make_graph(
        body.nodes,
        "step",
        [by_name[name] for name in (*states, STEP_FEATURES)],
        [by_name[name] for name in (*following, STEP_LOGITS)],
        body.constants,
    )
    first = [f"first_{name}" for name in states]
    last = [f"last_{name}" for name in states]
    nodes = [
        make_node("Shape", [FEATURES], ["batch_size"], end=1),
        *(node for slot, name in zip(slots, first, strict=True) for node in _zeros(slot, name)),
        make_node(
            "Scan",
            [*first, FEATURES],
            [*last, "all_logits"],
            body=loop,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        ),
        *_read_out(file),
    ]
    return _Graph(nodes, [*_sizes(slots), *_read_out_constants(file)], [])


def _zeros(slot: StateSlot, name: str) -> list[Any]:
    """Nodes that make the state before the first frame, for as many clips as there are."""
    zero = helper.make_tensor("zero", _FLOAT, [1], [0.0])
    if slot.batch_axis is None:
        return [make_node("ConstantOfShape", [f"{slot.name}_shape"], [name], value=zero)]
    parts = [f"{slot.name}_before", "batch_size", f"{slot.name}_after"]
    return [
        make_node("Concat", parts, [f"{name}_shape"], axis=0),
        make_node("ConstantOfShape", [f"{name}_shape"], [name], value=zero),
    ]


def _sizes(slots: Sequence[StateSlot]) -> list[Any]:
    constants = []
    for slot in slots:
        axis = slot.batch_axis
        parts = (
            {"shape": slot.shape} if axis is None else {"before": slot.shape[:axis], "after": slot.shape[axis + 1 :]}
        )
        for ending, sides in parts.items():
            constants.append(helper.make_tensor(f"{slot.name}_{ending}", _INT64, [len(sides)], sides))
    return constants


def _read_out(file: ModelFile) -> list[Any]:
    """``all_logits [B, T, K]`` -> ``logits [B, K]``, as ``Recognizer.read_out``."""
    if file.recognizer.config.readout == "last":
        return [make_node("Gather", ["all_logits", "last_index"], [LOGITS], axis=1)]
    return [make_node("ReduceMean", ["all_logits", "time_axis"], [LOGITS], keepdims=0)]


def _read_out_constants(file: ModelFile) -> list[Any]:
    if file.recognizer.config.readout == "last":
        return [helper.make_tensor("last_index", _INT64, [], [-1])]
    return [helper.make_tensor("time_axis", _INT64, [1], [1])]


def _reading(file: ModelFile, logits: str) -> _Graph:
    """Logits ``[B, K]`` -> ``scores [B, K]`` and ``knownness [B]``, as the file's calibration reads them; where labels
    may overlap, the best score is how known a frame looks."""
    temperature = helper.make_tensor("temperature", _FLOAT, [], [file.calibration.temperature])
    last_axis = helper.make_tensor("last_axis", _INT64, [1], [-1])
    nodes = [
        make_node("Div", [logits, "temperature"], ["calibrated"]),
        make_node("Sigmoid", ["calibrated"], [SCORES])
        if file.may_overlap
        else make_node("Softmax", ["calibrated"], [SCORES], axis=-1),
        *_KNOWNNESS_NODES["max_probability" if file.may_overlap else file.calibration.unknown_measure](logits),
    ]
    outputs = [
        helper.make_tensor_value_info(SCORES, _FLOAT, ["batch", len(file.labels)]),
        helper.make_tensor_value_info(KNOWNNESS, _FLOAT, ["batch"]),
    ]
    return _Graph(nodes, [temperature, last_axis], outputs)


# As ``calibration.MEASURES``: name -> nodes from the logits, "calibrated" and "scores" to "knownness".
_KNOWNNESS_NODES: dict[str, Callable[[str], list[Any]]] = {
    "max_probability": lambda logits: [make_node("ReduceMax", [SCORES, "last_axis"], [KNOWNNESS], keepdims=0)],
    "max_logit": lambda logits: [make_node("ReduceMax", [logits, "last_axis"], [KNOWNNESS], keepdims=0)],
    "energy": lambda logits: [
        make_node("ReduceLogSumExp", ["calibrated", "last_axis"], ["log_sum"], keepdims=0),
        make_node("Mul", ["log_sum", "temperature"], [KNOWNNESS]),
    ],
}


def _step(file: ModelFile, pieces: Pieces) -> Any:
    embed, step = _piece(pieces.embed, "embed_"), _piece(pieces.step, "step_")
    context, picture = file.transform.frames_for(0), _picture(file)
    inputs = [helper.make_tensor_value_info(STEP_FRAME, _UINT8, ["batch", *picture])]
    inputs += [value for value in pieces.step.graph.input if value.name != STEP_FEATURES]
    read = _reading(file, STEP_LOGITS)
    outputs = [*read.outputs]
    outputs += [value for value in pieces.step.graph.output if value.name != STEP_LOGITS]
    nodes = [make_node("Unsqueeze", [STEP_FRAME, "time_axis"], ["newest" if context else FRAMES])]
    if context:
        nodes.append(make_node("Concat", [CONTEXT, "newest"], [FRAMES], axis=1))
        nodes.append(make_node("Slice", [FRAMES, "second", "past_last", "time_axis"], [f"next_{CONTEXT}"]))
        inputs.append(helper.make_tensor_value_info(CONTEXT, _UINT8, ["batch", context, *picture]))
        outputs.append(helper.make_tensor_value_info(f"next_{CONTEXT}", _UINT8, ["batch", context, *picture]))
    nodes += [
        *embed.nodes,
        make_node("Squeeze", [FEATURES, "time_axis"], [STEP_FEATURES]),
        *step.nodes,
        *read.nodes,
    ]
    between = [
        value for value in [*pieces.step.graph.input, *pieces.step.graph.output] if value.name.startswith("step_")
    ]
    between.append(helper.make_tensor_value_info(FRAMES, _UINT8, ["batch", "frames", *picture]))
    constants = [*embed.constants, *step.constants, *read.constants]
    constants.append(helper.make_tensor("time_axis", _INT64, [1], [1]))
    if context:
        constants.append(helper.make_tensor("second", _INT64, [1], [1]))
        constants.append(helper.make_tensor("past_last", _INT64, [1], [1 + context]))
    return _model("step", nodes, constants, inputs, outputs, [*embed.outputs, *between])


def _picture(file: ModelFile) -> list[int]:
    return [3, file.transform.fit_size_px, file.transform.fit_size_px]


def _piece(model: Any, prefix: str) -> _Graph:
    """A piece, with a prefix to all names but those of its inputs and outputs."""
    model = _with_computed_outputs(model)
    if prefix:
        model = compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False, rename_functions=False)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # where in whose code it came from
        node.ClearField("doc_string")
    return _Graph(list(model.graph.node), list(model.graph.initializer), list(model.graph.output))


def _with_computed_outputs(model: Any) -> Any:
    """The body of a scan must compute its outputs; the exporter lets a constant be one."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.value_info[:]  # which has the constant under its old name
    outputs = {output.name for output in changed.graph.output}
    for constant in changed.graph.initializer:
        if constant.name in outputs:
            changed.graph.node.append(make_node("Identity", [f"{constant.name}_value"], [constant.name]))
            constant.name = f"{constant.name}_value"
    return changed


def _model(
    name: str,
    nodes: Sequence[Any],
    constants: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    between: Sequence[Any] = (),
) -> Any:
    """A checked model; ``between`` are values inside it at which it may be cut."""
    graph = helper.make_graph(nodes, name, inputs, outputs, constants, value_info=between)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="clipgru")
    model.ir_version = 10  # of the opset; make_model takes the newest, which older runtimes refuse
    onnx.checker.check_model(model)
    return model
