"""The sections of a page about two runs side by side: figures, the paired test, curves, classes, videos, settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.confidence import mcnemar_p_value
from pipeline.config.text import flat, shown
from pipeline.report.charts import Series
from pipeline.report.templates import Section, section
from pipeline.run_report.learning import curves_of, epochs_chart
from pipeline.run_report.records import Answer, EvaluationRecord, RunRecord, TimelineRecord, first_of_each
from pipeline.run_report.results import headline, part_section, title_of
from pipeline.timeline.metrics.figures import interval_of, resample_videos, weigh_figures

_TEMPLATE = "run_report/comparison.html"
_MAX_LISTED = 500
_COMPARED = {
    "frame_accuracy": "frame accuracy",
    "f1_10_by_video": "F1@10",
    "f1_25_by_video": "F1@25",
    "f1_50_by_video": "F1@50",
    "edit": "edit score",
    "found_share": "actions found",
}
"""Figures of timelines, all of them shares."""


@dataclass(frozen=True)
class _Pairs:
    """The answers of two runs to the videos that both saw, with the same truth."""

    answers: tuple[tuple[Answer, Answer], ...]

    def where(self, first: bool, second: bool) -> list[tuple[Answer, Answer]]:
        """Pairs of which the first and the second are right or wrong as given."""
        return [(a, b) for a, b in self.answers if (a.right, b.right) == (first, second)]

    @property
    def p_value(self) -> float:
        """The p-value of McNemar's test."""
        return mcnemar_p_value(len(self.where(True, False)), len(self.where(False, True)))


def pair_up(first: EvaluationRecord, second: EvaluationRecord) -> _Pairs:
    """Pair answers by name below the data's root, label and stretch. Of several answers to a video the first counts:
    the test takes each video once."""
    ours, theirs = first_of_each(first.answers), first_of_each(second.answers)
    return _Pairs(tuple((answer, theirs[video]) for video, answer in ours.items() if video in theirs))


def comparison_sections(first: RunRecord, second: RunRecord) -> list[Section]:
    """Sections that compare two runs, part by part."""
    seconds = {evaluation.name: evaluation for evaluation in second.evaluations}
    both = [(evaluation, seconds[evaluation.name]) for evaluation in first.evaluations if evaluation.name in seconds]
    parts = [part for pair in both for part in _evaluation_sections(*pair)]
    others = {record.name: record for record in second.timelines}
    parts += [_timelines(record, others[record.name]) for record in first.timelines if record.name in others]
    return [*(parts or [section("absent", "Figures", _TEMPLATE)]), *_curves(first, second), _settings(first, second)]


def _evaluation_sections(first: EvaluationRecord, second: EvaluationRecord) -> list[Section]:
    pairs, videos = pair_up(first, second), title_of(first)
    a, b = headline(first), headline(second)
    rows = [(name, a[name][0], b[name][0]) for name in a if name in b]
    right = [sum(pair[side].right for pair in pairs.answers) for side in (0, 1)]
    values = {"videos": videos, "rows": rows, "pairs": pairs, "right": right}
    figures = section(f"figures-{first.name}", f"On {videos}", _TEMPLATE, **values)
    return [figures, _classes(first, pairs), _videos(first, pairs)] if pairs.answers else [figures]


def _timelines(first: TimelineRecord, second: TimelineRecord) -> Section:
    """Figures of both by the videos that both saw, and their differences with intervals over these."""
    sides = [{pair.name: pair for pair in record.evaluation.pairs()} for record in (first, second)]
    names = [name for name in sides[0] if name in sides[1]]
    rows = []
    if names:
        draws = np.vstack([np.ones((1, len(names))), resample_videos(len(names), 1000 if len(names) > 1 else 0)])
        a, b = (weigh_figures([side[name] for name in names], draws) for side in sides)
        for name, title in _COMPARED.items():
            low, high = interval_of(b[name][1:] - a[name][1:])
            rows.append(
                (title, *(_finite(value) for value in (a[name][0], b[name][0], b[name][0] - a[name][0], low, high)))
            )
    videos = title_of(first)
    return section(
        f"timelines-{first.name}", f"On {videos}", _TEMPLATE, videos=videos, num_videos=len(names), rows=rows
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _classes(evaluation: EvaluationRecord, pairs: _Pairs) -> Section:
    """Recall of each class in both, those that differ most first."""
    by_class: dict[str, list[tuple[bool, bool]]] = {}
    for a, b in pairs.answers:
        by_class.setdefault(a.label, []).append((a.right, b.right))
    rows = []
    for label, both in by_class.items():
        first, second = (sum(side) / len(both) for side in zip(*both, strict=True))
        rows.append((label, second - first, first, second, len(both)))
    rows.sort(key=lambda row: (-abs(row[1]), row[0]))
    return part_section(evaluation, "classes", "Classes", _TEMPLATE, rows=rows)


def _videos(evaluation: EvaluationRecord, pairs: _Pairs) -> Section:
    """Those that exactly one of the two has right."""
    changed = [(a.name, a.label, "B", a.predicted or "unreadable") for a, _ in pairs.where(False, True)]
    changed += [(a.name, a.label, "A", b.predicted or "unreadable") for a, b in pairs.where(True, False)]
    return part_section(evaluation, "videos", "Where they differ", _TEMPLATE, changed=changed, max_listed=_MAX_LISTED)


def _curves(first: RunRecord, second: RunRecord) -> list[Section]:
    """Over each other: A solid, B dashed; training thinner than validation."""
    charts = []
    for title, unit in (("Loss", "number"), ("Accuracy", "percent")):
        series = [
            Series(f"{run}, {words}", curves.get(f"{part}_{title.lower()}", ()), style + weight)
            for part, words, weight in (("val", "validation", ""), ("train", "training", " light"))
            for run, curves, style in (("A", first.curves, "s0"), ("B", second.curves, "s1"))
        ]
        charts.append(epochs_chart(title, series, None, unit))
    return [curves_of(charts)] if any(charts) else []


def _settings(first: RunRecord, second: RunRecord) -> Section:
    a, b = dict(flat(first.settings)), dict(flat(second.settings))
    changed = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    rows = [(key, shown(a.get(key)), shown(b.get(key))) for key in changed]
    return section("settings", "Settings that differ", _TEMPLATE, rows=rows)
