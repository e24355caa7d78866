"""Charts as inline SVG text, drawn from numbers by pure functions: for pages that load nothing and run without scripts.

Colours and dashes are classes that the page's style sheet defines (``s0``, ``s1``, ... for series), so that one chart
serves light and dark. A chart is a picture to a screen reader; whoever places it gives it a name, and the same numbers
as a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 420, 250
"""Of a chart with axes, in its own units; a page scales it. The text is readable from half that width on."""
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 12, 40
_MAX_DOTS = 60
"""A line of more points has no dots: they would hide it."""


@dataclass(frozen=True)
class Series:
    """One line: ``(x, y)`` in order of x, and the class that gives its colour and dash."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "s0"


@dataclass(frozen=True)
class Axis:
    """What stands along one side, and from where to where it goes. ``unit`` is one of ``FORMATS``."""

    label: str
    low: float
    high: float
    unit: str = "number"

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high."""
        return (value - self.low) / (self.high - self.low)

    def text(self, value: float) -> str:
        """A value as the axis writes it."""
        return FORMATS[self.unit](value)


FORMATS = {
    "number": lambda value: f"{value:.4g}",
    "percent": lambda value: f"{100 * value:.3g}\u00a0%",
    "seconds": lambda value: f"{value:.3g}\u00a0s",
}


def axis_over(label: str, values: Sequence[float], unit: str = "number", *, from_zero: bool = False) -> Axis:
    """An axis that holds all the values, from one round number to another."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0) if from_zero else low
    if high - low < 1e-9:
        low, high = (low - 0.5, high + 0.5) if low else (0.0, max(high, 1.0))
    step = _round_step(high - low, 5)
    return Axis(label, math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, unit)


def _round_step(span: float, count: int) -> float:
    """The 1, 2 or 5 times a power of ten that cuts a span into about ``count`` parts, never more than twice as many."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span * (1 - 1e-9))


def ticks(axis: Axis, count: int = 5) -> list[float]:
    """Round values on the axis, its ends among them if they are round."""
    step = _round_step(axis.high - axis.low, count)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def line_chart(series: Sequence[Series], x: Axis, y: Axis, name: str, mark: float | None = None) -> str:
    """Lines over one another. ``mark`` draws a line at one x. Every dot tells its numbers when pointed at."""
    parts = [_frame(x, y)]
    if mark is not None:
        place = _x(x, mark)
        parts.append(f'<line class="mark" x1="{place}" x2="{place}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for line in series:
        path = " ".join(f"{_x(x, a)},{_y(y, b)}" for a, b in line.points)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
    parts += [_dots(line, x, y) for line in series if len(line.points) <= _MAX_DOTS]
    return _svg(WIDTH, HEIGHT, name, parts)


def bar_chart(series: Sequence[Series], x: Axis, y: Axis, name: str, diagonal: bool = False) -> str:
    """Bars that stand at x, side by side where several series share it; each as wide as the gap to the next allows.
    ``diagonal`` draws the line on which y equals x."""
    parts = [_frame(x, y)]
    gap = min((b - a for line in series for (a, _), (b, _) in pairwise(line.points)), default=x.high - x.low)
    width = 0.9 * gap / len(series)
    for place, line in enumerate(series):
        for a, b in line.points:
            left = a + width * (place - len(series) / 2)
            what = escape(f"{line.name}: {x.text(a)}, {y.text(b)}")
            parts.append(
                f'<rect class="bar {line.style}" x="{_x(x, left)}" y="{_y(y, b)}" '
                f'width="{_number(width / (x.high - x.low) * (WIDTH - LEFT - RIGHT))}" '
                f'height="{_number(y.share(b) * (HEIGHT - TOP - BOTTOM))}"><title>{what}</title></rect>'
            )
    if diagonal:
        ends = f'x1="{_x(x, x.low)}" y1="{_y(y, x.low)}" x2="{_x(x, x.high)}" y2="{_y(y, x.high)}"'
        parts.append(f'<line class="mark" {ends}/>')
    return _svg(WIDTH, HEIGHT, name, parts)


def matrix_chart(counts: Sequence[Sequence[int]], labels: Sequence[str], name: str) -> str:
    """Counts ``[K][K]`` as squares, true class down, predicted class across, as dark as the share of their row; cells
    of zeros are left empty. Counts are written where they fit."""
    cell = next(size for limit, size in ((14, 30), (30, 20), (60, 14), (10**9, 10)) if len(labels) <= limit)
    text_size = min(12, cell - 1)
    head = 8 + 0.58 * text_size * max((len(_short(label)) for label in labels), default=1)
    side = cell * len(labels)
    parts = [f'<rect class="ground" x="{_number(head)}" y="{_number(head)}" width="{side}" height="{side}"/>']
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        middle = head + cell * (i + 0.5)
        text = f"<title>{escape(label)}</title>{escape(_short(label))}"
        at, up = _number(head - 6), _number(middle + 0.35 * text_size)
        parts.append(f'<text class="end" font-size="{text_size}" x="{at}" y="{up}">{text}</text>')
        parts.append(f'<text font-size="{text_size}" transform="translate({up} {at}) rotate(-90)">{text}</text>')
        parts += _cells(row, i, labels, head, cell)
    return _svg(head + side + 2, head + side + 2, name, parts, natural=True)


def _cells(row: Sequence[int], i: int, labels: Sequence[str], head: float, cell: int) -> list[str]:
    parts, total = [], max(1, sum(row))
    for j, count in enumerate(row):
        if not count:
            continue
        x, y, share = _number(head + cell * j), _number(head + cell * i), count / total
        kind, answer = ("right", "right") if i == j else ("wrong", f"taken for {labels[j]}")
        what = escape(f"{labels[i]}, {answer}: {count} of {total}")
        parts.append(
            f'<rect class="cell {kind}" fill-opacity="{0.15 + 0.85 * share:.2f}" x="{x}" y="{y}" width="{cell}" '
            f'height="{cell}"><title>{what}</title></rect>'
        )
        if cell >= 20:
            tone = "on" if share > 0.5 else "off"
            parts.append(
                f'<text class="count {tone}" x="{_number(head + cell * (j + 0.5))}" '
                f'y="{_number(head + cell * (i + 0.5) + 4)}">{count}</text>'
            )
    return parts


def _short(label: str) -> str:
    return label if len(label) <= 20 else label[:19] + "…"


def _svg(width: float, height: float, name: str, parts: Sequence[str], natural: bool = False) -> str:
    size = f' width="{_number(width)}" height="{_number(height)}"' if natural else ""
    kind = "matrix" if natural else "chart"
    box = f'viewBox="0 0 {_number(width)} {_number(height)}"{size}'
    return f'<svg class="{kind}" {box} role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'


def _frame(x: Axis, y: Axis) -> str:
    """Lines at the ticks of y, ticks of both, and what the axes show."""
    parts = []
    for value in ticks(y):
        at = _y(y, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{_number(float(at) + 4)}">{escape(y.text(value))}</text>')
    base, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    parts += [f'<text class="mid" x="{_x(x, at)}" y="{base + 16}">{escape(x.text(at))}</text>' for at in ticks(x)]
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="mid" x="{_number(middle)}" y="{HEIGHT - 6}">{escape(x.label)}</text>')
    return "".join(parts)


def _dots(line: Series, x: Axis, y: Axis) -> str:
    return "".join(
        f'<circle class="dot {line.style}" cx="{_x(x, a)}" cy="{_y(y, b)}" r="3">'
        f"<title>{escape(f'{line.name}: {y.text(b)} at {x.label} {x.text(a)}')}</title></circle>"
        for a, b in line.points
    )


def _x(axis: Axis, value: float) -> str:
    return _number(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT))


def _y(axis: Axis, value: float) -> str:
    return _number(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM))


def _number(value: float) -> str:
    """As short as a tenth of a unit allows: 12.0 -> 12."""
    return f"{value:.1f}".removesuffix(".0")
