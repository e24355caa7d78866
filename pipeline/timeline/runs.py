"""Frames get labels, frames of one label make a run, short runs go to a neighbour. Fed one by one."""

from __future__ import annotations

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


def run_of_frame(frame: FrameScore, label: int) -> Run:
    """Return the run of one frame, of ``[K + 1]`` the probabilities and the share of windows that are unknown by the
    model's rule. The last becomes how likely the frame is nothing known: what its best label lacks, or that share if it
    is more."""
    index, scores = frame
    known = scores[:-1].astype(np.float64)
    return Run(label, index, np.append(known, max(1.0 - scores[:-1].max(), scores[-1])))


def runs_of_frames(labels: NDArray[np.int64], scores: FloatArray) -> list[Run]:
    """Return the runs of all frames of a video, of labels ``[G]`` and probabilities ``[G, K]``; by the model's rule
    nothing is unknown."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    with_unknown = np.column_stack([scores.astype(np.float64), 1.0 - scores.max(axis=1)])
    sums, lengths = np.add.reduceat(with_unknown, starts, axis=0), np.diff(starts, append=len(labels))
    return [Run(*run) for run in zip(labels[starts].tolist(), starts.tolist(), sums, lengths.tolist(), strict=True)]


class Hysteresis:
    """Gives each frame a label. The best label of a frame opens if its score is at least ``enter``; it stays open until
    another one opens, or its own score is below ``exit``. Where none is open, the frame is unknown; none is where most
    windows are unknown by the model's rule."""

    def __init__(self, enter: float, exit: float) -> None:
        self._enter, self._exit = enter, exit
        self._open: int | None = None

    def label(self, scores: FloatArray) -> int:
        """``[K + 1]``, the probabilities and the share of windows that are unknown -> a class, or ``K`` for unknown."""
        probabilities, unknown_share = scores[:-1], scores[-1]
        best = int(probabilities.argmax())
        if unknown_share > 0.5:
            self._open = None
        elif probabilities[best] >= self._enter:
            self._open = best
        elif self._open is not None and probabilities[self._open] < self._exit:
            self._open = None
        return len(probabilities) if self._open is None else self._open


class RunBuilder:
    """Labelled frames -> runs, of which one shorter than ``min_frames`` goes to the neighbour whose label it scores
    higher. A run is final when the next one is known to be long enough."""

    def __init__(self, min_frames: float) -> None:
        self._min_frames = min_frames - _TOLERANCE_FRAMES
        self.held: Run | None = None
        """The last run that is long enough: it is sure to become final, and may still grow."""
        self._growing: Run | None = None  # follows it, under another label; may turn out too short

    def push(self, run: Run) -> list[Run]:
        """Takes the next frame, or all that follow under one label; gives the run that is final with it, if one is."""
        # Only now is the frame before a whole one: the video might have ended within it.
        final = [] if self._growing is None else self._promote(self._growing.length)
        if self._growing is not None:
            run = self._join(self._growing, run)
        if self.held is not None and self.held.label == run.label:
            self.held.extend(run)
            self._growing = None
        else:
            self._growing = run
        return final

    def finish(self, end_frame: float) -> list[Run]:
        """Return the runs left when no frame follows. ``end_frame``: end of the video, maybe within its last frame."""
        final: list[Run] = []
        if self._growing is not None:
            final = self._promote(min(self._growing.stop, end_frame) - self._growing.start)
        if self.held is not None and self._growing is not None:
            self.held.extend(self._growing)
        last = self.held or self._growing
        return final if last is None else [*final, last]

    def _promote(self, num_frames: float) -> list[Run]:
        """If the growing run is long enough, with so many frames, it takes the place of the one before it."""
        if self._growing is None or num_frames < self._min_frames:
            return []
        ended, self.held, self._growing = self.held, self._growing, None
        return [] if ended is None else [ended]

    def _join(self, short: Run, run: Run) -> Run:
        """A run that is short so far and what follows it: the same label, or the short one goes to a neighbour."""
        held = self.held
        if short.label != run.label and held is not None and short.score(held.label) >= short.score(run.label):
            held.extend(short)
            return run
        return Run(run.label, short.start, short.sums + run.sums, short.length + run.length)
