"""Percentiles of latencies in memory that does not grow: a histogram whose bins are equally wide on a logarithmic
scale."""

from __future__ import annotations

import math

import numpy as np

_LEAST_SECONDS, _MOST_SECONDS, _GROWTH = 1e-5, 1e4, 1.02


class LatencyHistogram:
    """Counts latencies from 10 microseconds to 10,000 seconds; what lies outside counts as that. A percentile is wrong
    by 1 % of itself at most."""

    def __init__(self) -> None:
        self._counts = np.zeros(math.ceil(math.log(_MOST_SECONDS / _LEAST_SECONDS) / math.log(_GROWTH)) + 1, int)
        self.count = 0

    def add(self, seconds: float) -> None:
        """One more latency."""
        clamped = min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS)
        self._counts[int(math.log(clamped / _LEAST_SECONDS) / math.log(_GROWTH))] += 1
        self.count += 1

    def percentile_seconds(self, percent: float) -> float:
        """The least latency that at least ``percent`` of all do not exceed (nearest rank); 0 if there are none."""
        rank = max(1, math.ceil(self.count * percent / 100))
        place = int(np.searchsorted(self._counts.cumsum(), rank))
        return float(_LEAST_SECONDS * _GROWTH ** (place + 0.5)) if self.count else 0.0  # the bin's middle

    def milliseconds(self) -> dict[str, float]:
        """``p50``, ``p95`` and ``p99``; empty if there are none."""
        if not self.count:
            return {}
        return {f"p{percent}": round(1e3 * self.percentile_seconds(percent), 3) for percent in (50, 95, 99)}
