"""Numbers by which scores become segments, chosen on labelled videos: a threshold a label, the shortest segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TimelineNumbers
from pipeline.timeline.labelled import LabelledSpan
from pipeline.timeline.metrics.segments import SegmentCounts, match_segments
from pipeline.timeline.runs import RunBuilder, runs_of_frames
from pipeline.timeline.scores import FloatArray

_THRESHOLDS = np.arange(2, 49) / 50
_AS_GOOD = 0.005
"""A difference in F1 that a few videos cannot tell from chance."""
_MIN_FRAMES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000)
_OVERLAPS = (0.1, 0.25, 0.5)
_SHARE_OF_SHORTEST = 0.75
"""Chosen on parts of the training data of two sets: benchmarks/LOG.md."""


@dataclass(frozen=True)
class ScoredVideo:
    """A video's scores and the truth, at its grid frames."""

    scores: FloatArray
    """Probabilities ``[G, K]``."""
    truth: NDArray[np.bool_]
    """``[G, K]``"""
    is_known: NDArray[np.bool_]
    """``[G]``: false where nobody has labelled."""


def choose_numbers(
    videos: Sequence[ScoredVideo], sample_fps: float, background: int | None = None
) -> TimelineNumbers | None:
    """Choose the numbers that are best for videos that a model was not trained on; None without any.

    The threshold of a label is the middle of those whose F1 over grid frames is the best, or as good; 0.5 for a label
    that is not there. Then the shortest segment: of lengths up to the median of the true segments the one with the best
    F1 of segments, the mean over overlaps of 10, 25 and 50 %, counted over all videos; of equal ones the least.

    Args:
        videos: labelled, with the model's scores.
        sample_fps: grid frames a second.
        background: place of the label without segments, where there is one label at a time; None: labels may overlap.
    """
    videos = [video for video in videos if video.is_known.any()]
    if not videos:
        return None
    thresholds = () if background is not None else _thresholds(videos)
    found = [_labelled(video.scores, thresholds) for video in videos]
    true = [list(_true_segments(video, background)) for video in videos]
    lengths = [span.end_seconds - span.start_seconds for spans in true for span in spans]
    longest = float(np.median(lengths)) if lengths else 0.0
    counts = [count for count in _MIN_FRAMES if count <= longest]
    best = max(counts, key=lambda count: _segment_f1(videos, found, true, count, background))
    return TimelineNumbers(thresholds, best / sample_fps, len(videos))


def numbers_by_length(lengths_seconds: Sequence[float]) -> TimelineNumbers | None:
    """Return numbers for a model that no video is left to choose for, by the lengths of what it has learned from: a
    segment has three quarters of what nineteen of twenty of these have at least. None without any."""
    if not lengths_seconds:
        return None
    shortest = float(np.quantile(lengths_seconds, 0.05, method="higher"))
    return TimelineNumbers(min_seconds=round(_SHARE_OF_SHORTEST * shortest, 3))


def _thresholds(videos: Sequence[ScoredVideo]) -> tuple[float, ...]:
    scores = np.concatenate([video.scores[video.is_known] for video in videos])
    truth = np.concatenate([video.truth[video.is_known] for video in videos])
    return tuple(_threshold(*columns) for columns in zip(scores.T, truth.T, strict=True))


def _threshold(scores: FloatArray, truth: NDArray[np.bool_]) -> float:
    if not truth.any():
        return 0.5
    # Numbers of frames at or above each threshold: all, and those where the label is.
    num_found, num_right = (len(some) - np.searchsorted(np.sort(some), _THRESHOLDS) for some in (scores, scores[truth]))
    f1 = 2 * num_right / (num_found + truth.sum())
    return float(np.median(_THRESHOLDS[f1 >= f1.max() - _AS_GOOD]))


def _labelled(scores: FloatArray, thresholds: Sequence[float]) -> list[tuple[int, NDArray[np.int64], FloatArray]]:
    """Tracks of a video: the first label, a label ``[G]`` for each frame counted from it, and their scores. One track
    for all labels of which the best counts, or one for each label, which is 0 where it is there and else 1."""
    if not thresholds:
        return [(0, scores.argmax(axis=1), scores)]
    return [
        (place, (scores[:, place] < threshold).astype(np.int64), scores[:, place : place + 1])
        for place, threshold in enumerate(thresholds)
    ]


def _segment_f1(
    videos: Sequence[ScoredVideo],
    found: Sequence[list[tuple[int, NDArray[np.int64], FloatArray]]],
    true: Sequence[list[LabelledSpan]],
    min_frames: int,
    background: int | None,
) -> float:
    totals = [SegmentCounts()] * len(_OVERLAPS)
    for tracks, wanted in zip(found, true, strict=True):
        ours = [span for track in tracks for span in _found_segments(*track, min_frames, background)]
        totals = [
            total + match_segments(ours, wanted, overlap) for total, overlap in zip(totals, _OVERLAPS, strict=True)
        ]
    return float(np.mean([total.f1 for total in totals]))


def _found_segments(
    first: int, labels: NDArray[np.int64], scores: FloatArray, min_frames: int, background: int | None
) -> Iterator[LabelledSpan]:
    builder = RunBuilder(min_frames)
    final = [run for whole in runs_of_frames(labels, scores) for run in builder.push(whole)]
    for run in final + builder.finish(len(labels)):
        if run.label < scores.shape[1] and run.label != background:
            yield LabelledSpan(run.start, run.stop, str(first + run.label))


def _true_segments(video: ScoredVideo, background: int | None) -> Iterator[LabelledSpan]:
    for place in range(video.truth.shape[1]):
        if place != background:
            edges = np.flatnonzero(np.diff(video.truth[:, place].astype(np.int8), prepend=0, append=0))
            for start, stop in edges.reshape(-1, 2).tolist():
                yield LabelledSpan(start, stop, str(place))
