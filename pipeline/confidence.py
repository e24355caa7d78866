"""Confidence intervals of shares and of means of bounded values. All are of 95 % unless ``z`` says otherwise."""

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
