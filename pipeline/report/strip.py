"""Scores over time, thinned out to what a picture can show, in memory that does not grow with the video."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FIRST_BIN_SECONDS = 0.05


class ScoreStrip:
    """The mean score of each label in up to ``max_bins`` equal stretches of time. Whenever the video outgrows them, two
    neighbours become one, so that they are as fine as the length allows, within a factor of two."""

    def __init__(self, max_bins: int = 600) -> None:
        self._max_bins = max_bins
        self._bin_seconds = _FIRST_BIN_SECONDS
        self._bins: dict[int, tuple[NDArray[np.float64], int]] = {}  # sums [K] and their number

    def add(self, time_seconds: float, scores: NDArray[np.float32]) -> None:
        """Scores float32 ``[K]`` at a time."""
        while time_seconds >= self._max_bins * self._bin_seconds:
            self._halve()
        self._put(int(time_seconds / self._bin_seconds), scores.astype(np.float64), 1)

    def _halve(self) -> None:
        bins, self._bins = self._bins, {}
        self._bin_seconds *= 2
        for index, (sums, count) in bins.items():
            self._put(index // 2, sums, count)

    def _put(self, index: int, sums: NDArray[np.float64], count: int) -> None:
        before = self._bins.get(index)
        self._bins[index] = (sums, count) if before is None else (before[0] + sums, before[1] + count)

    @property
    def times_seconds(self) -> list[float]:
        """The middle of each stretch that has scores, in order."""
        return [(index + 0.5) * self._bin_seconds for index in sorted(self._bins)]

    def means(self) -> NDArray[np.float64]:
        """``[len(times_seconds), K]``"""
        return np.array([self._bins[index][0] / self._bins[index][1] for index in sorted(self._bins)])

    def top_labels(self, count: int) -> list[int]:
        """The labels that score highest at any time, best first."""
        return np.argsort(-self.means().max(axis=0), kind="stable")[:count].tolist() if self._bins else []
