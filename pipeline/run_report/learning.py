"""The sections of a page about learning: the curves of the training, and whether the model uses time."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.charts import Axis, Series, axis_over
from pipeline.report.templates import Section, filled_in, section
from pipeline.run_report.records import RunRecord

_TEMPLATE = "run_report/learning.html"
_CURVES = (
    ("Loss", "number", "loss", (("each step", "step_loss", "faint"), ("training", "train_loss", "s0"))),
    ("Accuracy", "percent", "accuracy", (("training", "train_accuracy", "s0"),)),
    ("F1@25", "percent", "f1_25", ()),
)
"""Title, unit and kind of each chart; name, curve and style of its lines beside that of the validation."""


def curves_section(run: RunRecord) -> Section:
    """Loss and accuracy over the epochs; of a protocol, every fold's, which pointing at them tells apart."""
    charts = []
    for title, unit, kind, lines in _CURVES:
        if run.folds:
            series = [Series(name, curves.get(f"train_{kind}", ()), "s0 thin") for name, curves in run.folds.items()]
            charts.append(epochs_chart(f"{title} while training, by fold", series, None, unit))
        else:
            lines = (*lines, ("validation", f"val_{kind}", "s1"))
            series = [Series(name, run.curves.get(curve, ()), style) for name, curve, style in lines]
            charts.append(epochs_chart(title, series, run.model.get("metrics", {}).get("epoch"), unit))
    return curves_of(charts)


def curves_of(charts: Sequence[str]) -> Section:
    """Section with those charts that are not empty."""
    return section("curves", "Learning curves", _TEMPLATE, charts=list(filter(None, charts)))


def epochs_chart(title: str, series: Sequence[Series], best: float | None = None, unit: str = "number") -> str:
    """A figure of lines over epochs; nothing without lines. ``best`` is the epoch whose weights were kept."""
    series = [line for line in series if line.points]
    if not series:
        return ""
    values = [value for line in series for _, value in line.points]
    y = Axis("", 0, 1, unit) if unit == "percent" else axis_over("", values, unit, from_zero=True)
    x = Axis("epoch", 0, max(epoch for line in series for epoch, _ in line.points))
    named = [dict(line.points) for line in series if line.style != "faint"]
    rows = [[epoch, *(line.get(epoch) for line in named)] for epoch in sorted(set().union(*named))]
    return filled_in(_TEMPLATE, "epochs", title=title, series=series, x=x, y=y, unit=unit, rows=rows, best=best)


def time_section(run: RunRecord) -> Section:
    """Section with the results of ``clipgru diagnose``, or the command to get them."""
    seen = [(float(share), accuracy) for share, accuracy in run.diagnosis.get("accuracy_by_fraction_seen", {}).items()]
    return section(
        "time",
        "Does it use time?",
        _TEMPLATE,
        found=run.diagnosis,
        model=run.folder / "model.safetensors",
        seen=Series("accuracy", seen),
        share=lambda label: Axis(label, 0, 1, "percent"),
    )
