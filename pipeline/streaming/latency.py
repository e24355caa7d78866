"""Percentiles of latencies in memory that does not grow: a histogram whose bins are equally wide on a logarithmic
scale."""

from __future__ import annotations

import math

import numpy as np

BOUNDS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Up to which ``num_within`` counts."""
_LEAST_SECONDS, _MOST_SECONDS, _GROWTH = 1e-5, 1e4, 1.02


class LatencyHistogram:
    """Counts latencies from 10 microseconds to 10,000 seconds; what lies outside counts as that. A percentile is wrong
    by 1 % of itself at most."""

    def __init__(self) -> None:
        self._counts = np.zeros(math.ceil(math.log(_MOST_SECONDS / _LEAST_SECONDS) / math.log(_GROWTH)) + 1, int)
        self.count, self.total_seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        """One more latency."""
        clamped = min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS)
        self._counts[_place(clamped)] += 1
        self.count += 1
        self.total_seconds += seconds

    def percentile_seconds(self, percent: float) -> float:
        """The least latency that at least ``percent`` of all do not exceed (nearest rank); 0 if there are none."""
        rank = max(1, math.ceil(self.count * percent / 100))
        place = int(np.searchsorted(self._counts.cumsum(), rank))
        return float(_LEAST_SECONDS * _GROWTH ** (place + 0.5)) if self.count else 0.0  # the bin's middle

    def num_within(self) -> tuple[int, ...]:
        """Numbers of latencies up to each of ``BOUNDS_SECONDS``, give or take those within 2 % of it; then of all."""
        cumulated = self._counts.cumsum()
        return (*(int(cumulated[_place(bound)]) for bound in BOUNDS_SECONDS), self.count)

    def milliseconds(self) -> dict[str, float]:
        """``p50``, ``p95`` and ``p99``; empty if there are none."""
        if not self.count:
            return {}
        return {f"p{percent}": round(1e3 * self.percentile_seconds(percent), 3) for percent in (50, 95, 99)}


def _place(seconds: float) -> int:
    """The bin of a latency within the limits."""
    return int(math.log(seconds / _LEAST_SECONDS) / math.log(_GROWTH))
