"""The parts of a page about answers: figures, classes, confusions, calibration, the worst clips, every video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

import torch

from pipeline.calibration import NUM_BINS, Reliability, reliability_of
from pipeline.confidence import wilson_interval
from pipeline.report.charts import Axis, Series, bar_chart, matrix_chart
from pipeline.report.drawing import clock
from pipeline.report.markup import (
    EMPTY,
    Cell,
    bar,
    figure,
    note,
    number,
    percent,
    points,
    scrolling,
    section,
    table,
    text,
    unfold,
)
from pipeline.run_report.clips import Thumbnail
from pipeline.run_report.records import Answer, EvaluationRecord, first_of_each

MAX_LISTED = 2_000
"""Rows of the table of videos; the CSV beside the page has all."""
_MAX_PAIRS = 20
_MAX_CLASSES_AT_LENGTH = 40
"""A longer table of classes scrolls in a frame."""
_MAX_MATRIX_LABELS = 150
_MAX_MATRIX_TABLE_LABELS = 25

_TITLES = {
    "test": "test videos",
    "val": "validation videos",
    "train": "training videos",
    "all": "all videos",
    "folds": "the videos of all folds",
    "evaluation": "the videos",
}

_JUDGED_BY = ("test", "folds", "evaluation")


def title_of(evaluation: EvaluationRecord) -> str:
    """What was measured on, in words."""
    return _TITLES[evaluation.name]


def part_section(evaluation: EvaluationRecord, part: str, title: str, content: str) -> str:
    """A section about one evaluation; its title names the videos if they are not those that a model is judged by."""
    about = "" if evaluation.name in _JUDGED_BY else f", {title_of(evaluation)}"
    return section(f"{part}-{evaluation.name}", title + about, content)


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
    figures = {"top-1 accuracy": (_share(right / max(1, count)), interval)}
    if "gain" in given:
        between = f"95\u00a0% interval {100 * given['gain_low']:.1f} to {100 * given['gain_high']:.1f}"
        figures["over the frame average"] = (points(given["gain"]), between)
    top5 = given.get("top5")
    if top5 is not None and len(evaluation.labels) > 5:
        figures["top-5 accuracy"] = (_share(top5), "the right label is among the best five")
    mean_recall = sum(recalls) / max(1, len(recalls))
    figures["mean class accuracy"] = (_share(mean_recall), f"{len(recalls)} classes, each counts once")
    figures["calibration error"] = (
        _share(reliability_by_score(evaluation).expected_error),
        "0\u00a0% would be perfect",
    )
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


def _share(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"


def reliability_by_score(evaluation: EvaluationRecord) -> Reliability:
    """Of the videos that could be read: the best label's score against whether it was right."""
    read = [(answer.score, answer.right) for answer in evaluation.read if answer.score is not None]
    scores, right = torch.tensor([score for score, _ in read]), torch.tensor([right for _, right in read])
    return reliability_of(scores, right)


def headline_section(evaluation: EvaluationRecord) -> str:
    """The figures, large."""
    cards = "".join(
        f"<div><dt>{escape(what)}</dt><dd>{value}<span>{escape(about)}</span></dd></div>"
        for what, (value, about) in headline(evaluation).items()
    )
    title = f"On {title_of(evaluation)}"
    return section(f"figures-{evaluation.name}", title, f'<dl class="cards">{cards}</dl>')


def classes_section(evaluation: EvaluationRecord) -> str:
    """A row a class, the worst first."""
    rows = [_class_row(label, answers) for label, answers in evaluation.by_class.items()]
    rows.sort(key=lambda row: (row[1].order, row[0].order))
    head = ["class", "right", "videos", "most often taken for"]
    listed = table(f"Recall by class, {title_of(evaluation)}", head, rows, sortable=True)
    what = "<p>The share of each class's videos that were right (recall). The thin line is the 95 % interval.</p>"
    frame = f'<div class="tall">{listed}</div>' if len(rows) > _MAX_CLASSES_AT_LENGTH else listed
    return part_section(evaluation, "classes", "Classes", what + frame)


def _class_row(label: str, answers: Sequence[Answer]) -> list[Cell]:
    right, count = sum(answer.right for answer in answers), len(answers)
    wrong = Counter(answer.predicted for answer in answers if not answer.right and answer.predicted)
    mistaken = ", ".join(f"{other} ({times})" for other, times in wrong.most_common(2)) or EMPTY
    recall = bar(right / count, _interval_of(answers)) if count else bar(None)
    return [text(label), recall, number(count), Cell(f'<span class="path">{escape(mistaken)}</span>', mistaken)]


def confusion_section(evaluation: EvaluationRecord) -> str:
    """The matrix as a picture, the most frequent confusions as a table, and for few classes the matrix as one."""
    pairs = Counter((answer.label, answer.predicted) for answer in evaluation.read if answer.predicted)
    labels, said = _matrix_labels(evaluation.labels, pairs)
    counts = [[pairs[true, predicted] for predicted in labels] for true in labels]
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    drawn = matrix_chart(counts, labels, f"Confusions of {len(labels)} classes; the numbers are in the tables below")
    rows = [[text(true), text(predicted), number(count)] for (true, predicted), count in wrong.most_common(_MAX_PAIRS)]
    name = f"Most frequent confusions, {title_of(evaluation)}"
    frequent = table(name, ["true", "taken for", "videos"], rows) if rows else note("No confusion.")
    whole = _matrix_table(counts, labels) if len(labels) <= _MAX_MATRIX_TABLE_LABELS else ""
    content = (
        f"<p>True class down, predicted class across. Stronger colour: a larger share of the row.{said}</p>"
        f"{scrolling(f'Confusion matrix, {title_of(evaluation)}', drawn)}"
        f'<div class="box">{frequent}</div>{unfold("The whole matrix as a table", whole)}'
    )
    return part_section(evaluation, "confusions", "Confusions", content)


def _matrix_labels(labels: Sequence[str], pairs: Mapping[tuple[str, str], int]) -> tuple[list[str], str]:
    """All labels, or of too many those that are in most errors."""
    if len(labels) <= _MAX_MATRIX_LABELS:
        return list(labels), ""
    errors: Counter[str] = Counter()
    for (true, predicted), count in pairs.items():
        if true != predicted:
            errors.update({true: count, predicted: count})
    chosen = {label for label, _ in errors.most_common(_MAX_MATRIX_LABELS)}
    said = f" Of {len(labels)} classes the {len(chosen)} with the most errors; confusion.csv has all."
    return [label for label in labels if label in chosen], said


def _matrix_table(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    rows = [[text(label), *(number(count) for count in row)] for label, row in zip(labels, counts, strict=True)]
    return table("Confusion matrix: true class down, predicted across", ["true class", *labels], rows)


def calibration_section(evaluation: EvaluationRecord) -> str:
    """The reliability diagram."""
    found = reliability_by_score(evaluation)
    counts, scores, accuracy = found.counts.tolist(), found.confidence.tolist(), found.accuracy.tolist()
    total = sum(counts)
    share, x = Axis("", 0, 1, "percent"), Axis("score of the answer", 0, 1, "percent")
    middles = [(place + 0.5) / NUM_BINS for place in range(NUM_BINS)]
    shares = [count / max(1, total) for count in counts]
    edges = [x.text(place / NUM_BINS) for place in range(NUM_BINS + 1)]
    rows = [
        [Cell(f"{edges[k]} to {edges[k + 1]}", k), number(counts[k]), percent(scores[k]), percent(accuracy[k])]
        for k in range(NUM_BINS)
        if counts[k]
    ]
    name = f"Reliability by score, {title_of(evaluation)}"
    told = f"Reliability diagram of {total} answers: calibration error {found.expected_error:.1%}"
    right = Series("right", list(zip(middles, accuracy, strict=True)))
    diagram = figure(
        "How often answers of a score are right",
        bar_chart([right], x, share, told, diagonal=True),
        [("right", "s0"), ("as often as the score says", "mark")],
        table(name, ["score", "answers", "mean score", "right"], rows),
    )
    answers = Series("answers", list(zip(middles, shares, strict=True)), "s2")
    spread = figure("How scores are spread", bar_chart([answers], x, share, "Share of the answers by score"))
    content = f'{_calibration_words(evaluation, found)}<div class="figures">{diagram}{spread}</div>'
    return part_section(evaluation, "calibration", "Calibration", content)


def _calibration_words(evaluation: EvaluationRecord, found: Reliability) -> str:
    total = int(found.counts.sum())
    gap = float(((found.confidence - found.accuracy) * found.counts).sum()) / max(1, total)
    leaning = "too sure of itself" if gap > 0 else "less sure than it could be"
    side = "above" if gap > 0 else "below"
    before = evaluation.summary.get("calibration_error_before", found.expected_error)
    is_calibrated = abs(before - found.expected_error) > 1e-4
    told = f" Without the temperature in the model file it would be {before:.1%}." if is_calibrated else ""
    return (
        f"<p>Expected calibration error <strong>{found.expected_error:.1%}</strong> over {NUM_BINS} bins of equal "
        f"width and {total:,} answers.{told} On average the model is {leaning}: its mean score is "
        f"{abs(100 * gap):.1f} points {side} its accuracy.</p>"
    )


def worst(evaluation: EvaluationRecord, count: int) -> list[Answer]:
    """Wrong answers, those first that gave the truth the least; then right ones that nearly were wrong."""
    known = [answer for answer in evaluation.read if answer.label_score is not None]
    ranked = sorted(known, key=lambda answer: (answer.right, answer.label_score, answer.name))
    return list(first_of_each(ranked).values())[:count]


def clips_section(evaluation: EvaluationRecord, clips: Sequence[tuple[Answer, Thumbnail | None]]) -> str:
    """The worst clips as thumbnails that play."""
    if not clips:
        return part_section(evaluation, "clips", "Worst clips", note("No video could be read."))
    items = "".join(_clip_item(answer, thumbnail) for answer, thumbnail in clips)
    num_wrong = sum(not answer.right for answer, _ in clips)
    wrong = "all of them wrong" if num_wrong == len(clips) else f"{num_wrong} of them wrong"
    said = (
        f"<p>The {len(clips)} clips whose true label got the least, {wrong}. "
        "Press a picture to play it; <kbd>←</kbd> and <kbd>→</kbd> go picture by picture.</p>"
    )
    return part_section(evaluation, "clips", "Worst clips", f'{said}<ul class="clips">{items}</ul>')


def _clip_item(answer: Answer, thumbnail: Thumbnail | None) -> str:
    """One clip: its pictures, the truth, the answer, its name."""
    truth, own, score = escape(answer.label), _score(answer.label_score), _score(answer.score)
    verdict = f'<span class="label">{truth}</span><span class="quiet">right, {score}</span>'
    if not answer.right:
        other = escape(answer.predicted or "")
        verdict = (
            f'<span class="label">{truth} <span class="quiet">{own}</span></span>'
            f'<span>taken for <span class="label wrong">{other}</span> <span class="quiet">{score}</span></span>'
        )
    return f'<li>{_player(answer, thumbnail)}{verdict}<span class="quiet path">{escape(answer.name)}</span></li>'


def _player(answer: Answer, thumbnail: Thumbnail | None) -> str:
    if thumbnail is None:
        return '<p class="absent">no picture: the file cannot be read from here, or the page is full</p>'
    stretch = f"{clock(thumbnail.start_seconds)} \u2013 {clock(thumbnail.end_seconds)}"
    size = f"--width:{thumbnail.width};--height:{thumbnail.height};--count:{thumbnail.num_pictures}"
    return (
        f'<button type="button" class="player" aria-pressed="false" aria-label="Play {escape(answer.name)}" '
        f'style="{size}" data-count="{thumbnail.num_pictures}"><img src="{thumbnail.address}" alt="">'
        f'<span class="stretch" aria-hidden="true">{stretch}</span></button>'
    )


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def videos_section(evaluation: EvaluationRecord) -> str:
    """Every video in a table that can be sorted and filtered, the worst first."""
    ranked = sorted(evaluation.answers, key=lambda answer: (answer.right, answer.label_score or 0.0, answer.name))
    rows = [
        [
            Cell(f'<span class="path">{escape(answer.name)}</span>', answer.name),
            text(answer.label),
            Cell(*_answered(answer)),
            percent(answer.score),
            percent(answer.label_score),
        ]
        for answer in ranked[:MAX_LISTED]
    ]
    head = ["video", "true", "answer", "its score", "score of the truth"]
    listed = table(f"All {title_of(evaluation)}", head, rows, sortable=True)
    said = f"<p>The worst {MAX_LISTED} of {len(ranked)}; videos.csv has all.</p>" if len(ranked) > MAX_LISTED else ""
    tools = (
        '<div class="tools" hidden><label>Find <input type="search"></label>'
        '<label><input type="checkbox"> wrong ones only</label>'
        '<span class="quiet" role="status"></span></div>'
    )
    return part_section(evaluation, "videos", "Every video", f'{said}{tools}<div class="tall">{listed}</div>')


def _answered(answer: Answer) -> tuple[str, str]:
    if answer.error:
        return f'<span class="wrong">unreadable: {escape(answer.error)}</span>', "unreadable"
    mark = (
        '<span class="right">right</span>'
        if answer.right
        else f'<span class="wrong">{escape(answer.predicted or "")}</span>'
    )
    return mark, "right" if answer.right else answer.predicted or ""
