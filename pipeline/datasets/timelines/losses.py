"""Losses of labelled stretches in a format that cannot hold all of them, in words: nothing is dropped in silence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from pipeline.config import BACKGROUND, UNLABELLED
from pipeline.timeline.labelled import LabelledVideo, Span

_MILLISECONDS, _TOLERANCE = 1000, 1e-6


def _by_label(video: LabelledVideo) -> Iterable[list[Span]]:
    found: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(video.spans, key=lambda span: (span.start_seconds, span.end_seconds)):
        found[span.label].append(span)
    return found.values()


def _count_overlaps(video: LabelledVideo) -> int:
    """Stretches that begin before one of another label has ended; what is unlabelled is no label."""
    spans = sorted(
        (span for span in video.spans if span.label != UNLABELLED and span.end_seconds > span.start_seconds),
        key=lambda span: span.start_seconds,
    )
    count, ends = 0, dict[str, float]()
    for span in spans:
        count += any(end > span.start_seconds for label, end in ends.items() if label != span.label)
        ends[span.label] = max(span.end_seconds, ends.get(span.label, 0.0))
    return count


def _count_repeats(video: LabelledVideo) -> int:
    count = 0
    for spans in _by_label(video):
        end = -1.0
        for span in spans:
            count += span.start_seconds < end
            end = max(end, span.end_seconds)
    return count


def _count_touching(video: LabelledVideo) -> int:
    return sum(a.end_seconds == b.start_seconds for spans in _by_label(video) for a, b in pairwise(spans))


def _count_fine(video: LabelledVideo) -> int:
    times = [_MILLISECONDS * time for span in video.spans for time in (span.start_seconds, span.end_seconds)]
    return sum(time < 0 or abs(time - round(time)) > _TOLERANCE * _MILLISECONDS for time in times)


KINDS: dict[str, tuple[str, Callable[[LabelledVideo], int]]] = {
    "scores": ("scores", lambda video: sum(span.score != 1 for span in video.spans)),
    "overlaps": ("several labels at once", _count_overlaps),
    "repeats": ("stretches of one label that overlap, which become one", _count_repeats),
    "touching": ("borders between stretches of one label, which become one", _count_touching),
    "moments": ("moments, stretches without length", lambda v: sum(s.end_seconds <= s.start_seconds for s in v.spans)),
    "empty": ("videos without a stretch", lambda video: not video.spans),
    "unlabelled": ("videos that are partly unlabelled", lambda video: video.uncovered != BACKGROUND),
    "groups": ("groups of videos", lambda video: bool(video.group)),
    "splits": ("parts of videos (split)", lambda video: bool(video.split)),
    "durations": ("durations of videos", lambda video: video.duration_seconds is not None),
    "fine": ("times before 0 or finer than a millisecond, which are moved", _count_fine),
}
"""Kind -> words, and how often a video has it."""


def find_losses(videos: Sequence[LabelledVideo], holds: Iterable[str], target: str) -> list[str]:
    """Return what a format cannot hold of some videos, a text for each kind, with how often it is there.

    Args:
        videos: in seconds.
        holds: the kinds that it can hold.
        target: the format's name.
    """
    kept = set(holds)
    counts = {
        words: sum(count(video) for video in videos) for kind, (words, count) in KINDS.items() if kind not in kept
    }
    return [f"{target} cannot hold {words}: {count}" for words, count in counts.items() if count]


def find_left_out(videos: Sequence[LabelledVideo], source: str) -> list[str]:
    """Return what a file says of its videos and clipgru has no place for."""
    counts = Counter(thing for video in videos for thing in video.left_out)
    return [f"left out of {source}: {thing}, in {count} video{'s' * (count > 1)}" for thing, count in counts.items()]
