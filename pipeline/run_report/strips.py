"""Truth and answer of a long video as strips over its score curves, and the video to play, if the page reaches it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener
from pipeline.errors import DecodeError
from pipeline.report.page import browsers_play, relative_address
from pipeline.sources import shown_path
from pipeline.timeline.labelled import Span, without_labels
from pipeline.timeline.metrics import VideoPair
from pipeline.timeline.metrics.confusion import label_places
from pipeline.timeline.metrics.frames import count_frames
from pipeline.timeline.metrics.segments import edit_score, match_segments
from pipeline.timeline_results import TimelineEvaluation, TimelineResult

_NUM_COLOURS = 12
_MAX_SEGMENTS = 1_000
"""Segments drawn of a video on either side; segments.csv has all."""


@dataclass(frozen=True)
class VideoFigures:
    """A video and how well its answer agrees with the truth. Shares are 0 to 1."""

    result: TimelineResult
    f1: tuple[float, ...]
    """At least 10, 25 and 50 % overlap."""
    edit: float
    frame_accuracy: float | None
    """None where nobody has looked."""

    @property
    def rank(self) -> tuple[bool, float, float, str]:
        """Order by which the worst come first: what could not be read, then by F1@25."""
        return not self.result.error, self.f1[1], self.frame_accuracy or 0.0, self.result.name


def rank_videos(evaluation: TimelineEvaluation) -> list[VideoFigures]:
    """Return every video with its figures, the worst first."""
    found = [_figures_of(*both) for both in zip(evaluation.results, evaluation.pairs(), strict=True)]
    return sorted(found, key=lambda figures: figures.rank)


def _figures_of(result: TimelineResult, pair: VideoPair) -> VideoFigures:
    counts = count_frames(pair)
    f1 = tuple(match_segments(pair.predicted, pair.truth, iou).f1 for iou in (0.1, 0.25, 0.5))
    accuracy = counts.num_right / counts.num_frames if counts.num_frames else None
    return VideoFigures(result, f1, edit_score(pair.predicted, pair.truth), accuracy)


@dataclass(frozen=True)
class _Bar:
    """A segment as it is drawn."""

    label: str
    start_seconds: float
    end_seconds: float
    left: float
    """Percent of the strip."""
    width: float
    style: str
    score: float | None = None
    """None of the truth."""


@dataclass(frozen=True)
class _Curve:
    """A label's scores, as points of a polyline in a box of 1000 by 100."""

    label: str
    points: str
    style: str


@dataclass(frozen=True)
class _Row:
    """Truth and answer, one above the other, and curves below them."""

    label: str
    """The label that it is about; empty for all, where there is one at a time."""
    truth: Sequence[_Bar]
    found: Sequence[_Bar]
    wrong: Sequence[_Bar]
    """Stretches in which the two differ, of a row for all labels."""
    curves: Sequence[_Curve]


@dataclass(frozen=True)
class _Strip:
    """A video as it is drawn."""

    figures: VideoFigures
    rows: Sequence[_Row]
    address: str = ""
    """Of the video, for the page; empty if the page cannot play it."""
    offset_seconds: float = 0.0
    """Time of the first picture on the player's clock."""
    note: str = ""
    """Cause for which the page does not play it, or does not show all of it."""
    colours: dict[str, str] = field(default_factory=dict)
    """Label -> style, of those drawn."""


def make_strips(
    videos: Sequence[VideoFigures], evaluation: TimelineEvaluation, folder: Path, decode: DecodeConfig
) -> Iterator[_Strip]:
    """Draw some videos for a page in ``folder``."""
    with VideoOpener(decode) as opener:
        for video in videos:
            address, offset, notes = _media(video.result, folder, opener)
            drawing = _Drawing(video.result, evaluation)
            note = " ".join([*notes, *drawing.notes()])
            yield _Strip(video, drawing.rows(), address, offset, note, drawing.colours())


def _media(result: TimelineResult, folder: Path, opener: VideoOpener) -> tuple[str, float, list[str]]:
    """Address of a video for a page, time of its first picture on a player's clock, and why it has none."""
    if result.error:
        return "", 0.0, [f"It could not be read: {result.error}"]
    if result.is_features:
        return "", 0.0, ["A file of features: there is no video to play."]
    try:
        with opener.open(result.path) as reader:
            info = reader.info
    except DecodeError:
        return "", 0.0, [f"The video cannot be read from here, so the page cannot play it: {shown_path(result.path)}"]
    if not browsers_play(info):
        return "", 0.0, [f"Browsers do not play this kind of video ({info.codec} in {info.path.suffix or 'a file'})."]
    return relative_address(info.path, folder), info.start_seconds_in_file, []


class _Drawing:
    """The rows of one video."""

    def __init__(self, result: TimelineResult, evaluation: TimelineEvaluation) -> None:
        self._result, self._evaluation = result, evaluation
        self._silent = (evaluation.background_label, evaluation.unlabelled_label)
        self._truth, self._found = (without_labels(side, self._silent) for side in (result.truth, result.predicted))
        used = {span.label for span in (*self._truth, *self._found)} | set(result.curves.scores)
        known = [label for label in evaluation.labels if label not in self._silent]
        self._labels = [label for label in [*known, *sorted(used - set(known))] if label in used - set(self._silent)]
        self._styles = {label: f"k{place % _NUM_COLOURS}" for place, label in enumerate([*known, *sorted(used)])}
        self._styles |= {label: f"k{place % _NUM_COLOURS}" for place, label in enumerate(known)}

    def notes(self) -> Iterator[str]:
        """Say what is not drawn."""
        if max(len(self._truth), len(self._found)) > _MAX_SEGMENTS:
            yield f"The first {_MAX_SEGMENTS:,} segments are drawn; segments.csv has all."

    def colours(self) -> dict[str, str]:
        """Label -> style, of those drawn."""
        return {label: self._styles[label] for label in self._labels}

    def rows(self) -> list[_Row]:
        """A row for each label where there may be several at once, else one for all."""
        if self._evaluation.labels_at_once == "one":
            return [self._row("", self._labels)]
        shown = {span.label for span in (*self._truth, *self._found)}
        labels = [label for label in self._labels if label in shown] or self._labels[:1]
        return [self._row(label, [label]) for label in labels]

    def _row(self, label: str, labels: Sequence[str]) -> _Row:
        truth, found = ([s for s in side if s.label in labels][:_MAX_SEGMENTS] for side in (self._truth, self._found))
        holes = [s for s in self._result.truth if s.label == self._evaluation.unlabelled_label]
        return _Row(
            label,
            [*(self._bar(s, "nobody") for s in holes), *(self._bar(s, self._styles[s.label]) for s in truth)],
            [self._bar(s, self._styles[s.label], s.score) for s in found],
            [] if label else list(self._wrong(truth, found)),
            [self._curve(each) for each in labels if each in self._result.curves.scores],
        )

    def _bar(self, span: Span, style: str, score: float | None = None) -> _Bar:
        start, end = (self._share(time) for time in (span.start_seconds, span.end_seconds))
        return _Bar(span.label, span.start_seconds, span.end_seconds, 100 * start, 100 * (end - start), style, score)

    def _share(self, seconds: float) -> float:
        return min(1.0, max(0.0, seconds / (self._result.duration_seconds or 1.0)))

    def _curve(self, label: str) -> _Curve:
        curves = self._result.curves
        pairs = zip(curves.times_seconds, curves.scores[label], strict=True)
        points = " ".join(f"{1000 * self._share(time):.0f},{100 - 100 * score:.0f}" for time, score in pairs)
        return _Curve(label, points, self._styles[label])

    def _wrong(self, truth: Sequence[Span], found: Sequence[Span]) -> Iterator[_Bar]:
        """The stretches of grid frames at which the two sides differ."""
        fps, count = self._evaluation.sample_fps, self._result.num_frames
        pair = VideoPair("", tuple(truth), tuple(found), self._result.duration_seconds, fps, count)
        differ = label_places(pair, truth, self._labels) != label_places(pair, found, self._labels)
        holes = [s for s in self._result.truth if s.label == self._evaluation.unlabelled_label]
        differ &= label_places(pair, holes, [self._evaluation.unlabelled_label]) == 1
        for is_wrong, frames in groupby(range(count), key=lambda frame: bool(differ[frame])):
            if is_wrong:
                places = list(frames)
                start, stop = (self._share(frame / fps) for frame in (places[0], places[-1] + 1))
                yield _Bar("", places[0] / fps, (places[-1] + 1) / fps, 100 * start, 100 * (stop - start), "bad")
