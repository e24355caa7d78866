"""The videos that a model file is judged by: those of a part of the data, without any that it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.buckets import source_path
from pipeline.checkpoint import ModelFile
from pipeline.config import DataConfig
from pipeline.datasets.annotations import Annotations, VideoRow, name_some
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.identities import CHANGED, TRAINED, Contents, Judgeable, LeftOut, Unseen
from pipeline.datasets.settled import make_splits
from pipeline.errors import UserError
from pipeline.known_videos import KnownVideos

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
    data = _data_of(model, given_data)
    annotations = _annotations(model, data)
    rows = _rows_of(annotations, data, _seed_of(model), part)
    if part != "train" or model.videos is None:
        return _judged(model, data, annotations, rows, validated=part == "val")
    left_out = _unseen(model.videos, data, annotations).judgeable(rows).left_out
    num_seen = sum(left.why in (TRAINED, CHANGED) for left in left_out)
    said = f"{num_seen} of these {len(rows)} videos were trained on: the figures do not say how good the model is"
    return _JudgedRows(rows, data, (*annotations.notes, said), (), {"num_trained_on": num_seen})


def _judged(
    model: ModelFile, data: DataConfig, annotations: Annotations, rows: tuple[VideoRow, ...], *, validated: bool
) -> _JudgedRows:
    if model.videos is None:
        return _JudgedRows(rows, data, (*annotations.notes, _UNKNOWN))
    found = _unseen(model.videos, data, annotations).judgeable(rows, validated=validated)
    found = whole_videos(found) if model.task == "timeline" else found
    if not found.rows:
        raise UserError(
            f"there is nothing to judge the model by: {'. '.join(found.notes())}. Add videos that it has not seen, "
            "name others by --data.root, or look at training videos on purpose with --split train"
        )
    notes = (*annotations.notes, *found.notes(), *([_VALIDATION] if validated else []))
    return _JudgedRows(found.rows, data, notes, found.left_out)


def whole_videos(found: Judgeable) -> Judgeable:
    """Return the rows for a model of timelines, which is judged by whole videos: one of which a stretch is left out is
    left out, once."""
    causes = {left.name: left for left in found.left_out}
    rows = tuple(row for row in found.rows if row.name not in causes)
    return replace(found, rows=rows, left_out=tuple(causes.values()), by_video=True)


def _unseen(known: KnownVideos, data: DataConfig, annotations: Annotations) -> Unseen:
    every_row = [row for rows in annotations.splits.values() for row in rows]
    return Unseen(known, every_row, Contents(data), may_share_groups=annotations.may_share_groups)


def rows_to_tune(model: ModelFile, given_data: Mapping[str, Any]) -> _JudgedRows:
    """Return the videos that may choose the numbers of a model: the validation videos of the data that it was trained
    on, or of other data; all of that where it names no parts. Those that the model was trained on are left out.

    Args:
        model: knows its videos.
        given_data: as for ``rows_to_judge``.

    Raises:
        UserError: as ``rows_to_judge``; there are no validation videos, or test videos are among them.
    """
    data, trained_on = _data_of(model, given_data), _data_of(model, {})
    annotations = _annotations(model, data)
    named = annotations.splits.keys()
    if _source_of(data) == _source_of(trained_on):
        rows = _rows_of(annotations, data, _seed_of(model), "val")
    elif "val" in named or "all" in named:
        rows = annotations.splits["val" if "val" in named else "all"]
    else:
        raise UserError(
            f"{data.root} names no validation videos, only those of the part {', '.join(named)}, and test videos "
            "choose nothing, since the figures of these would flatter; name videos of a part val, or without parts"
        )
    judged = _judged(model, data, annotations, rows, validated=True)
    _refuse_test_videos(model, trained_on, judged)
    return replace(judged, notes=tuple(note for note in judged.notes if note != _VALIDATION))


def _source_of(data: DataConfig) -> tuple[object, ...]:
    return data.format, Path(data.root).resolve(), data.annotations, data.split


def _refuse_test_videos(model: ModelFile, trained_on: DataConfig, judged: _JudgedRows) -> None:
    """Test videos are those of the data that the model was trained on, while that is there, under whatever name."""
    if not source_path(trained_on.root).exists():
        return
    tests = make_splits(_annotations(model, trained_on), trained_on, _seed_of(model)).test
    known = KnownVideos(train=Contents(trained_on).known(tests))
    found = Unseen(known, judged.rows, Contents(judged.data), may_share_groups=True).judgeable(judged.rows).left_out
    if found:
        raise UserError(
            f"{len(found)} of these are test videos of {trained_on.root}, which choose nothing, since their figures "
            f"would flatter: {name_some(left.name for left in found)}; name others by --data.root"
        )


def _annotations(model: ModelFile, data: DataConfig) -> Annotations:
    return read_annotations(data, model.sequence if model.task == "timeline" else None)


def _data_of(model: ModelFile, given_data: Mapping[str, Any]) -> DataConfig:
    return DataConfig(**(model.provenance.get("experiment", {}).get("data", {}) | dict(given_data)))


def _seed_of(model: ModelFile) -> int:
    seed: int = model.provenance.get("experiment", {}).get("seed", 0)
    return seed


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
