"""Result of an export in any format, and its tolerance of differences from the model. Needs no package of a format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.checkpoint import ModelFile, describe
from pipeline.config import to_dict
from pipeline.export.pieces import StateSlot

TOLERANCE = 1e-4
"""Greatest difference of scores; of features and states, in terms of their greatest value where that is above 1."""


@dataclass(frozen=True)
class Exported:
    """The files written, their differences from the model, and the cost of 8 bits."""

    paths: tuple[Path, ...]
    differences: dict[str, float]
    """The greatest difference of each part from the model in PyTorch."""
    cost: dict[str, float] = field(default_factory=dict)
    """Accuracy in float32 and in 8 bits; empty without 8-bit files."""


def describe_part(file: ModelFile, kind: str, slots: Sequence[StateSlot]) -> dict[str, Any]:
    """Metadata of an exported file: the model file's description, and the part of the model that this is."""
    return describe(file) | {
        "kind": kind,
        "states": [to_dict(slot.described()) for slot in slots],
        "lookback_frames": file.transform.lookback_frames,
    }
