"""Labelled videos as any tool writes them: the truth, or predictions, before they are compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from pipeline.clip import Segment
from pipeline.config import BACKGROUND, UNLABELLED


@dataclass(frozen=True, slots=True)
class LabelledSpan:
    """A stretch of time with a label. Unlike a ``Segment`` it may be empty or begin before 0, as in other tools'
    files."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float = 1.0
    """Confidence, on any scale; 1 for truth."""


Span = Segment | LabelledSpan
Interval = tuple[float, float]
"""Start and end in seconds, the end excluded."""


@dataclass(frozen=True)
class LabelledVideo:
    """Labels of one video: spans, or a label for each step of a grid."""

    name: str
    spans: tuple[Span, ...] = ()
    """In the file's order, overlapping or not."""
    duration_seconds: float | None = None
    """None: not known."""
    steps: tuple[str, ...] | None = None
    """A label a step, in place of spans. Their rate is not in the file."""
    split: str = ""
    """Part of the dataset that the file puts it into, in the file's word; empty: none."""
    group: str = ""
    """Source that it was cut from, if the file says so."""
    uncovered: str = BACKGROUND
    """The label of all that no span covers: ``BACKGROUND`` or ``UNLABELLED``."""
    in_frames: bool = False
    """True: the times of the spans are numbers of frames, counted from 0, and not seconds."""
    left_out: tuple[str, ...] = ()
    """Things that the file says of it and that have no place here, such as subjects, in words."""


def parts_outside(among: Iterable[Interval], others: Iterable[Interval], end_seconds: float) -> tuple[Interval, ...]:
    """Return the parts of some intervals that others leave free, between 0 and ``end_seconds``: joined, in order."""
    changes: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for side, intervals in enumerate((among, others)):
        for start, end in intervals:
            start, end = max(start, 0.0), min(end, end_seconds)
            if start < end:
                changes[start][side] += 1
                changes[end][side] -= 1
    found: list[Interval] = []
    counts, since = [0, 0], -1.0
    for time in sorted(changes):
        counts = [count + change for count, change in zip(counts, changes[time], strict=True)]
        is_free = counts[0] > 0 and counts[1] == 0
        if since >= 0 and not is_free:
            found.append((since, time))
        since = (since if since >= 0 else time) if is_free else -1.0
    return tuple(found)


def unlabelled_parts(video: LabelledVideo, end_seconds: float, labels: Iterable[str]) -> tuple[Interval, ...]:
    """Return the parts of a video that nobody has looked at: spans of some labels, and where it says so what no span
    covers, as far as no other span lies there."""
    names = set(labels)
    known, unknown = (
        [(span.start_seconds, span.end_seconds) for span in video.spans if (span.label in names) == side]
        for side in (False, True)
    )
    if video.uncovered == UNLABELLED:
        unknown.append((0.0, end_seconds))
    return parts_outside(unknown, known, end_seconds)


def cut_out(spans: Iterable[Span], stretches: Sequence[Interval]) -> tuple[Span, ...]:
    """Return what some stretches of time leave of spans; a span around one becomes two."""
    kept: list[Span] = []
    for span in spans:
        start, end = span.start_seconds, span.end_seconds
        if not any((first < end and start < last) or first <= start == end < last for first, last in stretches):
            kept.append(span)
            continue
        parts = parts_outside([(start, end)], stretches, end)
        kept += [replace(span, start_seconds=first, end_seconds=last) for first, last in parts]
    return tuple(kept)


def spans_of_steps(steps: Sequence[str], sample_fps: float) -> tuple[LabelledSpan, ...]:
    """Join equal neighbours of a label-a-step sequence into spans; step k lasts from ``k / sample_fps`` seconds to the
    next."""
    spans, start = [], 0
    for label, run in groupby(steps):
        stop = start + sum(1 for _ in run)
        spans.append(LabelledSpan(start / sample_fps, stop / sample_fps, label))
        start = stop
    return tuple(spans)


def without_labels(spans: Iterable[Span], labels: Iterable[str]) -> tuple[Span, ...]:
    """Leave out the spans of some labels, such as background."""
    unwanted = set(labels)
    return tuple(span for span in spans if span.label not in unwanted)
