"""Board for people who watch: the newest state of each source, its last minute, its picture as a JPEG.

The loop that recognises publishes, watchers read. Between them is one reference to an immutable tuple, so that neither
ever waits for the other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.drawing import as_jpeg, resized
from pipeline.streaming.status import SourceStatus

HISTORY_SECONDS = 60.0
_MAX_WIDTH_PX = 960
"""Wider pictures are made smaller before they are sent."""
_LONGEST_STEP_SECONDS = 2.0
"""Between two pictures further apart nothing is known: the strip stays blank there."""
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class LabelStretch:
    """A stretch of the strip in which the labels stay. Seconds are those of the source's pictures."""

    number: int
    """Counts up within a source."""
    start_seconds: float
    end_seconds: float
    labels: tuple[str, ...] = ()
    styles: tuple[int, ...] = ()
    """Numbers of their colours and patterns: the same for one label on every source, from 0 in order of appearance."""


class BoardPicture:
    """One picture, encoded when somebody first asks for it, and only once."""

    def __init__(self, number: int, rgb: NDArray[np.uint8]) -> None:
        self.number, self.rgb = number, rgb
        self._lock, self._jpeg = threading.Lock(), b""

    def jpeg(self) -> bytes:
        """The picture as a JPEG. May take milliseconds; may be called by several threads."""
        with self._lock:
            self._jpeg = self._jpeg or encode_jpeg(self.rgb)
            return self._jpeg


@dataclass(frozen=True)
class Card:
    """One source as it is told to those who watch."""

    key: tuple[str, int]
    """The name, and a number among the sources of that name, from 1."""
    number: int
    """Stays the source's own as long as it is there, and is given to no other."""
    status: SourceStatus
    picture: BoardPicture | None = None
    runs: tuple[LabelStretch, ...] = ()
    """The last minute, oldest first."""


class Board:
    """The cards of all sources, written by one thread and read by any."""

    def __init__(self) -> None:
        self.cards: tuple[Card, ...] = ()
        """A new tuple after every change; never changed in place."""
        self._card_numbers, self._picture_numbers = count(1), count(1)
        self._styles: dict[str, int] = {}

    def publish(self, statuses: Sequence[SourceStatus]) -> None:
        """Replace the cards of all sources: one that is not among these has gone."""
        before = {card.key: card for card in self.cards}
        seen: dict[str, int] = {}
        cards = []
        for status in statuses:
            seen[status.name] = seen.get(status.name, 0) + 1
            key = (status.name, seen[status.name])
            card = before.get(key) or Card(key, next(self._card_numbers), status)
            cards.append(
                replace(card, status=status, picture=self._picture(card, status), runs=self._runs(card, status))
            )
        self.cards = tuple(cards)

    def _picture(self, card: Card, status: SourceStatus) -> BoardPicture | None:
        if status.picture is None or (card.picture and card.picture.rgb is status.picture):
            return card.picture
        return BoardPicture(next(self._picture_numbers), status.picture)

    def _runs(self, card: Card, status: SourceStatus) -> tuple[LabelStretch, ...]:
        if status.picture is None:
            return card.runs
        styles = tuple(self._styles.setdefault(label, len(self._styles)) for label in status.labels)
        return extend_runs(card.runs, status.time_seconds, status.labels, styles)


def extend_runs(
    runs: tuple[LabelStretch, ...], time_seconds: float, labels: tuple[str, ...], styles: tuple[int, ...]
) -> tuple[LabelStretch, ...]:
    """The last minute after one more step.

    The labels hold from the step before to this one. A time that goes back is a source that started again: what was
    before is forgotten.
    """
    last = runs[-1] if runs else LabelStretch(-1, time_seconds, time_seconds)
    is_restart = time_seconds < last.end_seconds
    is_gap = is_restart or time_seconds - last.end_seconds > _LONGEST_STEP_SECONDS
    if runs and not is_gap and last.labels == labels:
        runs = (*runs[:-1], replace(last, end_seconds=time_seconds))
    else:
        start_seconds = time_seconds if is_gap else last.end_seconds
        new = LabelStretch(last.number + 1, start_seconds, time_seconds, labels, styles)
        runs = (new,) if is_restart else (*runs, new)
    oldest_seconds = time_seconds - HISTORY_SECONDS
    first = next(index for index, run in enumerate(runs) if run.end_seconds >= oldest_seconds)
    return runs[first:]


def describe_card(card: Card, first_run: int = 0) -> dict[str, Any]:
    """A card as plain values that JSON can hold; of its runs only those from number ``first_run`` on."""
    status = asdict(replace(card.status, picture=None))
    del status["totals"]
    described: dict[str, Any] = _plain(
        status
        | {
            "number": card.number,
            "top": [{"label": label, "score": score} for label, score in card.status.top],
            "picture": card.picture.number if card.picture else None,
            "oldest_run": card.runs[0].number if card.runs else 0,
            "runs": [asdict(run) for run in card.runs if run.number >= first_run],
        }
    )
    return described


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity nor numpy's numbers."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """``uint8 [H, W, 3]``, at most ``_MAX_WIDTH_PX`` wide afterwards."""
    height, width = rgb.shape[:2]
    if width > _MAX_WIDTH_PX:
        rgb = resized(rgb, _MAX_WIDTH_PX, round(height * _MAX_WIDTH_PX / width))
    return as_jpeg(rgb, _JPEG_QUALITY)
