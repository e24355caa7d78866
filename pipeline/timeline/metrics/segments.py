"""Agreement of predicted with true segments: F1 at temporal overlap and edit score.

Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection", CVPR 2017, take a mean over videos;
Abu Farha and Gall, "MS-TCN", CVPR 2019, add the counts of all videos before they take F1. The matching is the same.
Background is no segment. Figures are shares from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline.labelled import Span
from pipeline.timeline.metrics.average_precision import ratio

_IOU_DECIMALS = 9  # times in seconds are rounded; the published code has whole steps, whose IoUs tie exactly


def bounds(spans: Sequence[Span]) -> NDArray[np.float64]:
    """Starts and ends in seconds, float64 ``[N, 2]``."""
    return np.array([(span.start_seconds, span.end_seconds) for span in spans], np.float64).reshape(-1, 2)


def temporal_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each of ``a`` ``[N, 2]`` with each of ``b`` ``[M, 2]``: ``[N, M]``; NaN, as in
    ActivityNet's code, where both are empty."""
    starts = np.maximum(a[:, None, 0], b[None, :, 0])
    ends = np.minimum(a[:, None, 1], b[None, :, 1])
    intersection = (ends - starts).clip(0)
    union = (b[:, 1] - b[:, 0])[None] + (a[:, 1] - a[:, 0])[:, None] - intersection
    return ratio(intersection, union)


@dataclass(frozen=True)
class SegmentCounts:
    """True positives, false positives and missed segments; counts of several videos add up."""

    hits: int = 0
    false_alarms: int = 0
    missed: int = 0

    def __add__(self, other: SegmentCounts) -> SegmentCounts:
        return SegmentCounts(self.hits + other.hits, self.false_alarms + other.false_alarms, self.missed + other.missed)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 when there was nothing to find and nothing was found, where the published codes
        divide by zero."""
        total = 2 * self.hits + self.false_alarms + self.missed
        return 2 * self.hits / total if total else 1.0


def match_segments(predicted: Sequence[Span], truth: Sequence[Span], min_iou: float) -> SegmentCounts:
    """Count matches as the published codes do: each prediction, in order of time, picks the true segment of its label
    with the largest IoU; it is right if that is large enough and was not picked with success before."""
    if not predicted or not truth:
        return SegmentCounts(0, len(predicted), len(truth))
    predicted, truth = _by_time(predicted), _by_time(truth)
    is_same = np.array([[ours.label == theirs.label for theirs in truth] for ours in predicted])
    overlaps = np.where(is_same, temporal_iou(bounds(predicted), bounds(truth)), 0.0).round(_IOU_DECIMALS)
    taken: set[int] = set()
    for row in np.nan_to_num(overlaps):
        best = int(row.argmax())
        if row[best] >= min_iou and best not in taken:
            taken.add(best)
    return SegmentCounts(len(taken), len(predicted) - len(taken), len(truth) - len(taken))


def edit_score(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """Agreement in the order of labels, whatever their length: 1 minus the Levenshtein distance of the two sequences,
    divided by the length of the longer one; 1 if both are empty, where the published codes divide by zero."""
    ours, theirs = ([span.label for span in _by_time(spans)] for spans in (predicted, truth))
    longest = max(len(ours), len(theirs))
    return 1.0 - _levenshtein(ours, theirs) / longest if longest else 1.0


def _by_time(spans: Sequence[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: (span.start_seconds, span.end_seconds))


def _levenshtein(a: Sequence[str], b: Sequence[str]) -> int:
    """Insertions, deletions and replacements that turn one into the other; one row of the table at a time."""
    row = list(range(len(b) + 1))
    for i, ours in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, theirs in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (ours != theirs))
    return row[-1]
