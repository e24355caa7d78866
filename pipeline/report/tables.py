"""Tables as CSV, and the confusion matrix as CSV and picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV, under a line with the columns: those given, to which values of others are left out, or all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0] if rows else ("path",)), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def confusion_csv(confusion: Tensor, labels: Sequence[str]) -> str:
    """``[K, K]`` counts as CSV: true class down, predicted class across."""
    corner = "true \\ predicted"
    rows = [
        {corner: label} | dict(zip(labels, row, strict=True))
        for label, row in zip(labels, confusion.tolist(), strict=True)
    ]
    return csv_text(rows, [corner, *labels])


def confusion_picture(confusion: Tensor, labels: Sequence[str], title: str) -> bytes:
    """The same as a PNG: shares of the true class in colour, counts as text where they fit."""
    side = min(30.0, 2.5 + 0.45 * len(labels))
    figure = new_figure(side + 1, side)
    axes = figure.add_subplot()
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp_min(1)
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    for i, j in confusion.nonzero().tolist() if len(labels) <= 30 else []:
        colour = "white" if float(shares[i, j]) > 0.5 else "black"
        axes.text(j, i, str(int(confusion[i, j])), ha="center", va="center", color=colour, fontsize=8)
    return as_png(figure)


def new_figure(width: float, height: float, title: str = "", fontsize: float | None = None) -> Figure:
    """A figure of matplotlib of that size in inches, whose parts find their places by themselves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=fontsize)
    return figure


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG, 100 pixels an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
