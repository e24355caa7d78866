"""Figures for use while it happens: how late a true start is answered, how many are missed, how many answers are
false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline.metrics.average_precision import Weights, ratio, row_chunks
from pipeline.timeline.metrics.pairs import VideoPair
from pipeline.timeline.metrics.segments import bounds


@dataclass(frozen=True)
class _Onsets:
    """Answers to the true segments of V videos.

    A predicted span is an answer that lasts from its start to its end; one of no length, at its moment. It answers a
    true segment of its label if any of it lies in ``[start, end + late_seconds)`` of that segment. A segment that some
    answer meets is found, and the delay is the time from its start to the first moment of an answer there: 0 if one
    was already given. An answer that meets no true segment of its label is a false alarm.
    """

    delays_seconds: NDArray[np.float64]
    """``[F]``, of the segments that were found."""
    videos: NDArray[np.intp]
    """``[F]``: index of the video of each."""
    num_truth: NDArray[np.float64]
    """``[V]``"""
    num_false_alarms: NDArray[np.float64]
    """``[V]``"""
    hours: NDArray[np.float64]
    """``[V]``: duration of what is labelled of each video."""

    def figures(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """Share found, delay (mean and median) and false alarms an hour, each ``[R]``; NaN where none can be had."""
        num_videos = len(self.num_truth)
        num_found = weights @ np.bincount(self.videos, minlength=num_videos)
        return {
            "found_share": ratio(num_found, weights @ self.num_truth),
            "delay_mean_seconds": ratio(weights @ np.bincount(self.videos, self.delays_seconds, num_videos), num_found),
            "delay_median_seconds": self._median_delay(weights),
            "false_alarms_per_hour": ratio(weights @ self.num_false_alarms, weights @ self.hours),
        }

    def _median_delay(self, weights: Weights) -> NDArray[np.float64]:
        order = self.delays_seconds.argsort(kind="stable")
        delays, videos = self.delays_seconds[order], self.videos[order]
        parts = [_median(delays, weights[rows][:, videos]) for rows in row_chunks(len(weights), len(order))]
        return np.concatenate([np.empty(0), *parts])


def _median(values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of sorted values that count several times or not at all, ``[R]``: of two in the middle, their mean."""
    if not len(values):
        return np.full(len(counts), np.nan)
    reached = counts.cumsum(axis=1)
    half = reached[:, -1:] / 2
    low, high = (reached >= half).argmax(axis=1), (reached > half).argmax(axis=1)
    return np.where(half[:, 0] > 0, (values[low] + values[high]) / 2, np.nan)


def find_onsets(pairs: Sequence[VideoPair], late_seconds: float = 0.0, label: str | None = None) -> _Onsets:
    """Look for the answers to the true segments of each video; of one label, or of all."""
    found = [_answers(pair, late_seconds, label) for pair in pairs]
    delays = [first[np.isfinite(first)] for first, _ in found]
    return _Onsets(
        np.concatenate(delays),
        np.repeat(np.arange(len(pairs)), [len(times) for times in delays]),
        np.array([len(first) for first, _ in found], np.float64),
        np.array([num_false for _, num_false in found], np.float64),
        np.array([pair.known_seconds / 3600 for pair in pairs]),
    )


def _answers(pair: VideoPair, late_seconds: float, label: str | None) -> tuple[NDArray[np.float64], int]:
    """Delay of the first answer to each true segment, infinite without one; and the number of false alarms."""
    first, num_false = [np.empty(0)], 0
    labels = {span.label for span in (*pair.truth, *pair.predicted)} if label is None else {label}
    for each in sorted(labels):
        truth, found = (bounds([s for s in side if s.label == each]) for side in (pair.truth, pair.predicted))
        starts = np.maximum(truth[:, None, 0], found[None, :, 0])
        ends = np.minimum(truth[:, None, 1] + late_seconds, found[None, :, 1])
        is_point = (found[:, 0] == found[:, 1])[None] & (truth[:, None, 0] <= found[None, :, 0])
        meets = (starts < ends) | (is_point & (starts < truth[:, None, 1] + late_seconds))
        delays = np.where(meets, starts - truth[:, None, 0], np.inf)
        first.append(delays.min(axis=1, initial=np.inf))
        num_false += int((~meets.any(axis=0)).sum())
    return np.concatenate(first), num_false
