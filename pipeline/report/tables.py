"""Tables of an evaluation: the confusion matrix as CSV and picture, results a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def confusion_csv(confusion: Tensor, labels: Sequence[str]) -> str:
    """``[K, K]`` counts as CSV: true class down, predicted class across."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true \\ predicted", *labels])
    for label, row in zip(labels, confusion.tolist(), strict=True):
        writer.writerow([label, *row])
    return text.getvalue()


def confusion_picture(confusion: Tensor, labels: Sequence[str], title: str) -> bytes:
    """The same as a PNG: shares of the true class in colour, counts as text where they fit."""
    from matplotlib.figure import Figure

    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp_min(1)
    side = min(30.0, 2.5 + 0.45 * len(labels))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    if len(labels) <= 30:
        for i, row in enumerate(confusion.tolist()):
            for j, count in enumerate(row):
                if count:
                    colour = "white" if float(shares[i, j]) > 0.5 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def results_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Dicts with the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["path"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
