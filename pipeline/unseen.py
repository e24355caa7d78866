"""The videos that a model file is judged by: those of a part of the data, without any that it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.checkpoint import ModelFile
from pipeline.config import DataConfig
from pipeline.datasets.annotations import Annotations, VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.identities import CHANGED, TRAINED, Contents, LeftOut, Unseen
from pipeline.datasets.settled import make_splits
from pipeline.errors import UserError

_UNKNOWN = (
    "the model file does not say which videos it was trained on (an earlier version wrote it): some of them may be "
    "among those that it is judged by"
)
_VALIDATION = "validation videos chose the epoch and calibrated the scores: on new videos expect somewhat less"


@dataclass(frozen=True)
class _JudgedRows:
    """Videos to judge a model by."""

    rows: tuple[VideoRow, ...]
    data: DataConfig
    notes: tuple[str, ...]
    """Notes on the data and on the choice."""
    left_out: tuple[LeftOut, ...] | None = None
    """None if the model does not know its videos."""
    figures: dict[str, float] = field(default_factory=dict)
    """``num_trained_on``, where the training videos are looked at on purpose."""


def rows_to_judge(model: ModelFile, given_data: Mapping[str, Any], part: str) -> _JudgedRows:
    """Return the videos of a part of the data that a model was trained on, or of that with the settings given.

    Args:
        model: knows its videos.
        given_data: data settings that differ from those of the training.
        part: ``test`` or ``all``, without those that the model was trained or validated on; ``val``, without those that
            it was trained on; or ``train``, as it is.

    Raises:
        UserError: as ``make_splits``; or nothing is left.
    """
    trained_as = model.provenance.get("experiment", {})
    data = DataConfig(**(trained_as.get("data", {}) | dict(given_data)))
    annotations = read_annotations(data, model.sequence if model.task == "timeline" else None)
    rows = _rows_of(annotations, data, trained_as.get("seed", 0), part)
    if model.videos is None:
        return _JudgedRows(rows, data, (*annotations.notes, _UNKNOWN))
    every_row = [row for rows in annotations.splits.values() for row in rows]
    unseen = Unseen(model.videos, every_row, Contents(data), may_share_groups=annotations.may_share_groups)
    found = unseen.judgeable(rows, validated=part == "val")
    if part == "train":
        num_seen = sum(left.why in (TRAINED, CHANGED) for left in found.left_out)
        said = f"{num_seen} of these {len(rows)} videos were trained on: the figures do not say how good the model is"
        return _JudgedRows(rows, data, (*annotations.notes, said), (), {"num_trained_on": num_seen})
    if not found.rows:
        raise UserError(
            f"there is nothing to judge the model by: {'. '.join(found.notes())}. Add videos that it has not seen, "
            "name others by --data.root, or look at training videos on purpose with --split train"
        )
    notes = (*annotations.notes, *found.notes(), *([_VALIDATION] if part == "val" else []))
    return _JudgedRows(found.rows, data, notes, found.left_out)


def _rows_of(annotations: Annotations, data: DataConfig, seed: int, part: str) -> tuple[VideoRow, ...]:
    given = annotations.splits
    if part == "all":
        return tuple(row for rows in given.values() for row in rows)
    if part in given and "train" not in given:
        return given[part]  # there is nothing that it could be split from
    if part == "train" and "all" in given and data.test_fraction == 0:
        return given["all"]  # as ``learn`` does
    rows: Sequence[VideoRow] = getattr(make_splits(annotations, data, seed), part)
    if not rows:
        names = ", ".join(name for name in given if given[name])
        raise UserError(
            f"{data.root} has no videos for --split {part}, only {names}; choose --split all, or one of them"
        )
    return tuple(rows)
