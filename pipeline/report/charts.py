"""Axes and lines of charts, as numbers; charts.html draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """One line: ``(x, y)`` in order of x, and the class that gives its colour and dash."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "s0"


_FORMATS = {
    "number": lambda value: f"{value:.4g}",
    "percent": lambda value: f"{100 * value:.3g}\u00a0%",
}


@dataclass(frozen=True)
class Axis:
    """One side of a chart: its label, and the range that it shows. ``unit`` is number or percent."""

    label: str
    low: float
    high: float
    unit: str = "number"

    def share(self, value: float) -> float:
        """Return the place of a value: 0 at the low end, 1 at the high."""
        return (value - self.low) / (self.high - self.low)

    def text(self, value: float) -> str:
        """Return a value as the axis writes it."""
        return _FORMATS[self.unit](value)

    def ticks(self) -> list[float]:
        """About five round values on the axis, its ends among them if they are round."""
        step = _round_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def axis_over(label: str, values: Sequence[float], unit: str = "number", *, from_zero: bool = False) -> Axis:
    """An axis that holds all the values, from one round number to another."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0) if from_zero else low
    if high - low < 1e-9:
        low, high = (low - 0.5, high + 0.5) if low else (0.0, max(high, 1.0))
    step = _round_step(high - low)
    return Axis(label, math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, unit)


def _round_step(span: float) -> float:
    """The 1, 2 or 5 times a power of ten that cuts a span into about five parts, never more than twice as many."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= span * (1 - 1e-9))
