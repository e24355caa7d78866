"""The sections of a page about answers: figures, classes, confusions, calibration, the worst clips, every video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.calibration import NUM_BINS, Reliability, reliability_of
from pipeline.confidence import wilson_interval
from pipeline.report.charts import Axis, Series
from pipeline.report.templates import Section, percent, points, section
from pipeline.run_report.clips import Thumbnail
from pipeline.run_report.records import Answer, EvaluationRecord, TimelineRecord, first_of_each

_TEMPLATE = "run_report/results.html"
_MAX_LISTED = 2_000
"""Rows of the table of videos; the CSV beside the page has all."""
_MAX_PAIRS = 20
_MAX_MATRIX_LABELS = 150

_TITLES = {
    "test": "test videos",
    "val": "validation videos",
    "train": "training videos",
    "all": "all videos",
    "folds": "the videos of all folds",
    "evaluation": "the videos",
}

_JUDGED_BY = ("test", "folds", "evaluation")


def title_of(evaluation: EvaluationRecord | TimelineRecord) -> str:
    """The videos of an evaluation, in words."""
    return _TITLES[evaluation.name]


def part_section(
    evaluation: EvaluationRecord | TimelineRecord, part: str, title: str, template: str = _TEMPLATE, **values: Any
) -> Section:
    """A section about one evaluation; its title names the videos if they are not those that a model is judged by."""
    videos = title_of(evaluation)
    about = "" if evaluation.name in _JUDGED_BY else f", {videos}"
    return section(f"{part}-{evaluation.name}", title + about, template, videos=videos, **values)


def headline(evaluation: EvaluationRecord) -> dict[str, tuple[str, str]]:
    """Figure -> (value, what to know about it)."""
    count, right = len(evaluation.answers), evaluation.num_right
    recalls = [sum(a.right for a in answers) / len(answers) for answers in evaluation.by_class.values() if answers]
    errors = count - len(evaluation.read)
    given = evaluation.summary
    low, high = _interval_of(evaluation.answers)
    interval = (
        f"95\u00a0% interval {100 * given.get('top1_low', low):.1f} to {100 * given.get('top1_high', high):.1f}\u00a0%"
    )
    figures = {"top-1 accuracy": (percent(right / max(1, count)), interval)}
    if "gain" in given:
        between = f"95\u00a0% interval {100 * given['gain_low']:.1f} to {100 * given['gain_high']:.1f}"
        figures["over the frame average"] = (points(given["gain"]), between)
    top5 = given.get("top5")
    if top5 is not None and len(evaluation.labels) > 5:
        figures["top-5 accuracy"] = (percent(top5), "the right label is among the best five")
    mean_recall = sum(recalls) / max(1, len(recalls))
    figures["mean class accuracy"] = (percent(mean_recall), f"{len(recalls)} classes, each counts once")
    error = reliability_by_score(evaluation).expected_error
    figures["calibration error"] = (percent(error), "0\u00a0% would be perfect")
    about = [f"{errors} unreadable, counted as wrong" if errors else "all could be read"]
    about += [f"{given['num_left_out']} left out, which it had seen"] if given.get("num_left_out") else []
    about += [f"{given['num_trained_on']} of them trained on"] if "num_trained_on" in given else []
    figures["videos"] = (f"{count:,}", "; ".join(about))
    return figures


def _interval_of(answers: Sequence[Answer]) -> tuple[float, float]:
    """Wilson's, over videos: several answers to one, as those of several seeds, are not several videos."""
    num_videos = len(first_of_each(answers))
    right = sum(answer.right for answer in answers) / max(1, len(answers))
    return wilson_interval(right * num_videos, num_videos)


def reliability_by_score(evaluation: EvaluationRecord) -> Reliability:
    """Of the videos that could be read: the best label's score against whether it was right."""
    read = [(answer.score, answer.right) for answer in evaluation.read if answer.score is not None]
    scores, right = torch.tensor([score for score, _ in read]), torch.tensor([right for _, right in read])
    return reliability_of(scores, right)


def headline_section(evaluation: EvaluationRecord) -> Section:
    """The figures, large."""
    videos = title_of(evaluation)
    return section(f"figures-{evaluation.name}", f"On {videos}", _TEMPLATE, headline=headline(evaluation))


def classes_section(evaluation: EvaluationRecord) -> Section:
    """A row a class, the worst first."""
    rows = [_class_row(label, answers) for label, answers in evaluation.by_class.items()]
    rows.sort(key=lambda row: (row[1][0] if row[1] else -1.0, row[0]))
    return part_section(evaluation, "classes", "Classes", rows=rows)


def _class_row(label: str, answers: Sequence[Answer]) -> list[Any]:
    right, count = sum(answer.right for answer in answers), len(answers)
    wrong = Counter(answer.predicted for answer in answers if not answer.right and answer.predicted)
    mistaken = ", ".join(f"{other} ({times})" for other, times in wrong.most_common(2)) or None
    return [label, (right / count, _interval_of(answers)) if count else None, count, mistaken]


def confusion_section(evaluation: EvaluationRecord) -> Section:
    """The matrix as a picture, the most frequent confusions as a table, and for few classes the matrix as one."""
    pairs = Counter((answer.label, answer.predicted) for answer in evaluation.read if answer.predicted)
    labels = _matrix_labels(evaluation.labels, pairs)
    counts = [[pairs[true, predicted] for predicted in labels] for true in labels]
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    return part_section(
        evaluation,
        "confusions",
        "Confusions",
        labels=labels,
        counts=counts,
        frequent=[(*pair, count) for pair, count in wrong.most_common(_MAX_PAIRS)],
        num_classes=len(evaluation.labels),
    )


def _matrix_labels(labels: Sequence[str], pairs: Mapping[tuple[str, str], int]) -> Sequence[str]:
    """All labels, or of too many those that are in most errors."""
    errors: Counter[str] = Counter(dict.fromkeys(labels, 0))
    for (true, predicted), count in pairs.items():
        if true != predicted:
            errors.update({true: count, predicted: count})
    chosen = {label for label, _ in errors.most_common(_MAX_MATRIX_LABELS)}
    return [label for label in labels if label in chosen]


def calibration_section(evaluation: EvaluationRecord) -> Section:
    """The reliability diagram."""
    found = reliability_by_score(evaluation)
    counts, scores, accuracy = found.counts.tolist(), found.confidence.tolist(), found.accuracy.tolist()
    total = sum(counts)
    middles = [(place + 0.5) / NUM_BINS for place in range(NUM_BINS)]
    score = Axis("score of the answer", 0, 1, "percent")
    edges = [score.text(place / NUM_BINS) for place in range(NUM_BINS + 1)]
    return part_section(
        evaluation,
        "calibration",
        "Calibration",
        total=total,
        error=found.expected_error,
        before=evaluation.summary.get("calibration_error_before", found.expected_error),
        gap=float(((found.confidence - found.accuracy) * found.counts).sum()) / max(1, total),
        right=Series("right", list(zip(middles, accuracy, strict=True))),
        answers=Series("answers", [(x, count / max(1, total)) for x, count in zip(middles, counts, strict=True)], "s2"),
        rows=[
            (f"{edges[k]} to {edges[k + 1]}", counts[k], scores[k], accuracy[k]) for k in range(NUM_BINS) if counts[k]
        ],
        score=score,
        share=Axis("", 0, 1, "percent"),
    )


def worst(evaluation: EvaluationRecord, count: int) -> list[Answer]:
    """Wrong answers, those first that gave the truth the least; then right ones that nearly were wrong."""
    known = [answer for answer in evaluation.read if answer.label_score is not None]
    ranked = sorted(known, key=lambda answer: (answer.right, answer.label_score, answer.name))
    return list(first_of_each(ranked).values())[:count]


def clips_section(evaluation: EvaluationRecord, clips: Sequence[tuple[Answer, Thumbnail | None]]) -> Section:
    """The worst clips as thumbnails that play."""
    num_wrong = sum(not answer.right for answer, _ in clips)
    return part_section(evaluation, "clips", "Worst clips", clips=clips, num_wrong=num_wrong)


def videos_section(evaluation: EvaluationRecord) -> Section:
    """Every video in a table that can be sorted and filtered, the worst first."""
    ranked = sorted(evaluation.answers, key=lambda answer: (answer.right, answer.label_score or 0.0, answer.name))
    return part_section(evaluation, "videos", "Every video", answers=ranked, max_listed=_MAX_LISTED)
