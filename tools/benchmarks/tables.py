"""What a group of rows found: tables for a reader, the same as JSON, and lines over T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """A title, what it says, and its rows: name -> column -> figure. A figure that is None was not measured."""

    title: str
    note: str
    rows: Mapping[str, Mapping[str, float | None]]

    def markdown(self) -> str:
        """A heading, the note and the table."""
        columns = list(next(iter(self.rows.values())))
        lines = [
            f"## {self.title}",
            "",
            self.note,
            "",
            "| | " + " | ".join(columns) + " |",
            "|---" * (1 + len(columns)) + "|",
        ]
        for name, row in self.rows.items():
            lines.append(f"| {name} | " + " | ".join(_written(row[column]) for column in columns) + " |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Lines:
    """A plot: name of the line -> its y over x, both axes logarithmic."""

    file_name: str
    x_label: str
    y_label: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]

    def draw(self, folder: Path) -> None:
        """Writes the plot as a PNG into ``folder``."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for name, values in self.lines.items():
            axes.loglog(self.x, values, marker="o", markersize=3, label=name)
        axes.set(xlabel=self.x_label, ylabel=self.y_label, xticks=self.x, xticklabels=[f"{x:g}" for x in self.x])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=2)
        figure.savefig(folder / self.file_name, dpi=120)
        plt.close(figure)


@dataclass(frozen=True)
class Findings:
    """All that a group measured."""

    tables: Sequence[Table]
    plots: Sequence[Lines] = field(default_factory=tuple)

    def as_json(self) -> list[dict[str, Any]]:
        """The tables."""
        return [{"title": table.title, "rows": table.rows} for table in self.tables]


def _written(figure: float | None) -> str:
    if figure is None:
        return "not measured"
    return f"{figure:.0f}" if figure >= 1000 or figure == int(figure) else f"{figure:.3g}"
