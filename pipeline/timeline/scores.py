"""Scores of windows become scores of grid frames, and those may be smoothed. Fed one by one, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sampling import Window

FloatArray = NDArray[np.float32]
FrameScore = tuple[int, FloatArray]
"""Grid index, and probabilities float32 ``[K]``."""


@dataclass(frozen=True)
class WindowScores:
    """Class probabilities of one window."""

    window: Window
    probabilities: FloatArray
    """float32 ``[K]``, sum 1."""
    is_unknown: bool = False
    """True if the window is unknown by the model's rule."""


class FrameMeans:
    """Probabilities of each grid frame: the mean over the windows that cover it."""

    def __init__(self) -> None:
        self._sums: deque[FloatArray] = deque()
        self._counts: deque[int] = deque()
        self._first = 0  # the grid frame of _sums[0], once there is one

    @property
    def stop(self) -> int:
        """The grid frame after the last one that a window has covered."""
        return self._first + len(self._sums)

    def push(self, scored: WindowScores) -> list[FrameScore]:
        """The frames that no later window can cover: those before this window's start.

        Raises:
            ValueError: this window starts before frames that are final, or leaves frames out.
        """
        start, stop = scored.window.start, scored.window.stop
        if not self._sums and self._first == 0:
            self._first = start
        if not self._first <= start <= self.stop:
            raise ValueError(f"windows come in order and without gaps: one at {start} after frames up to {self.stop}")
        final = [self._pop() for _ in range(start - self._first)]
        for place in range(stop - start):
            if place == len(self._sums):
                self._sums.append(np.zeros_like(scored.probabilities))
                self._counts.append(0)
            self._sums[place] = self._sums[place] + scored.probabilities
            self._counts[place] += 1
        return final

    def flush(self) -> list[FrameScore]:
        """The frames that are left, when no window follows."""
        return [self._pop() for _ in range(len(self._sums))]

    def _pop(self) -> FrameScore:
        self._first += 1
        return self._first - 1, self._sums.popleft() / np.float32(self._counts.popleft())


class MovingAverage:
    """The mean of each frame and of up to ``reach`` frames before and after it: centred, so that it moves no edge, and
    late by ``reach`` frames. Near the ends it is the mean of those that there are."""

    def __init__(self, reach: int) -> None:
        self._reach = reach
        self._ring: deque[FrameScore] = deque()
        self._next: int | None = None  # the frame that is averaged next

    def push(self, score: FrameScore) -> list[FrameScore]:
        """Takes the next frame; gives the one ``reach`` before it."""
        if self._next is None:
            self._next = score[0]
        self._ring.append(score)
        return [self._average()] if score[0] - self._next == self._reach else []

    def flush(self) -> list[FrameScore]:
        """The frames that are left, when none follows."""
        return [self._average() for _ in range(min(self._reach, len(self._ring)))]

    def _average(self) -> FrameScore:
        assert self._next is not None
        index, self._next = self._next, self._next + 1
        while self._ring[0][0] < index - self._reach:
            self._ring.popleft()
        if len(self._ring) == 1:
            return index, self._ring[0][1]
        return index, np.mean([scores for _, scores in self._ring], axis=0, dtype=np.float32)
