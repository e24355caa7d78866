"""The parts of a page about learning: the curves of the training, and whether the model uses time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.report.charts import Axis, Series, axis_over, line_chart
from pipeline.report.markup import Cell, bar, code, figure, note, number, percent, section, table, text
from pipeline.run_report.records import Curve, RunRecord


def curves_section(run: RunRecord) -> str:
    """Loss and accuracy over the epochs; of a protocol, every fold's."""
    if run.folds:
        figures = [
            _fold_chart("Loss while training, by fold", {name: _get(c, "train_loss") for name, c in run.folds.items()}),
            _fold_chart(
                "Accuracy while training, by fold", {name: _get(c, "train_accuracy") for name, c in run.folds.items()}
            ),
        ]
    else:
        best = run.model.get("metrics", {}).get("epoch")
        figures = [_loss_chart(run.curves, best), _accuracy_chart(run.curves, best)]
    content = "".join(figures) or note("No training left its logs here.")
    return section("curves", "Learning curves", f'<div class="figures">{content}</div>')


def _get(curves: Mapping[str, Curve], name: str) -> Curve:
    return curves.get(name, ())


def _loss_chart(curves: Mapping[str, Curve], best: float | None) -> str:
    series = [
        Series("each step", _get(curves, "step_loss"), "faint"),
        Series("training", _get(curves, "train_loss"), "s0"),
        Series("validation", _get(curves, "val_loss"), "s1"),
    ]
    return epochs_chart("Loss", [line for line in series if line.points], best)


def _accuracy_chart(curves: Mapping[str, Curve], best: float | None) -> str:
    series = [
        Series("training", _get(curves, "train_accuracy"), "s0"),
        Series("validation", _get(curves, "val_accuracy"), "s1"),
    ]
    return epochs_chart("Accuracy", [line for line in series if line.points], best, "percent")


def epochs_chart(title: str, series: Sequence[Series], best: float | None = None, unit: str = "number") -> str:
    """A figure of lines over epochs; nothing without lines. ``best`` is the epoch whose weights were kept."""
    if not series:
        return ""
    values = [value for line in series for _, value in line.points]
    y = Axis("", 0, 1, unit) if unit == "percent" else axis_over("", values, unit, from_zero=True)
    last = max(epoch for line in series for epoch, _ in line.points)
    x = Axis("epoch", 0, last)
    name = f"{title} over {last:g} epochs: " + "; ".join(
        f"{line.name} from {y.text(line.points[0][1])} to {y.text(line.points[-1][1])}" for line in series
    )
    chart = line_chart(series, x, y, name, best)
    epochs = sorted({epoch for line in series if line.style != "faint" for epoch, _ in line.points})
    named = [line for line in series if line.style != "faint"]
    rows = [[number(epoch, "g"), *(_value(dict(line.points).get(epoch), unit) for line in named)] for epoch in epochs]
    said = f"The upright line is epoch {best:g}, whose weights were kept." if best else ""
    numbers = table(f"{title} by epoch", ["epoch", *(line.name for line in named)], rows)
    return figure(title, chart, [(line.name, line.style) for line in series], numbers, said)


def _value(value: float | None, unit: str) -> Cell:
    return percent(value) if unit == "percent" else number(value, ".4g")


def _fold_chart(title: str, folds: Mapping[str, Curve]) -> str:
    """One thin line a fold; they are told apart by pointing at them, and in the table."""
    curves = {name: curve for name, curve in folds.items() if curve}
    unit = "percent" if "Accuracy" in title else "number"
    return epochs_chart(title, [Series(name, curve, "s0 thin") for name, curve in curves.items()], None, unit)


_ORDERS = {
    "as filmed": "the clip as it is",
    "shuffled": "its frames in random orders",
    "reversed": "backwards",
    "one frame": "the middle frame alone, repeated",
    "frame average": "every frame alone, scores averaged",
}


def time_section(run: RunRecord) -> str:
    """Section with the results of ``clipgru diagnose``, or the command to get them."""
    found = run.diagnosis
    if not found:
        command = code(f"clipgru diagnose {run.folder / 'model.safetensors'}")
        content = note(f"Not measured. {command} shows the test clips with their frames shuffled, and adds it here.")
        return section("time", "Does it use time?", content)
    lost = f"{100 * found['lost_by_shuffling']:.1f} points"
    verdict = (
        f"<strong>Yes.</strong> With shuffled frames its accuracy falls by {lost}, more than chance explains."
        if found["uses_time"]
        else f"<strong>Not that it shows.</strong> Shuffling the frames costs {lost}, no more than chance explains."
    )
    changes = found["label_changes_a_second"]
    steady = "" if changes is None else f" Its label changes {changes:.2f} times a second on the way through a clip."
    rows = [
        [text(name), text(_ORDERS.get(name, "")), bar(share["accuracy"], (share["low"], share["high"]))]
        for name, share in found["accuracy_by_order"].items()
    ]
    shown = table("Accuracy by the order of frames", ["frames", "what the model is shown", "accuracy"], rows)
    curve = [(float(seen), accuracy) for seen, accuracy in found["accuracy_by_fraction_seen"].items()]
    numbers = [[percent(seen, 0), percent(accuracy)] for seen, accuracy in curve]
    chart = figure(
        "Accuracy after a part of the clip",
        line_chart(
            [Series("accuracy", curve)],
            Axis("share of the clip seen", 0, 1, "percent"),
            Axis("", 0, 1, "percent"),
            f"Accuracy goes from {curve[0][1]:.0%} after {curve[0][0]:.0%} of a clip to {curve[-1][1]:.0%} after it",
        ),
        numbers=table("Accuracy by the share seen", ["seen", "accuracy"], numbers),
    )
    content = f"<p>{verdict}{steady} {found['num_videos']} videos; McNemar's test at 5\u00a0%.</p>"
    return section("time", "Does it use time?", f'{content}<div class="figures">{_box(shown)}{chart}</div>')


def _box(content: str) -> str:
    return f'<div class="box">{content}</div>'
