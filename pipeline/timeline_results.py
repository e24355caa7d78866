"""Answers of a model of timelines to whole videos, kept in a file, and the figures that follow from them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.clip import Segment
from pipeline.datasets.identities import LeftOut
from pipeline.files.writing import write_atomically
from pipeline.sampling import grid_range
from pipeline.schema import read_checked, read_json, to_json
from pipeline.timeline.labelled import LabelledVideo, Span, cut_out, parts_outside, unlabelled_parts, without_labels
from pipeline.timeline.metrics import TimelineFigures, TimelineSettings, VideoPair, judge_timelines
from pipeline.timeline.metrics.frames import count_frames

TIMELINE_FILES = ("summary.json", "segments.csv", "timelines.json")
"""Files that an evaluation of timelines writes; the last one holds everything that the others are made of."""


@dataclass(frozen=True)
class ScoreCurves:
    """Scores over a video, thinned out to what a picture can show."""

    times_seconds: tuple[float, ...] = ()
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Label -> its mean score around each of these times; labels that matter nowhere are left out."""


@dataclass(frozen=True)
class TimelineResult:
    """A video, the truth and the answer."""

    name: str
    """Path below the data's root."""
    path: str
    duration_seconds: float
    num_frames: int
    """Grid frames."""
    truth: tuple[Segment, ...]
    """Every labelled stretch, those of the background and those that nobody has looked at among them."""
    predicted: tuple[Segment, ...]
    abstained: tuple[Segment, ...] = ()
    """Stretches in which no label was open, as thresholds have it: neither an action nor background was answered."""
    curves: ScoreCurves = ScoreCurves()
    is_features: bool = False
    """True for a file of features, which has no pictures."""
    error: str = ""
    """Cause for which it could not be read; it counts as empty."""


@dataclass(frozen=True)
class TimelineEvaluation:
    """Results of every video, and what follows from them. Shares are 0 to 1."""

    labels: tuple[str, ...]
    """Labels of the model."""
    sample_fps: float
    """Grid frames a second."""
    results: tuple[TimelineResult, ...]
    labels_at_once: str = "one"
    """``sequence.labels`` of the model: one or several."""
    background_label: str = "background"
    unlabelled_label: str = "unlabelled"
    frame_map_by_score: float | None = None
    """Mean over labels, background left out, of the average precision of the scores at each grid frame."""
    left_out: tuple[LeftOut, ...] = ()
    """Videos that the model has seen."""

    def pairs(self, *, on_grid: bool = False, answered: bool = False) -> list[VideoPair]:
        """Truth and answer of each video side by side, without background.

        What is answered where nobody has looked is neither right nor wrong.

        Args:
            on_grid: by the labels at the grid frames alone, each of which lasts until the next.
            answered: leave out the stretches without an answer, too.
        """
        return [self._pair(result, on_grid, answered) for result in self.results]

    def _pair(self, result: TimelineResult, on_grid: bool, answered: bool) -> VideoPair:
        fps = self.sample_fps
        duration = result.num_frames / fps if on_grid else result.duration_seconds
        sides: list[Sequence[Span]] = [result.truth, result.predicted, result.abstained if answered else ()]
        if on_grid:
            sides = [_at_grid(side, fps) for side in sides]
        truth, predicted, abstained = sides
        unlabelled = unlabelled_parts(LabelledVideo("", tuple(truth)), duration, [self.unlabelled_label])
        unanswered = [(span.start_seconds, span.end_seconds) for span in abstained]
        holes = parts_outside((*unlabelled, *unanswered), (), duration)
        silent = (self.background_label, self.unlabelled_label)
        truth, predicted = (without_labels(side, silent) for side in (truth, predicted))
        num_frames = len(grid_range(fps, 0.0, duration)) if duration > 0 else 0
        return VideoPair(result.name, truth, cut_out(predicted, holes), duration, fps, num_frames, unlabelled=holes)

    @cached_property
    def figures(self) -> TimelineFigures:
        """By the times of true and predicted segments."""
        return judge_timelines(self.pairs())

    @cached_property
    def on_grid(self) -> TimelineFigures:
        """By the labels at the grid frames alone, as published figures of feature sets are."""
        return judge_timelines(self.pairs(on_grid=True), TimelineSettings(num_resamples=0))

    @property
    def num_errors(self) -> int:
        """Videos that could not be read; they count as empty."""
        return sum(bool(result.error) for result in self.results)

    def summary(self) -> dict[str, Any]:
        """All figures as plain values, with 95 % intervals over videos."""
        return self.figures.summary() | {
            "frame_map_by_score": self.frame_map_by_score,
            **self._where_answered(),
            "on_grid": {name: figure.value for name, figure in self.on_grid.figures.items()},
            "num_errors": self.num_errors,
            "num_left_out": len(self.left_out),
        }

    def _where_answered(self) -> dict[str, float]:
        """Share of the frames that have an answer, and accuracy over these."""
        num_frames = sum(count_frames(pair).num_frames for pair in self.pairs())
        counts = [count_frames(pair) for pair in self.pairs(answered=True)]
        num_answered = sum(count.num_frames for count in counts)
        return {
            "answered_share": num_answered / num_frames if num_frames else math.nan,
            "frame_accuracy_answered": sum(c.num_right for c in counts) / num_answered if num_answered else math.nan,
        }

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; ``read_evaluation`` takes them."""
        return asdict(self)


def read_timeline_evaluation(value: object, where: str) -> TimelineEvaluation:
    """Return the evaluation that ``TimelineEvaluation.to_json`` gave.

    Raises:
        UserError: it is something else; begins with ``where``.
    """
    return read_checked(TimelineEvaluation, value, where)


def load_timeline_evaluation(path: Path) -> TimelineEvaluation:
    """Read a ``timelines.json``. Raises as ``read_timeline_evaluation``."""
    return read_timeline_evaluation(read_json(path.read_text(encoding="utf-8"), str(path)), str(path))


def _at_grid(spans: Sequence[Span], sample_fps: float) -> list[Span]:
    """The grid frames that each span covers, each until the next; none of a span between two of them."""
    snapped = []
    for span in spans:
        first, stop = (math.ceil(time * sample_fps - 1e-6) for time in (span.start_seconds, span.end_seconds))
        if stop > first:
            snapped.append(replace(span, start_seconds=first / sample_fps, end_seconds=stop / sample_fps))
    return snapped


def write_timelines(evaluation: TimelineEvaluation, folder: Path, summary: dict[str, Any]) -> list[Path]:
    """Writes ``summary.json``, ``segments.csv`` (true and predicted segments of every video) and ``timelines.json``
    (the whole evaluation, for the page). Returns what it wrote."""
    contents = (
        to_json(summary, indent=1, ensure_ascii=False),
        _segments_csv(evaluation.results),
        to_json(evaluation.to_json(), ensure_ascii=False),
    )
    for name, content in zip(TIMELINE_FILES, contents, strict=True):
        write_atomically(folder / name, content)
    return [folder / name for name in TIMELINE_FILES]


def _segments_csv(results: Sequence[TimelineResult]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "side", "start_seconds", "end_seconds", "label", "score"])
    for result in results:
        for side in ("truth", "predicted"):
            for segment in getattr(result, side):
                times = f"{segment.start_seconds:.3f}", f"{segment.end_seconds:.3f}"
                writer.writerow([result.name, side, *times, segment.label, f"{segment.score:.6f}"])
    return text.getvalue()
