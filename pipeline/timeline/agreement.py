"""How well predicted segments agree with the true ones, as action segmentation measures it.

F1 at temporal overlap, edit score and frame accuracy as in Lea et al., "Temporal Convolutional Networks for Action
Segmentation and Detection", CVPR 2017. Stretches without a segment are background: they count as frames, and neither
as segments nor in the edit score. All figures are shares from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.clip import Segment
from pipeline.sampling import grid_range, grid_seconds

_MIN_IOUS = (0.1, 0.25, 0.5)


def temporal_iou(a: Segment, b: Segment) -> float:
    """Intersection over union of two stretches of time."""
    intersection = min(a.end_seconds, b.end_seconds) - max(a.start_seconds, b.start_seconds)
    if intersection <= 0:
        return 0.0
    union = max(a.end_seconds, b.end_seconds) - min(a.start_seconds, b.start_seconds)
    return intersection / union


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
        """2 TP / (2 TP + FP + FN); 1 when there was nothing to find and nothing was found."""
        total = 2 * self.hits + self.false_alarms + self.missed
        return 2 * self.hits / total if total else 1.0


def match_segments(predicted: Sequence[Segment], truth: Sequence[Segment], min_iou: float) -> SegmentCounts:
    """Segmental counts: each prediction takes the overlapping true segment of its label with the largest IoU; a true
    segment counts once."""
    taken: set[int] = set()
    hits = 0
    for segment in predicted:
        scores = [temporal_iou(segment, other) if segment.label == other.label else 0.0 for other in truth]
        best = int(np.argmax(scores)) if scores else -1
        if best >= 0 and scores[best] >= min_iou and best not in taken:
            taken.add(best)
            hits += 1
    return SegmentCounts(hits, len(predicted) - hits, len(truth) - len(taken))


def edit_score(predicted: Sequence[Segment], truth: Sequence[Segment]) -> float:
    """Are the right actions there in the right order, whatever their length? 1 minus the Levenshtein distance of the
    two sequences of labels, divided by the length of the longer one; 1 if both are empty."""
    longest = max(len(predicted), len(truth))
    distance = _levenshtein([segment.label for segment in predicted], [segment.label for segment in truth])
    return 1.0 - distance / longest if longest else 1.0


def _levenshtein(a: Sequence[str], b: Sequence[str]) -> int:
    """Insertions, deletions and replacements that turn one into the other; one row of the table at a time."""
    row = list(range(len(b) + 1))
    for i, ours in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, theirs in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (ours != theirs))
    return row[-1]


def frame_labels(segments: Sequence[Segment], sample_fps: float, end_seconds: float) -> list[str | None]:
    """The label at each grid frame of a video that ends there; None between segments."""
    times = np.array(grid_seconds(grid_range(sample_fps, 0.0, end_seconds), sample_fps))
    labels: list[str | None] = [None] * len(times)
    for segment in segments:
        first, stop = np.searchsorted(times, [segment.start_seconds - 1e-6, segment.end_seconds - 1e-6])
        labels[first:stop] = [segment.label] * int(stop - first)
    return labels


@dataclass(frozen=True)
class TimelineAgreement:
    """Agreement over one video, or, added up, over several. ``+`` joins them."""

    counts: dict[float, SegmentCounts] = field(default_factory=lambda: {iou: SegmentCounts() for iou in _MIN_IOUS})
    """Segment counts at each least IoU; added over videos before F1 is taken."""
    edit_sum: float = 0.0
    num_videos: int = 0
    right_frames: int = 0
    num_frames: int = 0

    def __add__(self, other: TimelineAgreement) -> TimelineAgreement:
        return TimelineAgreement(
            {iou: counts + other.counts[iou] for iou, counts in self.counts.items()},
            self.edit_sum + other.edit_sum,
            self.num_videos + other.num_videos,
            self.right_frames + other.right_frames,
            self.num_frames + other.num_frames,
        )

    def summary(self) -> dict[str, float]:
        """``f1_10``, ``f1_25``, ``f1_50``; ``edit``, the mean over videos; ``frame_accuracy`` over all frames."""
        scores = {f"f1_{round(100 * iou)}": counts.f1 for iou, counts in self.counts.items()}
        edit = self.edit_sum / self.num_videos if self.num_videos else 1.0
        frames = self.right_frames / self.num_frames if self.num_frames else 1.0
        return scores | {"edit": edit, "frame_accuracy": frames}


def compare_timelines(
    predicted: Sequence[Segment], truth: Sequence[Segment], sample_fps: float, end_seconds: float
) -> TimelineAgreement:
    """All of the above for one video, whose segments are in order and apart."""
    ours, theirs = (frame_labels(segments, sample_fps, end_seconds) for segments in (predicted, truth))
    return TimelineAgreement(
        {iou: match_segments(predicted, truth, iou) for iou in _MIN_IOUS},
        edit_score(predicted, truth),
        1,
        sum(a == b for a, b in zip(ours, theirs, strict=True)),
        len(ours),
    )
