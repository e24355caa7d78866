"""Labelled stretches of one video, and changes to them that name what they saw. Pure: no file is touched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.errors import UserError

Rest = Literal["background", "unlabelled"]
"""Meaning of what no stretch of a video covers: looked at and found empty, or not looked at."""
BACKGROUND: Rest = "background"
UNLABELLED: Rest = "unlabelled"
_OVERLAP_SECONDS = 1e-3
"""Stretches that share less do not overlap: it is rounding."""
_MAX_SECONDS = 1e12


@dataclass(frozen=True)
class Span:
    """A label from a time to another, in seconds. A stretch that lasts until the video ends may end at infinity."""

    label: str
    start_seconds: float
    end_seconds: float

    def overlaps(self, other: Span) -> bool:
        """True if both cover a moment."""
        shared = min(self.end_seconds, other.end_seconds) - max(self.start_seconds, other.start_seconds)
        return shared > _OVERLAP_SECONDS

    def __str__(self) -> str:
        end = "the end" if math.isinf(self.end_seconds) else f"{self.end_seconds:g} s"
        return f"{self.label} from {self.start_seconds:g} s to {end}"


@dataclass(frozen=True)
class Stretch:
    """A span as it stands in the video now."""

    id: int
    version: int
    """Grows with each change of this stretch."""
    span: Span


@dataclass(frozen=True)
class Edit:
    """A change of one stretch.

    Attributes:
        id: the stretch; None makes a new one.
        version: its version when it was looked at.
        to: what becomes of it; None removes it.
    """

    id: int | None
    version: int | None
    to: Span | None


@dataclass(frozen=True)
class LabelChange:
    """One step of somebody's work, as the journal keeps it: by content, so that it can be done again, or undone, on a
    manifest that was read anew."""

    number: int
    who: str
    video: str
    removed: tuple[Span, ...] = ()
    added: tuple[Span, ...] = ()
    rest: tuple[Rest, Rest] | None = None
    """Meaning of what no stretch covers, before and after."""
    rejected: tuple[Span, ...] = ()
    """Drafts that were said to be wrong."""
    restored: tuple[Span, ...] = ()
    """Drafts that are no longer."""
    undoes: int | None = None
    redoes: int | None = None

    def inverse(self) -> LabelChange:
        """Return the change that takes this one back."""
        rest = None if self.rest is None else (self.rest[1], self.rest[0])
        return replace(
            self,
            removed=self.added,
            added=self.removed,
            rest=rest,
            rejected=self.restored,
            restored=self.rejected,
            undoes=None,
            redoes=None,
        )


class ConflictError(Exception):
    """Somebody else has changed what a change was to change.

    Attributes:
        stretches: as they are now, of those that it named or met.
    """

    def __init__(self, message: str, stretches: Iterable[Stretch] = ()) -> None:
        super().__init__(message)
        self.stretches = tuple(stretches)


@dataclass
class VideoLabels:
    """All that is said of one video."""

    name: str
    stretches: dict[int, Stretch] = field(default_factory=dict)
    rest: Rest = UNLABELLED
    rejected: list[Span] = field(default_factory=list)
    revision: int = 0
    """Grows with each change of any of it."""

    def plan(self, edits: Sequence[Edit], *, may_overlap: bool) -> tuple[list[Stretch], list[Span]]:
        """Return the stretches that the edits take away and the spans that they put there.

        Args:
            edits: of different stretches.
            may_overlap: stretches of different labels may.

        Raises:
            ConflictError: a stretch has changed since, or another stands where one is to be.
        """
        removed = [self._seen(edit) for edit in edits if edit.id is not None]
        added = [edit.to for edit in edits if edit.to is not None]
        gone = {stretch.id for stretch in removed}
        left = [stretch for stretch in self.stretches.values() if stretch.id not in gone]
        for span in added:
            met = [s for s in left if s.span.overlaps(span) and not (may_overlap and s.span.label != span.label)]
            if met:
                said = ", ".join(str(stretch.span) for stretch in met[:3])
                raise ConflictError(f"{span} meets what is there by now: {said}", met)
        return removed, added

    def _seen(self, edit: Edit) -> Stretch:
        found = self.stretches.get(edit.id or 0)
        if found is None:
            raise ConflictError("the stretch has been removed by somebody else meanwhile")
        if found.version != edit.version:
            raise ConflictError(f"the stretch has been changed by somebody else meanwhile: it is {found.span}", [found])
        return found

    def find(self, span: Span) -> Stretch | None:
        """Return the stretch that is this very span, if there is one."""
        return next((stretch for stretch in self.stretches.values() if stretch.span == span), None)

    def labelled_seconds(self, duration_seconds: float) -> float:
        """Return how much of the video has been looked at."""
        if self.rest == BACKGROUND:
            return duration_seconds
        covered = covered_parts(s.span for s in self.stretches.values() if s.span.label != UNLABELLED)
        return sum(max(0.0, min(end, duration_seconds) - start) for start, end in covered)


def covered_parts(spans: Iterable[Span]) -> Iterator[tuple[float, float]]:
    """Yield the parts of time that spans cover, joined where they touch, by start."""
    start = end = math.nan
    for span in sorted(spans, key=lambda span: span.start_seconds):
        if span.start_seconds <= end + _OVERLAP_SECONDS:
            end = max(end, span.end_seconds)
            continue
        if not math.isnan(start):
            yield start, end
        start, end = span.start_seconds, span.end_seconds
    if not math.isnan(start):
        yield start, end


def uncovered_parts(spans: Iterable[Span], end_seconds: float) -> Iterator[tuple[float, float]]:
    """Yield the parts of a video that no span covers, by start."""
    at = 0.0
    for start, end in covered_parts(spans):
        if start > at + _OVERLAP_SECONDS:
            yield at, min(start, end_seconds)
        at = max(at, end)
    if at < end_seconds - _OVERLAP_SECONDS:
        yield at, end_seconds


def span_to_json(span: Span) -> list[Any]:
    """Return ``[label, start, end]``; an end at infinity is null."""
    return [span.label, span.start_seconds, None if math.isinf(span.end_seconds) else span.end_seconds]


def span_from_json(value: Any) -> Span:
    """Read what ``span_to_json`` writes.

    Raises:
        UserError: it is something else, or no time of a video.
    """
    is_right = isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and bool(value[0].strip())
    if not is_right or not all(time is None or _is_time(time) for time in value[1:]):
        raise UserError(f"a stretch must be [label, start, end], got {str(value)[:80]}")
    if set(value[0]) & set("\0\r\n"):
        raise UserError("a label must be one line, as it is in the manifest")
    times = [math.inf if time is None else time for time in value[1:]]
    if not 0 <= times[0] < times[1]:
        raise UserError(f"a stretch must end after it starts, at 0 or later, got {times[0]} to {times[1]}")
    return Span(value[0].strip(), float(times[0]), float(times[1]))


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_SECONDS


def change_to_json(change: LabelChange) -> dict[str, Any]:
    """Return a change as plain values, without what is empty."""
    spans = {name: [span_to_json(span) for span in getattr(change, name)] for name in _SPANS}
    values = {"number": change.number, "who": change.who, "video": change.video} | spans
    values |= {"rest": list(change.rest) if change.rest else None, "undoes": change.undoes, "redoes": change.redoes}
    return {name: value for name, value in values.items() if value not in (None, [])}


_SPANS = ("removed", "added", "rejected", "restored")


def change_from_json(values: Mapping[str, Any]) -> LabelChange:
    """Read what ``change_to_json`` writes. Raises ``KeyError``, ``TypeError`` or ``UserError`` if it is something
    else."""
    spans = {name: tuple(span_from_json(value) for value in values.get(name, ())) for name in _SPANS}
    rest = values.get("rest")
    return LabelChange(
        int(values["number"]),
        str(values["who"]),
        str(values["video"]),
        **spans,
        rest=None if rest is None else (_rest(rest[0]), _rest(rest[1])),
        undoes=values.get("undoes"),
        redoes=values.get("redoes"),
    )


def _rest(value: object) -> Rest:
    return BACKGROUND if value == BACKGROUND else UNLABELLED
