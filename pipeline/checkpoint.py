"""The model file: one safetensors file that says everything needed to use it. Loading it runs no code.

Tensors are the recogniser's state dict. The metadata key ``clipgru`` is JSON: format version, labels, the model,
sampling, transform and decode settings, normalisation, calibration, provenance (versions, data, seed), metrics, and the
videos that the model has seen (``known_videos``).
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from pipeline.calibration import UNCALIBRATED, Calibration
from pipeline.config import (
    DecodeConfig,
    Experiment,
    ModelConfig,
    Normalization,
    SamplingConfig,
    TransformConfig,
    from_dict,
    to_dict,
)
from pipeline.errors import UserError
from pipeline.files.writing import write_atomically
from pipeline.known_videos import KnownVideos
from pipeline.models.recognizer import Recognizer
from pipeline.version import __version__

FORMAT_VERSION = 1
_KEY = "clipgru"


@dataclass(frozen=True)
class ModelFile:
    """A recogniser and all that is known about it."""

    recognizer: Recognizer
    labels: tuple[str, ...]
    sampling: SamplingConfig
    transform: TransformConfig
    decode: DecodeConfig
    provenance: dict[str, Any] = field(default_factory=dict)
    """Who made it from what: versions, experiment, data."""
    metrics: dict[str, float] = field(default_factory=dict)
    calibration: Calibration = UNCALIBRATED
    """How the logits are to be read."""
    videos: KnownVideos | None = None
    """Those that it has seen; None in a file of an earlier version."""

    @property
    def normalization(self) -> Normalization:
        """Mean and standard deviation that the weights expect."""
        return self.recognizer.backbone.normalization


def provenance_of(experiment: Experiment) -> dict[str, Any]:
    """What a model came from, for its file."""
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
        "metrics": model.metrics,
    }


def save_model(path: Path, model: ModelFile) -> None:
    """Writes the model file. The same model gives the same bytes."""
    state = {name: tensor.contiguous() for name, tensor in model.recognizer.state_dict().items()}
    description = describe(model) | ({"videos": model.videos.to_json()} if model.videos else {})
    metadata = {_KEY: json.dumps(description, ensure_ascii=False, sort_keys=True)}
    write_atomically(path, safetensors.torch.save(state, metadata))


def load_model_file(path: str | Path, device: str | torch.device = "cpu") -> ModelFile:
    """Reads a model file, ready for evaluation on ``device``.

    Raises:
        UserError: the file is missing, is no model file, is damaged, or was made by a newer version.
    """
    path = Path(path)
    description, state = _read(path)
    if description.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: model file format {description.get('format')!r}; this version of clipgru ({__version__}) reads "
            f"format {FORMAT_VERSION}. It was written by clipgru {description.get('provenance', {}).get('clipgru')}"
        )
    try:
        transform = from_dict(TransformConfig, description["transform"])
        recognizer = Recognizer(
            from_dict(ModelConfig, description["model"]),
            len(description["labels"]),
            load_weights=False,
            input_size_px=transform.input_size_px,
            num_pictures=transform.num_pictures,
        )
        recognizer.load_state_dict(state)
        recognizer.backbone.normalization = from_dict(Normalization, description["normalization"])
        return ModelFile(
            recognizer.eval().to(device),
            tuple(description["labels"]),
            from_dict(SamplingConfig, description["sampling"]),
            transform,
            from_dict(DecodeConfig, description["decode"]),
            description["provenance"],
            description["metrics"],
            from_dict(Calibration, description.get("calibration", {})),
            KnownVideos.from_json(description["videos"], str(path)) if "videos" in description else None,
        )
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path}: its weights and its description do not fit together ({error})") from error


def read_description(path: Path) -> dict[str, Any]:
    """What a model file says of itself, without its weights.

    Raises:
        UserError: the file is missing, or is no model file.
    """
    return _read(path, with_weights=False)[0]


def _read(path: Path, with_weights: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f"{path}: no such model file; clipgru train writes <output_dir>/<name>/model.safetensors")
    try:
        with safetensors.safe_open(str(path), framework="pt") as stream:
            metadata = stream.metadata() or {}
            names = stream.keys() if with_weights else ()
            state = {name: stream.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a model file, or a damaged one ({error})") from error
    if _KEY not in metadata:
        raise UserError(f"{path}: a safetensors file, but not one of clipgru's: it has no {_KEY!r} metadata")
    try:
        description: dict[str, Any] = json.loads(metadata[_KEY])
    except ValueError as error:
        raise UserError(f"{path}: its {_KEY!r} metadata is not JSON ({error})") from error
    return description, state
