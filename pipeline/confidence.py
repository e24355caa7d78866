"""Confidence intervals of shares and of means of bounded values, of 95 % unless ``z`` says otherwise; a paired test."""

from __future__ import annotations

import math

_Z_95 = 1.96


def wilson_interval(successes: float, trials: int, z: float = _Z_95) -> tuple[float, float]:
    """Confidence interval of a share (Wilson, "Probable inference", JASA 1927); z 1.96 is 95 %."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (centre - spread) / (1 + z * z / trials), (centre + spread) / (1 + z * z / trials)


def mcnemar_p_value(only_first: int, only_second: int, *, one_sided: bool = False) -> float:
    """Probability of so uneven a split, or one more uneven, of the items that exactly one of two models has right, if
    both are equally good: exact, and two-sided unless the question is whether the first is better (McNemar, "Note on
    the sampling error", 1947)."""
    total, most = only_first + only_second, only_first if one_sided else max(only_first, only_second)
    tail: float = sum(math.comb(total, k) for k in range(most, total + 1)) / 2**total
    return tail if one_sided else min(1.0, 2 * tail)


def with_unseen(
    interval: tuple[float, float], mean: float, num_items: int, lowest: float = 0.0, z: float = _Z_95
) -> tuple[float, float]:
    """An interval of a bootstrap, widened by what so few items cannot show.

    Resampling never finds a kind of item that the sample lacks: of 12 right answers every resample is right, and the
    interval would have no width. A share of up to z^2 / (n + z^2) of all items may be of such a kind, which is Wilson's
    interval where all n are alike; those may have any value from ``lowest`` to 1.

    Args:
        interval: of the mean, by resampling the items.
        mean: over the items.
        num_items: independent ones.
        lowest: the least value that an item can have; the greatest is 1.
        z: how sure.
    """
    unseen = z * z / (num_items + z * z)
    low, high = interval
    return min(low, mean - unseen * (mean - lowest)), max(high, mean + unseen * (1 - mean))
