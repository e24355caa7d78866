"""Average precision over weighted videos: each row of ``weights`` ``[R, V]`` says how often each video counts.

A row of ones is the plain figure; rows of counts are resamples of a bootstrap. What is sorted or matched once serves
them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import UserError

Weights = NDArray[np.float64]
"""``[R, V]``: times that each of V videos counts, in each of R resamples."""

_CHUNK_NUMBERS = 4_000_000  # numbers that a step over some resamples may hold
_MAX_LEVELS = 1024  # of scores, in resamples


def finite_scores(scores: ArrayLike, where: str) -> NDArray[np.float64]:
    """Return scores as float64; refuse what cannot be ranked.

    Raises:
        UserError: a score is NaN or infinite.
    """
    array = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(array).all():
        raise UserError(f"{where}: a score is not a finite number, so that it has no rank; check what wrote it")
    return array


def mean_over_labels(values: Sequence[NDArray[np.float64]], num_resamples: int) -> NDArray[np.float64]:
    """Mean of rows ``[R]``, a label each, over the labels that a resample has; NaN where it has none."""
    if not values:
        return np.full(num_resamples, np.nan)
    table = np.stack(values)
    return ratio(np.nansum(table, axis=0), np.isfinite(table).sum(axis=0))


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Quotient as float64; NaN where the denominator is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    quotient = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


@dataclass(frozen=True)
class RankedDetections:
    """The predictions of one label over all videos, best first, judged by I criteria."""

    is_right: NDArray[np.bool_]
    """``[I, N]``"""
    videos: NDArray[np.intp]
    """``[N]``: index of the video."""
    num_truth: NDArray[np.float64]
    """``[V]``: true instances in each video."""

    def average_precision(self, weights: Weights) -> NDArray[np.float64]:
        """Area below the interpolated precision over recall, ``[I, R]``; NaN where nothing is true."""
        values = np.empty((len(self.is_right), len(weights)))
        for rows in row_chunks(len(weights), len(self.videos)):
            counts = weights[rows][:, self.videos]
            seen, total = counts.cumsum(axis=1), weights[rows] @ self.num_truth
            for criterion, is_right in enumerate(self.is_right):
                places = np.flatnonzero(is_right)  # precision is highest where a prediction is right
                hits = counts[:, places]
                precision = np.nan_to_num(ratio(hits.cumsum(axis=1), seen[:, places]))
                interpolated = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                values[criterion, rows] = ratio((hits * interpolated).sum(axis=1), total)
        return values


def row_chunks(num_rows: int, row_length: int) -> Iterator[slice]:
    """Cut rows into slices that hold a few million numbers each."""
    size = max(1, _CHUNK_NUMBERS // max(1, row_length))
    return (slice(start, start + size) for start in range(0, num_rows, size))


class RankedFrames:
    """The frames of all videos, ranked by their score for one label; equal scores share a rank.

    Args:
        scores: ``[N]``, of N groups of frames.
        positives: ``[N]`` frames of the group that have the label.
        negatives: ``[N]`` frames of the group that have not.
        videos: ``[N]`` index of the group's video.
        num_videos: V.
    """

    def __init__(
        self,
        scores: NDArray[np.float64],
        positives: NDArray[np.float64],
        negatives: NDArray[np.float64],
        videos: NDArray[np.intp],
        num_videos: int,
    ) -> None:
        distinct, levels = np.unique(-scores, return_inverse=True)
        self._num_levels, self._levels = len(distinct), levels.reshape(-1)
        self._positives, self._negatives = positives, negatives
        self._videos, self._num_videos = videos, num_videos

    def average_precision(self, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Average precision ``[R]``, and calibrated average precision ``[R]``; NaN where no frame has the label.

        The first is the mean over positive frames of the precision down to their score (not interpolated). The second
        counts negatives as if there were as many as positives: precision is ``w TP / (w TP + FP)`` with w the negatives
        for one positive (De Geest et al., "Online Action Detection", ECCV 2016). One row of weights is exact; of more,
        which give an interval, scores are ranked in 1,024 levels at most.
        """
        if not self._num_levels:
            return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        right = self._by_level(self._positives, weights)
        hits, alarms = right.cumsum(axis=1), self._by_level(self._negatives, weights).cumsum(axis=1)
        total = hits[:, -1:]
        per_positive = ratio(alarms[:, -1:], total)
        calibrated = np.divide(alarms, per_positive, out=np.zeros_like(alarms), where=per_positive > 0)
        plain, balanced = (
            ratio(np.nansum(right * ratio(hits, hits + false), axis=1), total[:, 0]) for false in (alarms, calibrated)
        )
        return plain, balanced

    def _by_level(self, counts: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
        """``[R, levels]``: weighted counts at each score, the highest first."""
        if len(weights) == 1:
            counts = counts * weights[0, self._videos]
            return np.bincount(self._levels, counts, self._num_levels)[None].astype(np.float64)
        num_levels = min(self._num_levels, _MAX_LEVELS)
        places = self._videos * num_levels + self._levels * num_levels // self._num_levels
        table = np.bincount(places, counts, self._num_videos * num_levels)
        return weights @ table.reshape(self._num_videos, num_levels)
