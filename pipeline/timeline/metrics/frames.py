"""Agreement frame by frame: accuracy, and average precision of each label against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.timeline.labelled import Span
from pipeline.timeline.metrics.average_precision import RankedFrames, finite_scores
from pipeline.timeline.metrics.pairs import VideoPair


def frame_average_precision(scores: ArrayLike, targets: ArrayLike, *, calibrated: bool = False) -> NDArray[np.float64]:
    """Average precision of each label over frames, ``[K]``; NaN for a label that no frame has. The mean over the
    others, background left out, is the per-frame mAP of online detection.

    Args:
        scores: ``[T, K]``, of any scale. Equal scores of a label share a rank.
        targets: bool or 0 and 1, ``[T, K]``; a frame may have several labels, or none.
        calibrated: count negatives as if there were as many as positives (De Geest et al., ECCV 2016).

    Raises:
        UserError: a score is not finite.
        ValueError: the shapes differ.
    """
    ranked, is_true = finite_scores(scores, "scores of frames"), np.asarray(targets, bool)
    if ranked.shape != is_true.shape or ranked.ndim != 2:
        raise ValueError(f"scores and targets are [T, K] alike, got {ranked.shape} and {is_true.shape}")
    videos, once = np.zeros(len(ranked), np.intp), np.ones((1, 1))
    columns = zip(ranked.T, is_true.T.astype(np.float64), strict=True)
    figures = [RankedFrames(score, true, 1 - true, videos, 1).average_precision(once) for score, true in columns]
    return np.array([figure[int(calibrated)][0] for figure in figures])


@dataclass(frozen=True)
class _FrameCounts:
    """Right frames of one video, by its labels at each frame: all of them must be right, and no other there."""

    num_right: int
    num_frames: int
    num_right_in_action: int
    """Right frames among those that are not background in truth."""
    num_in_action: int


def count_frames(pair: VideoPair) -> _FrameCounts:
    """Compare the labels of each grid frame of a video."""
    labels = sorted({span.label for span in (*pair.truth, *pair.predicted)})
    truth, found = ([is_covered(pair, spans, label) for label in labels] for spans in (pair.truth, pair.predicted))
    is_right, is_action = np.ones(pair.num_frames, bool), np.zeros(pair.num_frames, bool)
    for right, ours in zip(truth, found, strict=True):
        is_right &= right == ours
        is_action |= right
    is_right, is_action = (at[pair.known_frames] for at in (is_right, is_action))
    return _FrameCounts(int(is_right.sum()), len(is_right), int(is_right[is_action].sum()), int(is_action.sum()))


def rank_frames(pairs: Sequence[VideoPair], label: str) -> RankedFrames:
    """Rank all frames by their score for a label: that of the pair's ``frame_scores``, or else the greatest score of
    the predicted spans of that label that cover the frame, and below all others where none does.

    Raises:
        UserError: a score is not finite.
    """
    groups = [_groups(pair, label) for pair in pairs]
    scores, positives, negatives = (np.concatenate(column) for column in zip(*groups, strict=True))
    finite_scores(scores[scores != -np.inf], f"predictions of {label!r}")
    videos = np.repeat(np.arange(len(pairs)), [len(group[0]) for group in groups])
    return RankedFrames(scores, positives, negatives, videos, len(pairs))


def _groups(pair: VideoPair, label: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The distinct scores of a video's frames; how many frames of each have the label, and how many have not."""
    scores = _scores_of_spans(pair, label)
    if pair.frame_scores is not None:
        scores = np.asarray(pair.frame_scores[label], np.float64)
    distinct, places = np.unique(scores[pair.known_frames], return_inverse=True)
    places = places.reshape(-1)  # numpy 2.0 gives it the shape of its input
    is_true = is_covered(pair, pair.truth, label)[pair.known_frames]
    totals, positives = (
        np.bincount(at, minlength=len(distinct)).astype(np.float64) for at in (places, places[is_true])
    )
    return distinct, positives, totals - positives


def _scores_of_spans(pair: VideoPair, label: str) -> NDArray[np.float64]:
    scores = np.full(pair.num_frames, -np.inf)
    for span in pair.predicted:
        if span.label == label:
            frames = pair.frames_of(span.start_seconds, span.end_seconds)
            scores[frames] = np.maximum(scores[frames], span.score)
    return scores


def is_covered(pair: VideoPair, spans: Sequence[Span], label: str) -> NDArray[np.bool_]:
    """Return bool ``[num_frames]``: true at the grid frames at which a span of the label lies."""
    is_covered = np.zeros(pair.num_frames, bool)
    for span in spans:
        if span.label == label:
            is_covered[pair.frames_of(span.start_seconds, span.end_seconds)] = True
    return is_covered
