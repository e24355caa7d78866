"""Scores of windows -> scores of grid frames -> labelled segments, and how well segments agree. Pure functions.

Both steps run as the video does: a grid frame's score is final once no later window can cover it, and a segment is
final once its label has changed, so memory does not grow with the length of the video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Segment
from pipeline.config import TimelineConfig
from pipeline.sampling import Window, grid_seconds

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class WindowScores:
    """Class probabilities of one window."""

    window: Window
    probabilities: FloatArray
    """float32 ``[K]``, sum 1."""


def frame_scores(windows: Iterable[WindowScores]) -> Iterator[tuple[int, FloatArray]]:
    """Probabilities of each grid frame: the mean over the windows that cover it.

    Args:
        windows: in the order of their starts, together covering every frame from the first one's start.

    Yields:
        Grid index and float32 ``[K]``, in order, as soon as no later window can cover the frame.
    """
    sums: deque[FloatArray] = deque()
    counts: deque[int] = deque()
    first = 0
    for scored in windows:
        if not sums:
            first = max(first, scored.window.start)
        while sums and first < scored.window.start:
            yield first, sums.popleft() / np.float32(counts.popleft())
            first += 1
        for place in range(scored.window.start - first, scored.window.stop - first):
            if place == len(sums):
                sums.append(np.zeros_like(scored.probabilities))
                counts.append(0)
            sums[place] = sums[place] + scored.probabilities
            counts[place] += 1
    while sums:
        yield first, sums.popleft() / np.float32(counts.popleft())
        first += 1


@dataclass
class _Run:
    """Consecutive grid frames with one label."""

    label: int
    start: int
    sums: FloatArray
    length: int = 1

    def mean(self) -> FloatArray:
        return self.sums / np.float32(self.length)

    def extend(self, other: _Run) -> None:
        self.sums = self.sums + other.sums
        self.length += other.length


def _runs(scores: Iterable[tuple[int, FloatArray]]) -> Iterator[_Run]:
    current: _Run | None = None
    for index, probabilities in scores:
        run = _Run(int(probabilities.argmax()), index, probabilities)
        if current is None:
            current = run
        elif run.label == current.label:
            current.extend(run)
        else:
            yield current
            current = run
    if current is not None:
        yield current


def _absorb_short(runs: Iterable[_Run], min_frames: int) -> Iterator[_Run]:
    """Gives each run shorter than ``min_frames`` to the neighbour whose label it scores higher."""
    held: _Run | None = None
    pending: _Run | None = None  # short, waiting to see what follows
    for run in runs:
        if pending is not None:
            likelier_before = held is not None and pending.mean()[held.label] >= pending.mean()[run.label]
            if held is not None and likelier_before:
                held.extend(pending)
            else:
                run = _Run(run.label, pending.start, pending.sums + run.sums, pending.length + run.length)
            pending = None
        if held is not None and run.label == held.label:
            held.extend(run)
        elif run.length < min_frames:
            pending = run
        else:
            if held is not None:
                yield held
            held = run
    if pending is not None and held is not None:
        held.extend(pending)
    elif pending is not None:
        held = pending
    if held is not None:
        yield held


def merge_segments(
    windows: Iterable[WindowScores],
    labels: Sequence[str],
    sample_fps: float,
    end_seconds: float,
    config: TimelineConfig | None = None,
) -> Iterator[Segment]:
    """Segments of a video from the scores of its windows.

    Args:
        windows: in order.
        labels: ``[K]`` class names.
        sample_fps: grid frames per second.
        end_seconds: where the video ends; the last grid frame lasts until there.
        config: minimum length and background label.
    """
    config = config or TimelineConfig()
    min_frames = max(1, round(config.min_seconds * sample_fps))
    for run in _absorb_short(_runs(frame_scores(windows)), min_frames):
        if labels[run.label] != config.background_label:
            start, stop = grid_seconds([run.start, run.start + run.length], sample_fps)
            yield Segment(start, min(stop, end_seconds), labels[run.label], float(run.mean()[run.label]))


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
    """Segmental counts as in Lea et al., "Temporal Convolutional Networks for Action Segmentation", CVPR 2017: each
    prediction takes the overlapping true segment of its label with the largest IoU; a true segment counts once."""
    taken: set[int] = set()
    hits = 0
    for segment in predicted:
        scores = [temporal_iou(segment, other) if segment.label == other.label else 0.0 for other in truth]
        best = int(np.argmax(scores)) if scores else -1
        if best >= 0 and scores[best] >= min_iou and best not in taken:
            taken.add(best)
            hits += 1
    return SegmentCounts(hits, len(predicted) - hits, len(truth) - len(taken))
