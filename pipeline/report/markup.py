"""Pieces of HTML for the pages about a run: tables that can be sorted, bars inside them, figures with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

EMPTY = "\u2013"
"""An en dash."""


@dataclass(frozen=True)
class Cell:
    """A table's cell as HTML, and the value by which its row is sorted: a number, or text."""

    html: str
    order: float | str

    @property
    def is_number(self) -> bool:
        """True for a number, which stands at the right."""
        return not isinstance(self.order, str)


def text(value: object) -> Cell:
    """Anything as its words."""
    return Cell(escape(str(value)), str(value))


def number(value: float | None, form: str = ",.0f") -> Cell:
    """A number in a format of Python's; none sorts below all."""
    return Cell(EMPTY, -1e300) if value is None else Cell(format(value, form), value)


def percent(value: float | None, digits: int = 1) -> Cell:
    """A share of 0 to 1 in percent; none sorts below all."""
    return Cell(EMPTY, -1e300) if value is None else Cell(f"{100 * value:.{digits}f}\u00a0%", value)


def bar(value: float | None, interval: tuple[float, float] | None = None, style: str = "s0") -> Cell:
    """A share of 0 to 1 as a bar with its figure, and a line over the interval that it may lie in."""
    if value is None:
        return Cell(EMPTY, -1e300)
    whisker = ""
    if interval is not None:
        low, high = interval
        whisker = f'<b style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></b>'
    fill = f'<i class="{style}" style="width:{100 * value:.1f}%"></i>'
    figure = f'<span class="figure">{100 * value:.1f}\u00a0%</span>'
    return Cell(
        f'<span class="bar"><span class="track" aria-hidden="true">{fill}{whisker}</span>{figure}</span>', value
    )


def difference_bar(value: float) -> Cell:
    """A difference of -1 to 1 as a bar to the left or the right of the middle, in points."""
    side, style = ("left:50%", "s0") if value >= 0 else ("right:50%", "s1")
    fill = f'<i class="{style}" style="{side};width:{50 * abs(value):.1f}%"></i>'
    figure = f'<span class="figure">{points(value)}</span>'
    track = f'<span class="track middle" aria-hidden="true">{fill}</span>'
    return Cell(f'<span class="bar">{track}{figure}</span>', value)


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign (a minus, not a hyphen)."""
    return f"{100 * value:+.1f} points".replace("-", "\u2212")


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], *, sortable: bool = False) -> str:
    """A table in a frame that scrolls by itself where the screen is narrow. The first cell names its row."""
    columns = "".join(_heading(name, place, rows, sortable) for place, name in enumerate(head))
    lines = "".join(_row(row) for row in rows)
    kind = ' class="sortable"' if sortable else ""
    named = f'<caption class="unseen">{escape(caption)}</caption>'
    content = f"<table{kind}>{named}<thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>"
    return scrolling(caption, content)


def scrolling(name: str, content: str) -> str:
    """Content in a frame that scrolls by itself, with the keyboard too."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{escape(name)}">{content}</div>'


def _heading(name: str, place: int, rows: Sequence[Sequence[Cell]], sortable: bool) -> str:
    kind = ' class="number"' if rows and rows[0][place].is_number and "bar" not in rows[0][place].html else ""
    if not sortable:
        return f'<th scope="col"{kind}>{escape(name)}</th>'
    return f'<th scope="col"{kind}><button type="button">{escape(name)}</button></th>'


def _row(row: Sequence[Cell]) -> str:
    cells = []
    for place, cell in enumerate(row):
        tag, scope = ("th", ' scope="row"') if place == 0 else ("td", "")
        kind = ' class="number"' if cell.is_number and "bar" not in cell.html else ""
        order = f' data-order="{cell.order:.6g}"' if not isinstance(cell.order, str) else ""
        cells.append(f"<{tag}{scope}{kind}{order}>{cell.html}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def figure(title: str, chart: str, legend: Sequence[tuple[str, str]] = (), numbers: str = "", note: str = "") -> str:
    """A chart under its title, with names of its lines as (name, style), a sentence, and its numbers to unfold."""
    keys = "".join(
        f'<li><span class="key {style}" aria-hidden="true"></span>{escape(name)}</li>' for name, style in legend
    )
    keys = f'<ul class="legend">{keys}</ul>' if keys else ""
    note = f'<p class="quiet">{note}</p>' if note else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}{keys}{note}{unfold('Numbers', numbers)}</figure>"


def unfold(summary: str, content: str) -> str:
    """Content behind a line that opens it; nothing where there is no content."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def note(html: str) -> str:
    """A sentence that stands out."""
    return f'<p class="note">{html}</p>'


def code(value: str) -> str:
    """A command or a path."""
    return f"<code>{escape(value)}</code>"


def section(name: str, title: str, content: str) -> str:
    """A part of the page that its table of contents leads to."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'
