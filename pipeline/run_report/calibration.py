"""Does a score mean what it says: of the answers given with 80 %, are 80 % right?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NUM_BINS = 15


@dataclass(frozen=True)
class Bin:
    """Answers whose score lies in ``(low, high]``. Shares are 0 to 1, both 0 where there is no answer."""

    low: float
    high: float
    count: int
    mean_score: float
    accuracy: float


def calibration_bins(scores: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """Answers sorted by their score into equal bins over 0 to 1 (Guo et al., "On Calibration of Modern Neural
    Networks", 2017)."""
    bins = []
    for place in range(NUM_BINS):
        low, high = place / NUM_BINS, (place + 1) / NUM_BINS
        inside = [(s, r) for s, r in zip(scores, right, strict=True) if low < s <= high or (place == 0 and s <= 0)]
        count = len(inside)
        mean_score, accuracy = (sum(values) / count for values in zip(*inside, strict=True)) if inside else (0.0, 0.0)
        bins.append(Bin(low, high, count, mean_score, accuracy))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """ECE: the mean distance of score and accuracy over the bins, each counting as often as it has answers."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.accuracy - part.mean_score) for part in bins) / max(1, total)
