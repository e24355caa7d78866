"""Detection and spotting: predictions of one label in order of score, each right or wrong.

Detection as ActivityNet's evaluation does it (Caba Heilbron et al., CVPR 2015), spotting as E2E-Spot's (Hong et al.,
ECCV 2022). Both interpolate precision, and take the mean over the labels that occur in the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline.metrics.average_precision import RankedDetections, finite_scores
from pipeline.timeline.metrics.pairs import VideoPair
from pipeline.timeline.metrics.segments import bounds, temporal_iou

_Flags = NDArray[np.bool_]
_Judge = Callable[[NDArray[np.float64], NDArray[np.float64]], _Flags]
"""Bounds of a video's predictions ``[N, 2]``, best first, and of its truth ``[M, 2]`` -> right or not ``[I, N]``."""

_TOLERANCE_SECONDS = 1e-9  # 1.3 - 1.2 is more than 0.1


def rank_detections(pairs: Sequence[VideoPair], label: str, min_ious: Sequence[float]) -> RankedDetections:
    """Judge the predictions of a label at each least IoU.

    In order of score over all videos, of equal scores the later first, each prediction takes the true segment of its
    video and label that has the largest IoU among those not yet taken, of equal ones the later: as ActivityNet's code
    does where numpy's default sort keeps the order, which depends on the processor.
    """
    thresholds = np.asarray(min_ious, np.float64)
    return _rank(
        pairs,
        label,
        lambda scores: scores.argsort(kind="stable")[::-1],
        lambda ours, theirs: _overlap(ours, theirs, thresholds),
    )


def _overlap(predicted: NDArray[np.float64], truth: NDArray[np.float64], thresholds: NDArray[np.float64]) -> _Flags:
    is_free = np.ones((len(thresholds), len(truth)), bool)
    is_right = np.zeros((len(thresholds), len(predicted)), bool)
    for place, overlaps in enumerate(temporal_iou(predicted, truth)):
        for index in overlaps.argsort(kind="stable")[::-1]:
            if overlaps[index] < thresholds.min():
                break
            takes = is_free[:, index] & ~is_right[:, place] & ~(overlaps[index] < thresholds)
            is_right[takes, place], is_free[takes, index] = True, False
    return is_right


def rank_spots(
    pairs: Sequence[VideoPair], label: str, tolerances_seconds: Sequence[float], sample_fps: float | None = None
) -> RankedDetections:
    """Judge the starts of a label's predictions at each tolerance.

    In order of score over all videos, equal scores in their order, each prediction takes the closest true start of its
    video and label among those not yet taken, if that is at most the tolerance away. True starts at the same moment
    can be found once, and count each.

    Args:
        pairs: the videos.
        label: the label.
        tolerances_seconds: largest distances, inclusive.
        sample_fps: a rate to round times to, as for models that answer at each frame; None: exact times.
    """
    tolerances = np.asarray(tolerances_seconds, np.float64) + _TOLERANCE_SECONDS
    return _rank(
        pairs,
        label,
        lambda scores: (-scores).argsort(kind="stable"),
        lambda ours, theirs: _nearness(_starts(ours, sample_fps), _starts(theirs, sample_fps), tolerances),
    )


def _starts(times: NDArray[np.float64], sample_fps: float | None) -> NDArray[np.float64]:
    seconds = times[:, 0]
    return seconds if sample_fps is None else (seconds * sample_fps).round() / sample_fps


def _nearness(predicted: NDArray[np.float64], truth: NDArray[np.float64], tolerances: NDArray[np.float64]) -> _Flags:
    moments = np.array(list(dict.fromkeys(truth.tolist())))
    is_right = np.zeros((len(tolerances), len(predicted)), bool)
    for criterion, tolerance in enumerate(tolerances):
        free = moments
        for place, seconds in enumerate(predicted):
            distances = abs(free - seconds)
            if len(free) and distances.min() <= tolerance:
                is_right[criterion, place] = True
                free = np.delete(free, distances.argmin())
    return is_right


def _rank(
    pairs: Sequence[VideoPair], label: str, order: Callable[[NDArray[np.float64]], NDArray[np.intp]], judge: _Judge
) -> RankedDetections:
    """Sorts a label's predictions over all videos, then judges those of each video among themselves."""
    found = [(index, span) for index, pair in enumerate(pairs) for span in pair.predicted if span.label == label]
    ranks = order(finite_scores([span.score for _, span in found], f"predictions of {label!r}"))
    videos = np.array([index for index, _ in found], np.intp)[ranks]
    times = bounds([span for _, span in found])[ranks]
    truth = [bounds([span for span in pair.truth if span.label == label]) for pair in pairs]
    num_criteria = len(judge(np.empty((0, 2)), np.empty((0, 2))))
    is_right = np.zeros((num_criteria, len(found)), bool)
    for index in np.unique(videos):
        if len(truth[index]):
            is_right[:, videos == index] = judge(times[videos == index], truth[index])
    return RankedDetections(is_right, videos, np.array([len(true) for true in truth], np.float64))
