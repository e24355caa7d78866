"""What an experiment's videos are: how many of each class, from how many sources, and how long they last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.config import DecodeConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.settled import Splits
from pipeline.decode import VideoOpener
from pipeline.errors import DecodeError
from pipeline.sampling import spread

_MAX_OPENED = 200
"""Durations are those of so many videos of a split, evenly spread over it: to open all of a large set takes minutes."""


def summarize_splits(splits: Splits, decode: DecodeConfig) -> dict[str, Any]:
    """Plain values for ``data.json``: the labels, and for each split its ``class_counts``, ``num_sources`` and the
    ``durations_seconds`` of some of its videos (or labelled stretches), of which those that cannot be opened are left
    out."""
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    with VideoOpener(decode) as opener:
        return {
            "labels": list(splits.labels),
            "splits": {name: _summarize(rows, splits.labels, opener) for name, rows in parts.items() if rows},
        }


def _summarize(rows: Sequence[VideoRow], labels: Sequence[str], opener: VideoOpener) -> dict[str, Any]:
    counts = Counter(row.label for row in rows)
    opened = [rows[place] for place in spread(len(rows), min(_MAX_OPENED, len(rows)))]
    durations = [_duration_seconds(row, opener) for row in opened]
    return {
        "class_counts": {label: counts[label] for label in labels},
        "num_sources": len({row.group for row in rows}),
        "durations_seconds": [round(duration, 3) for duration in durations if duration is not None],
    }


def _duration_seconds(row: VideoRow, opener: VideoOpener) -> float | None:
    """Of the labelled stretch. None if the file cannot be opened, or the stretch lies outside it: training and
    evaluation say why."""
    try:
        with opener.open(row.source) as reader:
            end_seconds = reader.info.duration_seconds
    except DecodeError:
        return None
    duration_seconds = min(row.end_seconds or end_seconds, end_seconds) - row.start_seconds
    return duration_seconds if duration_seconds > 0 else None
