"""Labelled videos as any tool writes them: the truth, or predictions, before they are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.clip import Segment


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
