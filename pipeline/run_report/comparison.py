"""The page's parts that hold two runs side by side: figures, the paired test, curves, classes, videos, settings."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import comb

from pipeline.config.text import flat, shown
from pipeline.report.charts import Series
from pipeline.report.markup import Cell, bar, code, difference_bar, note, number, points, section, table, text
from pipeline.run_report.learning import epochs_chart
from pipeline.run_report.records import Answer, EvaluationRecord, RunRecord, first_of_each
from pipeline.run_report.results import headline, part_section, title_of

MAX_LISTED = 500


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Probability of so uneven a split, or one more uneven, of the videos that exactly one of two models has right, if
    both are equally good: two-sided and exact (McNemar, "Note on the sampling error", 1947)."""
    total = only_first + only_second
    tail = sum(comb(total, k) for k in range(max(only_first, only_second), total + 1))
    return min(1.0, float(2 * tail / 2**total))


@dataclass(frozen=True)
class _Pairs:
    """The answers of two runs to the videos that both saw, with the same truth."""

    answers: tuple[tuple[Answer, Answer], ...]

    def where(self, first: bool, second: bool) -> list[tuple[Answer, Answer]]:
        """Those that the first has right or wrong, and the second."""
        return [(a, b) for a, b in self.answers if (a.right, b.right) == (first, second)]

    @property
    def p_value(self) -> float:
        """McNemar's."""
        return mcnemar_p_value(len(self.where(True, False)), len(self.where(False, True)))


def pair_up(first: EvaluationRecord, second: EvaluationRecord) -> _Pairs:
    """By name below the data's root, label and stretch. Of several answers to a video the first counts: the test takes
    each video once."""
    ours, theirs = first_of_each(first.answers), first_of_each(second.answers)
    return _Pairs(tuple((answer, theirs[video]) for video, answer in ours.items() if video in theirs))


def comparison_sections(first: RunRecord, second: RunRecord) -> list[str]:
    """What two runs have in common, part by part."""
    seconds = {evaluation.name: evaluation for evaluation in second.evaluations}
    parts = []
    for evaluation in first.evaluations:
        if evaluation.name in seconds:
            parts += _evaluation_sections(evaluation, seconds[evaluation.name])
    if not parts:
        said = "The two runs were not evaluated on the same split: there are no answers to compare."
        parts.append(section("figures", "Figures", note(said)))
    return [*parts, *_curves(first, second), _settings(first, second)]


def _evaluation_sections(first: EvaluationRecord, second: EvaluationRecord) -> list[str]:
    pairs = pair_up(first, second)
    parts = [_figures(first, second, pairs)]
    if pairs.answers:
        parts += [_classes(first, pairs), _videos(first, pairs)]
    return parts


def _figures(first: EvaluationRecord, second: EvaluationRecord, pairs: _Pairs) -> str:
    a, b = headline(first), headline(second)
    rows = [[text(name), text(a[name][0]), text(b[name][0])] for name in a if name in b]
    figures = table(f"Figures on {title_of(first)}", ["figure", "A", "B"], rows)
    content = f'{_verdict(pairs)}<div class="figures"><div class="box">{figures}</div>{_quarters(pairs)}</div>'
    return section(f"figures-{first.name}", f"On {title_of(first)}", content)


def _verdict(pairs: _Pairs) -> str:
    count = len(pairs.answers)
    if not count:
        return note("No video was seen by both, so nothing can be said of which is better.")
    right = sum(a.right for a, _ in pairs.answers), sum(b.right for _, b in pairs.answers)
    difference = (right[1] - right[0]) / count
    p_value = pairs.p_value
    better = "B" if difference > 0 else "A"
    verdict = f"<strong>{better} is better</strong>" if p_value < 0.05 else "<strong>No difference that counts</strong>"
    p_text = f"p = {p_value:.2g}" if p_value >= 1e-4 else "p below 0.0001"
    return (
        f"<p>{verdict}: of the {count:,} videos that both saw A has {right[0]:,} right and B {right[1]:,} "
        f"({points(difference)}); McNemar's exact test, two-sided: {p_text}.</p>"
    )


def _quarters(pairs: _Pairs) -> str:
    if not pairs.answers:
        return ""
    cells = [[number(len(pairs.where(a, b))) for b in (True, False)] for a in (True, False)]
    rows = [[text("A right"), *cells[0]], [text("A wrong"), *cells[1]]]
    return f'<div class="box">{table("Videos by who is right", ["of both", "B right", "B wrong"], rows)}</div>'


def _classes(evaluation: EvaluationRecord, pairs: _Pairs) -> str:
    """Recall of each class in both, those that differ most first."""
    by_class: dict[str, list[tuple[bool, bool]]] = {}
    for a, b in pairs.answers:
        by_class.setdefault(a.label, []).append((a.right, b.right))
    rows = []
    for label, both in by_class.items():
        first, second = (sum(side) / len(both) for side in zip(*both, strict=True))
        rows.append(
            [text(label), difference_bar(second - first), bar(first), bar(second, style="s1"), number(len(both))]
        )
    rows.sort(key=lambda row: (-abs(float(row[1].order)), row[0].order))
    head = ["class", "B less A", "A", "B", "videos"]
    listed = table(f"Recall by class of both, {title_of(evaluation)}", head, rows, sortable=True)
    return part_section(evaluation, "classes", "Classes", listed)


def _videos(evaluation: EvaluationRecord, pairs: _Pairs) -> str:
    """Those that exactly one of the two has right."""
    changed = [("B", a, b) for a, b in pairs.where(False, True)] + [("A", a, b) for a, b in pairs.where(True, False)]
    rows = [
        [
            Cell(f'<span class="path">{escape(a.name)}</span>', a.name),
            text(a.label),
            text(right),
            text((a if right == "B" else b).predicted or "unreadable"),
        ]
        for right, a, b in changed[:MAX_LISTED]
    ]
    head = ["video", "true", "right is", "the other says"]
    said = f"<p>The {len(changed):,} videos that exactly one of the two has right"
    said += f", the first {MAX_LISTED}.</p>" if len(changed) > MAX_LISTED else ".</p>"
    listed = (
        f'<div class="tall">{table("Videos with one right answer", head, rows, sortable=True)}</div>' if rows else ""
    )
    return part_section(evaluation, "videos", "Where they differ", said + listed)


def _curves(first: RunRecord, second: RunRecord) -> list[str]:
    """Over each other: A solid, B dashed; training thinner than validation."""
    figures = ""
    for title, names, unit in (
        ("Loss", ("val_loss", "train_loss"), "number"),
        ("Accuracy", ("val_accuracy", "train_accuracy"), "percent"),
    ):
        series = [
            Series(f"{run}, {'validation' if name.startswith('val') else 'training'}", curves[name], style)
            for name, styles in zip(names, (("s0", "s1"), ("s0 light", "s1 light")), strict=True)
            for run, curves, style in (("A", first.curves, styles[0]), ("B", second.curves, styles[1]))
            if name in curves
        ]
        figures += epochs_chart(title, series, None, unit)
    return [section("curves", "Learning curves", f'<div class="figures">{figures}</div>')] if figures else []


def _settings(first: RunRecord, second: RunRecord) -> str:
    a, b = dict(flat(first.settings)), dict(flat(second.settings))
    changed = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    rows = [[Cell(code(key), key), text(shown(a.get(key))), text(shown(b.get(key)))] for key in changed]
    content = table("Settings that differ", ["setting", "A", "B"], rows) if rows else note("All settings are the same.")
    return section("settings", "Settings that differ", content)
