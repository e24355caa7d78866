"""Frames get labels, frames of one label make a run, short runs go to a neighbour. Fed one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline.scores import FloatArray, FrameScore

# A run shorter than the minimum by less than this is long enough: frames times rate are floats.
_TOLERANCE_FRAMES = 1e-6


@dataclass
class Run:
    """Consecutive grid frames with one label."""

    label: int
    """A class, or ``K``, which is "unknown"."""
    start: int
    sums: NDArray[np.float64]
    """``[K + 1]``: sums over its frames, float64 because a run may last for a day."""
    length: int = 1

    @property
    def stop(self) -> int:
        return self.start + self.length

    def score(self, label: int) -> float:
        """The mean over its frames."""
        return float(self.sums[label] / self.length)

    def extend(self, other: Run) -> None:
        """Takes the run that follows this one in."""
        self.sums = self.sums + other.sums
        self.length += other.length


def with_unknown(probabilities: FloatArray) -> NDArray[np.float64]:
    """``[K]`` -> ``[K + 1]``: how likely the frame is nothing known, taken as what its best label lacks."""
    return np.append(probabilities.astype(np.float64), 1.0 - probabilities.max())


class Hysteresis:
    """Gives each frame a label. The best label of a frame opens if its score is at least ``enter``; it stays open until
    another one opens, or its own score is below ``exit``. Where none is open, the frame is unknown."""

    def __init__(self, enter: float, exit: float) -> None:
        self._enter, self._exit = enter, exit
        self._open: int | None = None

    def label(self, probabilities: FloatArray) -> int:
        """A class, or ``K`` for unknown."""
        best = int(probabilities.argmax())
        if probabilities[best] >= self._enter:
            self._open = best
        elif self._open is not None and probabilities[self._open] < self._exit:
            self._open = None
        return len(probabilities) if self._open is None else self._open


class RunBuilder:
    """Labelled frames -> runs."""

    def __init__(self) -> None:
        self._current: Run | None = None

    def push(self, frame: FrameScore, label: int) -> list[Run]:
        """The run that this frame ends, if it has another label."""
        run = Run(label, frame[0], with_unknown(frame[1]))
        if self._current is not None and self._current.label == label:
            self._current.extend(run)
            return []
        return self._replace(run)

    def flush(self) -> list[Run]:
        """The last run."""
        return self._replace(None)

    def _replace(self, run: Run | None) -> list[Run]:
        ended, self._current = self._current, run
        return [] if ended is None else [ended]


class ShortRuns:
    """Gives each run shorter than ``min_frames`` to the neighbour whose label it scores higher."""

    def __init__(self, min_frames: float) -> None:
        self._min_frames = min_frames - _TOLERANCE_FRAMES
        self._held: Run | None = None  # long enough, and may still grow
        self._pending: Run | None = None  # short, waiting to see what follows

    def push(self, run: Run, end_frame: float = math.inf) -> list[Run]:
        """The run before, if it is final. ``end_frame``: where the video ends, for its last frame may be cut short."""
        run = self._settle_pending(run)
        if self._held is not None and run.label == self._held.label:
            self._held.extend(run)
            return []
        if min(run.stop, end_frame) - run.start < self._min_frames:
            self._pending = run
            return []
        ended, self._held = self._held, run
        return [] if ended is None else [ended]

    def flush(self) -> list[Run]:
        """What is left: one run, or none if there never was one."""
        if self._pending is not None and self._held is not None:
            self._held.extend(self._pending)
        last, self._held, self._pending = self._held or self._pending, None, None
        return [] if last is None else [last]

    def _settle_pending(self, run: Run) -> Run:
        """The pending run joins the one before or the one that follows, which is returned."""
        pending, self._pending = self._pending, None
        if pending is None:
            return run
        if self._held is not None and pending.score(self._held.label) >= pending.score(run.label):
            self._held.extend(pending)
            return run
        return Run(run.label, pending.start, pending.sums + run.sums, pending.length + run.length)
