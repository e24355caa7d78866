"""Live pictures on a model's time grid. Arithmetic on times that others read from the clock.

Grid frame k of a source is the picture shown ``k / sample_fps`` seconds after its first one, as in a file: the newest
that was captured by then. So a lost or late picture does not change how fast an action seems to be:

    captured   a    b     c  d         e    f       (f is newer than the grid frame, and is not looked at yet)
    grid       0      1      2      3      4
    picture    a      b      d      d      e
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

# A picture may be late by this share of a grid step. Without it, a camera whose rate is a multiple of the grid's would
# show now the picture of its grid frame and now the one before, as its clock and ours happen to waver.
LATE_SHARE = 0.1
_ROUNDING = 1e-6


@dataclass(eq=False)
class _Shot:
    """One picture and when it was captured, by the monotonic clock."""

    picture: Image
    """uint8 RGB ``[H, W, 3]``."""
    captured_seconds: float
    next_seconds: float = math.inf
    """When the next one was captured, if one was."""


@dataclass(frozen=True)
class Tick:
    """The newest grid frame, and what has become of those since the last one taken."""

    index: int
    shot: _Shot | None
    """None: it shows the same picture as the one taken last."""
    num_held: int
    """Grid frames just before this one that keep the last picture."""
    num_dropped: int
    """How many of the grid frames before this one had a picture of their own, which nobody took."""
    is_first: bool
    """What came before is not continued."""


class GridSlot:
    """Holds the newest picture of a source, and the one that the newest grid frame shows if that is another. Whoever
    puts and takes in different threads must hold a lock.

    Args:
        sample_fps: grid frames per second.
        max_gap_seconds: a picture that is held for longer than this is no longer what the camera sees.
    """

    def __init__(self, sample_fps: float, max_gap_seconds: float) -> None:
        self.num_in = self.num_used = 0
        self.origin_seconds: float | None = None
        self._sample_fps, self._max_gap_seconds = sample_fps, max_gap_seconds
        self._last_index = -1
        self._newest: _Shot | None = None
        self._due: _Shot | None = None  # the newest shot but those since the newest grid frame
        self._used: _Shot | None = None  # shown by the last tick taken; None: the next tick is a first one
        self._unseen_seconds = math.inf  # when the first picture was captured that is newer than the one used

    def put(self, picture: Image, captured_seconds: float) -> None:
        """The source's next picture."""
        self.num_in += 1
        if self.origin_seconds is None:
            self.origin_seconds = captured_seconds
        if self._newest is not None:
            self._newest.next_seconds = captured_seconds
            if self._first_index(captured_seconds) > self._first_index(self._newest.captured_seconds):
                self._due = self._newest
        self._newest = _Shot(picture, captured_seconds)
        self._unseen_seconds = min(self._unseen_seconds, captured_seconds)

    def cut(self) -> None:
        """The signal is lost: the next picture begins anew."""
        self._newest = self._due = self._used = None
        self._unseen_seconds = math.inf

    def is_stale(self, now_seconds: float) -> bool:
        """Whether the source has given nothing for longer than the greatest gap."""
        return self._newest is not None and now_seconds - self._newest.captured_seconds > self._max_gap_seconds

    def due_seconds(self) -> float:
        """When the next grid frame can be taken; infinity where there is no picture to show."""
        if self.origin_seconds is None or self._newest is None:
            return math.inf
        return self.origin_seconds + (self._last_index + 1 + LATE_SHARE) / self._sample_fps

    def take(self, now_seconds: float) -> Tick | None:
        """The newest grid frame, or None if there is none since the last one taken."""
        if self._newest is None:
            return None
        index = math.floor(self._place(now_seconds) + _ROUNDING)
        shot = self._newest if self._first_index(self._newest.captured_seconds) <= index else self._due
        if index <= self._last_index or shot is None:
            return None
        num_held, self._last_index = index - self._last_index - 1, index
        if shot is self._used:
            return Tick(index, None, num_held, 0, False)
        num_dropped = min(max(index - self._first_index(self._unseen_seconds), 0), num_held)
        is_first = self._used is None or self._is_gap(self._used, shot, num_held)
        self._used, self._unseen_seconds = shot, shot.next_seconds
        self.num_used += 1
        return Tick(index, shot, 0 if is_first else num_held, num_dropped, is_first)

    def _is_gap(self, used: _Shot, shot: _Shot, num_held: int) -> bool:
        between = max(num_held / self._sample_fps, shot.captured_seconds - used.captured_seconds)
        return between > self._max_gap_seconds

    def _first_index(self, captured_seconds: float) -> int:
        """The first grid frame that may show a picture captured then."""
        return math.ceil(self._place(captured_seconds) - _ROUNDING)

    def _place(self, seconds: float) -> float:
        assert self.origin_seconds is not None
        return (seconds - self.origin_seconds) * self._sample_fps - LATE_SHARE
