"""The model file: one safetensors file that says everything needed to use it. Loading it runs no code.

Tensors are the recogniser's state dict. The metadata key ``clipgru`` is JSON (``description.Description``) with a
digest of all that is in the file. Nothing is believed before it is checked: the JSON against its schema; the tensors'
names, types and shapes against the network that the settings describe, which is built without memory for that; then
digest and values, while the network with memory is built.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from pipeline.calibration import UNCALIBRATED, Calibration
from pipeline.config import (
    ClipSettings,
    DataConfig,
    DecodeConfig,
    Experiment,
    Normalization,
    SamplingConfig,
    SequenceConfig,
    TimelineNumbers,
    TransformConfig,
    to_dict,
)
from pipeline.description import FORMAT_VERSION, METADATA_KEY, Description, parse_description
from pipeline.errors import UserError
from pipeline.files.writing import write_atomically
from pipeline.known_videos import KnownVideos
from pipeline.machine import pick_device
from pipeline.models.recognizer import Recognizer
from pipeline.schema import to_json
from pipeline.version import __version__

_MAX_HEADER_BYTES, _MAX_TENSORS = 2**25, 10_000
_MAX_TABLE_BYTES = 2**28
_DAMAGED = "the file is damaged, or was changed: fetch it anew, or train again"


@dataclass(frozen=True)
class ModelFile:
    """A recogniser and all that is known about it."""

    recognizer: Recognizer
    labels: tuple[str, ...]
    sampling: SamplingConfig
    transform: TransformConfig
    decode: DecodeConfig
    provenance: dict[str, Any] = field(default_factory=dict)
    """Origin of the model: versions, experiment, data."""
    metrics: dict[str, float] = field(default_factory=dict)
    calibration: Calibration = UNCALIBRATED
    """Calibration of the logits."""
    videos: KnownVideos | None = None
    """Videos that the model has seen; None in a file of an earlier version."""
    task: Literal["clip", "timeline"] = "clip"
    """Answers of the model: one for a clip, or one at each grid frame."""
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    """task timeline: what it answers at each, and how late."""
    timeline: TimelineNumbers | None = None
    """task timeline: numbers by which its scores become segments; None: none were chosen."""

    @property
    def may_overlap(self) -> bool:
        """True if each label has a probability of its own, so that several may be there at a time."""
        return self.task == "timeline" and self.sequence.labels == "several"

    def __post_init__(self) -> None:
        self.recognizer.let_labels_overlap(self.may_overlap)

    @property
    def normalization(self) -> Normalization:
        """Mean and standard deviation that the weights expect."""
        return self.recognizer.backbone.normalization

    def decoded_as(self, given: Mapping[str, Any]) -> ModelFile:
        """Return the same model with ``given`` in place of some of its decoding settings. Raises ``UserError`` for a
        value out of range."""
        return replace(self, decode=replace(self.decode, **given))

    def require_clips(self, command: str) -> None:
        """Refuse a model of timelines where ``command`` knows clips alone. Raises ``UserError``."""
        if self.task == "timeline":
            raise UserError(
                f"{command} looks at clips, and this model answers at every moment of long videos (task timeline); "
                "clipgru evaluate and clipgru predict take it"
            )

    def require_network(self, command: str) -> None:
        """Refuse a model that reads files of features where ``command`` needs its pictures. Raises ``UserError``."""
        if self.recognizer.config.backbone == "features":
            raise UserError(
                f"{command} needs a backbone, and this model reads features from files (model.backbone features)"
            )

    def clips_on(self, data: DataConfig, num_clips: int | None = None) -> ClipSettings:
        """Settings by which clips of other data are read for this model.

        Args:
            data: batches, processes and cache.
            num_clips: clips a video; None: as the model was trained.

        Raises:
            UserError: ``data.cache`` features, for a model whose clips are not made of features.
        """
        sampling = replace(self.sampling, num_eval_clips=num_clips or self.sampling.num_eval_clips)
        return ClipSettings(self.decode, sampling, self.transform, data)


def provenance_of(experiment: Experiment) -> dict[str, Any]:
    """Provenance of a model, for its file."""
    return {
        "clipgru": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "experiment": to_dict(experiment),
    }


def describe(model: ModelFile) -> dict[str, Any]:
    """All that is known about a model but its weights, as JSON."""
    return {
        "format": FORMAT_VERSION,
        "labels": list(model.labels),
        "model": to_dict(model.recognizer.config),
        "sampling": to_dict(model.sampling),
        "transform": to_dict(model.transform),
        "decode": to_dict(model.decode),
        "normalization": to_dict(model.normalization),
        "calibration": to_dict(model.calibration),
        "provenance": model.provenance,
        "metrics": {name: value for name, value in model.metrics.items() if math.isfinite(value)},
        **({} if model.task == "clip" else {"task": model.task, "sequence": to_dict(model.sequence)}),
        **({"timeline": to_dict(model.timeline)} if model.timeline else {}),
    }


def save_model(path: Path, model: ModelFile) -> None:
    """Writes the model file. The same model gives the same bytes.

    Raises:
        UserError: a weight is no finite number, or the file would be refused when it is read.
    """
    state = _unshared({name: tensor.cpu().contiguous() for name, tensor in model.recognizer.state_dict().items()})
    _check_finite(state, f"{path} is not written", "training has diverged: try a lower training.learning_rate")
    videos = {"videos": model.videos.to_json()} if model.videos else {}
    text = to_json(describe(model) | videos | {"sha256": ""}, ensure_ascii=False, sort_keys=True)
    parse_description(Description, text, str(path))
    text = text.replace('"sha256": ""', f'"sha256": "{_digest(text, state)}"')
    write_atomically(path, safetensors.torch.save(state, {METADATA_KEY: text}))


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor with memory of its own, as the format wants it: some networks have one under several names."""
    places: set[int] = set()
    apart = {}
    for name, tensor in state.items():
        apart[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    return apart


def load_model_file(path: str | Path, device: str | torch.device = "cpu") -> ModelFile:
    """Reads a model file, ready for evaluation on ``device``.

    Raises:
        UserError: the file is missing, is no model file, is damaged, or was made by a newer version; the device is not
            there.
    """
    path, device = Path(path), pick_device(device)
    text, tensors = _read(path)
    description = parse_description(Description, text, str(path))
    shapes = _network(description, path, has_memory=False)
    _check_tensors(tensors, shapes.state_dict(), path)
    _check_tables(tensors, dict(shapes.named_buffers()), path)
    with ThreadPoolExecutor(1) as pool:  # a digest takes as long as building the network
        checking = pool.submit(_check_content, text, tensors, description, path)
        recognizer = _network(description, path, has_memory=True)
        recognizer.load_state_dict(tensors)
        checking.result()
    recognizer.backbone.normalization = description.normalization
    return ModelFile(
        recognizer.eval().to(device),
        description.labels,
        description.sampling,
        description.transform,
        description.decode_here,
        description.provenance,
        description.metrics,
        Calibration(**asdict(description.calibration)),
        None if description.videos is None else KnownVideos.from_json(description.videos, str(path)),
        description.task,
        description.sequence,
        description.timeline,
    )


def read_description(path: Path) -> dict[str, Any]:
    """Return the checked description in a model file, without its weights.

    Raises:
        UserError: the file is missing, or is no model file.
    """
    return to_dict(parse_description(Description, _read(path)[0], str(path)))


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the description's text and the tensors of a model file; these are mapped, not yet read."""
    if not path.is_file():
        raise UserError(f"{path}: no such model file; clipgru train writes <output_dir>/<name>/model.safetensors")
    try:
        with path.open("rb") as stream:
            if int.from_bytes(stream.read(8), "little") > _MAX_HEADER_BYTES:
                raise UserError(
                    f"{path}: no model file, such as clipgru train writes (.safetensors), or a damaged one: it "
                    "does not begin with the length of a header"
                )
        with safetensors.safe_open(str(path), framework="pt") as stream:
            metadata = stream.metadata() or {}
            if len(stream.keys()) > _MAX_TENSORS:
                raise UserError(f"{path}: not a model file: it has {len(stream.keys()):,} tensors")
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a model file, or a damaged one ({error})") from error
    if METADATA_KEY not in metadata:
        raise UserError(f"{path}: a safetensors file, but not one of clipgru's: it has no {METADATA_KEY!r} metadata")
    return metadata[METADATA_KEY], tensors


class _ShapesAlone(TorchFunctionMode):
    """Weights that are to be loaded are not drawn first; and on the device meta norms, activations and sums give what
    they are given: they would load a part of torch that takes two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or (func in _SHAPE_KEEPING and _is_enough(*args, **kwargs)):
            return next(iter((*args, *kwargs.values())))
        return func(*args, **kwargs)


def _is_enough(first: Tensor, *others: Any, **named: object) -> bool:
    """True if the first argument has the shape of the result, and no numbers that are wanted."""
    is_sum = len(others) == 1 and isinstance(others[0], Tensor) and not named
    return first.is_meta and (not is_sum or torch.broadcast_shapes(first.shape, others[0].shape) == first.shape)


_DRAWS = frozenset((
    Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, init.normal_, init.uniform_, init.trunc_normal_,
    init.kaiming_normal_, init.kaiming_uniform_, init.xavier_normal_, init.xavier_uniform_,
))  # fmt: skip
_SHAPE_KEEPING = frozenset((
    Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__imul__,
    functional.relu, functional.relu6, functional.hardtanh, functional.leaky_relu, functional.elu, functional.gelu,
    functional.silu, functional.mish, functional.hardswish, functional.hardsigmoid, functional.batch_norm,
))  # fmt: skip


def _network(description: Description, path: Path, *, has_memory: bool) -> Recognizer:
    """The network of a description, with weights that say nothing; without memory only its shapes can be asked for."""
    try:
        with _ShapesAlone(), nullcontext() if has_memory else torch.device("meta"):
            return Recognizer(
                description.model,
                len(description.labels),
                load_weights=False,
                input_size_px=description.transform.input_size_px,
                num_pictures=description.transform.num_pictures,
                input_frames=description.transform.input_frames,
            )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no network can be built of its settings ({error}); {_DAMAGED}") from error


def _check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Names, types and shapes."""
    is_wrong = [*(wanted.keys() ^ found.keys())]
    is_wrong += [name for name in wanted.keys() & found.keys() if _form(wanted[name]) != _form(found[name])]
    if is_wrong:
        name = min(is_wrong)
        has, needs = (_form(tensors.get(name)) for tensors in (found, wanted))
        raise UserError(
            f"{path}: its weights and its description do not fit together: {name[:200]!r} is {has} and should be "
            f"{needs}, and so with {len(is_wrong)} tensors; {_DAMAGED}"
        )


def _check_tables(found: Mapping[str, Tensor], buffers: Mapping[str, Tensor], path: Path) -> None:
    """Tables that no file holds, such as where the places of a picture lie from one another, grow with its size."""
    num_bytes = sum(buffer.nbytes for name, buffer in buffers.items() if name not in found)
    if num_bytes > _MAX_TABLE_BYTES + sum(tensor.nbytes for tensor in found.values()):
        raise UserError(
            f"{path}: its backbone needs {num_bytes / 1e9:.1f} GB beside its weights for pictures of that size "
            f"(transform.input_size_px); {_DAMAGED}"
        )


def _form(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check_content(text: str, tensors: Mapping[str, Tensor], said: Description, path: Path) -> None:
    """The digest, where the format has one, and that every number is one."""
    has_digest = said.format > 1 or bool(said.sha256)
    if has_digest and said.sha256 != _digest(text.replace(said.sha256, ""), tensors):
        raise UserError(f"{path}: its content is not what was written (SHA-256 differs); {_DAMAGED}")
    _check_finite(tensors, str(path), _DAMAGED)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of the description's text, in which the digest is empty, and of each tensor's name, type, shape
    and bytes, by name."""
    content = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        content.update(f"\n{name} {_form(tensors[name])}\n".encode())
        content.update(memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return content.hexdigest()


def _check_finite(tensors: Mapping[str, Tensor], where: str, cure: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        values = tensor.float().numpy()
        if not np.isfinite((values.min(initial=0), values.max(initial=0))).all():  # a nan is the least and the greatest
            raise UserError(f"{where}: a value of {name} is no finite number; {cure}")
