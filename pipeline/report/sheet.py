"""Contact sheets: clips as rows of small pictures, with a line of text above each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.tables import as_png, new_figure

_MAX_PICTURES, _INCHES_A_PICTURE = 16, 1.1


@dataclass(frozen=True)
class SheetRow:
    """One clip: its pictures uint8 RGB ``[T, H, W, 3]``, what is written under each, and the line above them."""

    caption: str
    pictures: NDArray[np.uint8]
    notes: Sequence[str] = ()


def contact_sheet(rows: Sequence[SheetRow], title: str) -> bytes:
    """A PNG. Of a clip with more than 16 pictures, 16 evenly spread ones are shown."""
    columns = min(_MAX_PICTURES, max((len(row.pictures) for row in rows), default=1))
    figure = new_figure(_INCHES_A_PICTURE * columns + 0.4, 1.6 * max(1, len(rows)) + 0.6, title)
    for part, row in zip(figure.subfigures(max(1, len(rows)), 1, squeeze=False)[:, 0], rows, strict=False):
        part.suptitle(row.caption, x=0.01, ha="left", fontsize=9)
        shown = np.linspace(0, len(row.pictures) - 1, min(columns, len(row.pictures))).round().astype(int)
        for axes, place in zip(part.subplots(1, columns, squeeze=False)[0], [*shown, *[-1] * columns], strict=False):
            axes.axis("off")
            if place >= 0:
                axes.imshow(row.pictures[place])
                axes.set_title(row.notes[place] if row.notes else "", fontsize=7, pad=2)
    return as_png(figure)


def bars_and_curve(shares: dict[str, tuple[float, float, float]], curve: dict[float, float], title: str) -> bytes:
    """A PNG of two plots: shares with their intervals (value, low, high) as bars, and a share over a share."""
    figure = new_figure(9, 3.6, title)
    left, right = figure.subplots(1, 2)
    values = np.array(list(shares.values()))
    left.barh(list(shares), values[:, 0], xerr=np.abs(values[:, 1:].T - values[:, 0]), color="#4477aa", capsize=3)
    left.set(xlim=(0, 1), xlabel="accuracy, with its 95 % interval")
    left.invert_yaxis()
    right.plot(list(curve), list(curve.values()), marker="o", color="#4477aa")
    right.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="share of the clip seen", ylabel="accuracy")
    right.grid(alpha=0.3)
    return as_png(figure)
