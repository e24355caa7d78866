"""Description of a model in its file: the JSON in a model file and in an exported one, as dataclasses. Needs no torch.

    model.safetensors    metadata ``clipgru``: ``Description``
    model.clip.onnx      metadata ``clipgru``: ``ExportedDescription``, the same and which part of the model it is

docs/model_files.md describes it for other programs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from reprlib import repr as short_repr
from typing import Any, Literal, TypeVar

from pipeline.config import (
    DecodeConfig,
    Experiment,
    ModelConfig,
    Normalization,
    SamplingConfig,
    SequenceConfig,
    TimelineNumbers,
    TransformConfig,
    require,
    to_dict,
)
from pipeline.config.earlier import with_new_names
from pipeline.errors import UserError
from pipeline.schema import check_labels, check_types, read_checked, read_json
from pipeline.version import __version__

METADATA_KEY = "clipgru"
FORMAT_VERSION = 2
"""1 had no checksum, and at first no calibration. Such files are read as well."""

_MAX_CLIP_PIXELS = 2**27
"""Of all that the backbone reads of a clip: 0.4 GB of uint8 RGB."""
_MAX_STATE_VALUES = 2**24

# Settings that decide what a model answers and that files have had since the first one: a file without one is damaged,
# not old. What came later is at its default where it is absent.
_NEVER_ABSENT = {
    "sampling": ("sample_fps", "num_frames", "mode", "short_video"),
    "transform": ("fit", "fit_size_px", "input_size_px", "input"),
    "model": ("backbone", "heads", "hidden_channels", "kernel_size", "bidirectional", "reset_after", "norm", "readout"),
}

Measure = Literal["max_probability", "max_logit", "energy"]


@dataclass(frozen=True)
class CalibrationNumbers:
    """Numbers of ``calibration.Calibration``, which applies them. By default nothing changes and nothing is unknown."""

    temperature: float = 1.0
    """Logits are divided by it before the softmax; above 1 it lowers the confidence."""
    unknown_measure: Measure = "max_probability"
    """A key of ``calibration.MEASURES``."""
    unknown_threshold: float | None = None
    """A clip that measures less is unknown; None: no clip is."""

    def __post_init__(self) -> None:
        require(
            0.01 <= self.temperature <= 100,
            f"calibration.temperature must be between 0.01 and 100, got {self.temperature}",
        )


@dataclass(frozen=True)
class _Provenance:
    """Origin of a model. Everything may be absent: a model made in Python need not have it."""

    clipgru: str = ""
    """The version that trained it; likewise torch and python."""
    torch: str = ""
    python: str = ""
    experiment: Experiment | None = None
    num_training_videos: int | None = None
    chosen: str | None = None
    """The candidate that ``clipgru learn`` chose."""
    initial_model: _Provenance | None = None
    """Provenance of the model that training began with."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Everything in the metadata of a model file."""

    format: int
    labels: tuple[str, ...]
    model: ModelConfig
    sampling: SamplingConfig
    transform: TransformConfig
    decode: DecodeConfig
    normalization: Normalization
    calibration: CalibrationNumbers
    provenance: dict[str, Any]
    """Keys and values of ``_Provenance``."""
    metrics: dict[str, float]
    sha256: str = ""
    """Digest of a model file: of this text without these digits, and of the weights. An exported file has its own."""
    task: Literal["clip", "timeline"] = "clip"
    """clip: one answer for a clip; timeline: one at each grid frame."""
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    """task timeline: what is answered at each grid frame, and how late."""
    timeline: TimelineNumbers | None = None
    """task timeline: numbers by which its scores become segments; None: none were chosen."""
    videos: dict[str, str] | None = None
    """Videos that the model has seen, as ``known_videos`` packs them; None in a file of an earlier version."""

    def __post_init__(self) -> None:
        check_labels(self.labels, "labels")
        check_types(_Provenance, self.provenance, "provenance")  # rules between settings were those of its version
        thresholds = self.timeline.enter_thresholds if self.timeline else ()
        require(
            len(thresholds) in (0, len(self.labels)),
            f"timeline.enter_thresholds: {len(thresholds)} of them for {len(self.labels)} labels",
        )
        num_frames, size = self.sampling.num_frames, self.transform.fit_size_px
        require(
            num_frames * self.transform.input_frames * size * size <= _MAX_CLIP_PIXELS,
            f"sampling.num_frames {num_frames}, transform.input_frames {self.transform.input_frames} and "
            f"transform.fit_size_px {size}: a clip of more than {_MAX_CLIP_PIXELS:,} pixels",
        )

    @property
    def decode_here(self) -> DecodeConfig:
        """Decoding settings without permission to fetch addresses, which the reader of the file must give."""
        return replace(self.decode, allow_url=False)


@dataclass(frozen=True)
class StateDescription:
    """A tensor that a streaming step is given and gives anew: float32, zero before the first frame."""

    name: str
    shape: tuple[int | Literal["batch"], ...]
    """The word ``batch`` stands in the place of the batch's size."""

    def __post_init__(self) -> None:
        sides = [side for side in self.shape if isinstance(side, int)]
        require(bool(re.fullmatch(r"state_\w{1,80}", self.name)), f"the name of a state is {self.name[:100]!r}")
        require(
            len(self.shape) <= 6
            and len(sides) >= len(self.shape) - 1
            and all(1 <= side <= _MAX_STATE_VALUES for side in sides)
            and prod(sides) <= _MAX_STATE_VALUES,
            f"{self.name} has the shape {list(self.shape)[:8]}; a state has at most {_MAX_STATE_VALUES:,} values",
        )


@dataclass(frozen=True, kw_only=True)
class ExportedDescription(Description):
    """Everything in the metadata of an exported ONNX file."""

    onnx_format: int
    kind: Literal["backbone", "clip", "step"]
    states: tuple[StateDescription, ...]
    """States of the streaming step; empty if there is none."""
    lookback_frames: int
    precision: Literal["float32", "int8"]
    differences: dict[str, float] = field(default_factory=dict)
    """Greatest difference of each part from the model in PyTorch."""
    cost: dict[str, float] = field(default_factory=dict)
    """Accuracy in float32 and in 8 bits; empty without 8-bit files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.lookback_frames == self.transform.lookback_frames,
            f"lookback_frames {self.lookback_frames} is not that of transform.input {self.transform.input} and "
            f"transform.input_frames {self.transform.input_frames}",
        )
        require(len(self.states) <= 64, f"{len(self.states)} states; there are 64 at most")


def check_describable(experiment: Experiment, labels: tuple[str, ...]) -> None:
    """Check before a training what its model file will have to say, so that it is not refused at the end.

    Raises:
        UserError: a class name, or a setting, that no model file may have.
    """
    Description(
        format=FORMAT_VERSION,
        labels=labels,
        model=experiment.model,
        sampling=experiment.sampling,
        transform=experiment.transform,
        decode=experiment.decode,
        normalization=Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        calibration=CalibrationNumbers(),
        provenance={"experiment": to_dict(experiment)},
        metrics={},
    )


Kind = TypeVar("Kind", bound=Description)


def parse_description(kind: type[Kind], text: str, where: str) -> Kind:
    """Return what the JSON of a file's metadata says.

    Args:
        kind: ``Description`` or ``ExportedDescription``.
        text: the JSON.
        where: the file's name, for errors.

    Raises:
        UserError: it is not JSON, is of a newer version, lacks something, or has a key or value that cannot be.
    """
    said = read_json(text, where)
    if not isinstance(said, dict):
        raise UserError(f"{where}: its {METADATA_KEY!r} metadata is no mapping; {_cure(said)}")
    for key, kind_of_file in {"format": "model file", "onnx_format": "ONNX file"}.items():
        version = said.get(key, 1)
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise UserError(
                f"{where}: {kind_of_file} format {short_repr(version)}; this version of clipgru ({__version__}) reads "
                f"formats 1 to {FORMAT_VERSION}. {_cure(said)}"
            )
    if said.get("format") == 1:
        said = {"calibration": {}} | said
    said = _with_new_names(said, where)
    try:
        description = read_checked(kind, said, where)
    except UserError as error:
        raise UserError(f"{error}. {_cure(said)}") from None
    for block, names in _NEVER_ABSENT.items():
        for name in names:
            if name not in said[block]:
                raise UserError(f"{where}: {block}.{name}: missing. {_cure(said)}")
    return description


def _with_new_names(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of a file, and of the experiments that it says it comes from, under this version's names."""
    found = with_new_names(said, where)
    if "num_context_frames" in found:
        found["lookback_frames"] = found.pop("num_context_frames")
    outer, key = found, "provenance"
    while isinstance(inner := outer.get(key), Mapping):
        outer[key] = inner = dict(inner)
        if isinstance(experiment := inner.get("experiment"), Mapping):
            inner["experiment"] = with_new_names(experiment, where)
        outer, key = inner, "initial_model"
    return found


def _cure(said: object) -> str:
    """Advice on a file that cannot be read, by the version that it claims to be written by."""
    provenance = said.get("provenance") if isinstance(said, Mapping) else None
    version = provenance.get("clipgru") if isinstance(provenance, Mapping) else None
    damaged = "the file is damaged, or was changed: fetch it anew, or train again"
    if isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version) and version != __version__:
        written = f"It was written by clipgru {version}, and this is {__version__}"
        return f"{written}: update clipgru if that is newer; else {damaged}"
    return f"{damaged[0].upper()}{damaged[1:]}"
