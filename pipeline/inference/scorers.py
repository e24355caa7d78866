"""From what the backbone saw of each frame to scores: by windows that overlap, or by a state that is carried on.

A scorer is pushed the grid frames of one video or camera, in order, in portions of any size; the portions change
nothing. Memory is one window's, or one state's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.config import InferenceConfig
from pipeline.embedding.arrays import Features, joined, stacked
from pipeline.errors import UserError, no_finite_scores
from pipeline.inference.runtime import Heads, ModelDescription, Readings, State
from pipeline.sampling import Window
from pipeline.timeline.scores import WindowScores

_MAX_WINDOWS_A_CALL = 8


class WindowScorer:
    """Scores windows of ``num_frames`` grid frames, each from a fresh state, as a clip in training.

    Args:
        heads: give scores.
        num_frames: of a window.
        stride_frames: grid frames from one window's start to the next.
        first_frame: grid frame of the first features; a window reaches back that far.
    """

    def __init__(self, heads: Heads, num_frames: int, stride_frames: int, first_frame: int = 0) -> None:
        self._heads, self._first_frame = heads, first_frame
        self._num_frames, self._stride = num_frames, stride_frames
        self._kept: Features = None  # [t, ...]: the frames that a coming window may still need
        self._first = 0  # place of the first of them
        self._next_start = 0
        self._count = 0

    def push(self, projected: Features) -> list[WindowScores]:
        """Scores of the windows that ``projected [n, ...]`` completes."""
        kept = projected if self._kept is None else joined([self._kept, projected])
        self._count += len(projected)
        starts = range(self._next_start, self._count - self._num_frames + 1, self._stride)
        scores = self._score(kept, starts)
        if starts:
            self._next_start = starts[-1] + self._stride
        # The last frames stay in any case: the video's last window ends with the video.
        first = max(self._first, min(self._next_start, self._count - self._num_frames))
        # A copy, so that a small rest does not keep a large portion alive.
        self._kept, self._first = joined([kept[first - self._first :]]), first
        return scores

    def finish(self) -> list[WindowScores]:
        """The window that ends with the video, if the stride has not landed there. A camera has none."""
        last = self._count - self._num_frames
        if self._kept is None or last < 0 or last == self._next_start - self._stride:
            return []
        return self._score(self._kept, range(last, last + 1))

    def _score(self, kept: Features, starts: range) -> list[WindowScores]:
        scored = []
        for place in range(0, len(starts), _MAX_WINDOWS_A_CALL):
            some = starts[place : place + _MAX_WINDOWS_A_CALL]
            windows = stacked([kept[start - self._first :][: self._num_frames] for start in some])  # [B, T, ...]
            seen = [Window(start, start + self._num_frames + self._first_frame) for start in some]
            scored += _scores(seen, self._heads.score_windows(windows))
        return scored


class StreamScorer:
    """Scores every grid frame from all frames before it, by a state that is carried on.

    Args:
        heads: give scores; they must be able to stream.
        reset_frames: the state starts anew every so many grid frames; 0 is never.
        first_frame: grid frame of the first features.
        delay_frames: the model's answers speak of so many grid frames before; at the end the last frame is held for as
            long.

    Raises:
        UserError: the model reads the future.
    """

    def __init__(self, heads: Heads, reset_frames: int = 0, first_frame: int = 0, delay_frames: int = 0) -> None:
        if not heads.streams:
            raise UserError(
                "this model is bidirectional: it reads the future and cannot score a stream frame by frame. Use "
                "--inference.mode windows, or train with model.bidirectional false"
            )
        self._heads, self._reset_frames, self._first_frame = heads, reset_frames, first_frame
        self._delay_frames = delay_frames
        self._last: Features = None  # [1, ...]
        self._state: State = None
        self._count = 0

    def push(self, projected: Features) -> list[WindowScores]:
        """A score for each of ``projected [n, ...]``: windows of one grid frame."""
        scored: list[WindowScores] = []
        if self._delay_frames and len(projected):
            self._last = joined([projected[-1:]])
        while len(projected):
            num_left = len(projected)
            if self._reset_frames:
                since_reset = self._count % self._reset_frames
                self._state = self._state if since_reset else None
                num_left = min(num_left, self._reset_frames - since_reset)
            scored += self._score(projected[:num_left])
            projected = projected[num_left:]
        return scored

    def finish(self) -> list[WindowScores]:
        """The scores that a delayed model still owes."""
        last, self._last = self._last, None
        return [] if last is None else self._score(joined([last] * self._delay_frames))

    def _score(self, projected: Features) -> list[WindowScores]:
        readings, self._state = self._heads.score_steps(projected, self._state)
        first = self._count - self._delay_frames
        self._count += len(projected)
        return _frame_scores(first, self._first_frame, readings)


class _WholeScorer:
    """Scores every grid frame once all of a video is there: for models that read both ways. Holds all its features."""

    def __init__(self, heads: Heads, first_frame: int = 0, delay_frames: int = 0) -> None:
        self._heads, self._first_frame, self._delay_frames = heads, first_frame, delay_frames
        self._kept: list[Features] = []

    def push(self, projected: Features) -> list[WindowScores]:
        """Nothing yet."""
        self._kept.append(projected)
        return []

    def finish(self) -> list[WindowScores]:
        """The scores of all frames."""
        if not self._kept:
            return []
        features = joined([*self._kept, *[self._kept[-1][-1:]] * self._delay_frames])
        self._kept = []
        readings, _ = self._heads.score_steps(features, None)
        return _frame_scores(-self._delay_frames, self._first_frame, readings)


def _frame_scores(first: int, first_frame: int, readings: Readings) -> list[WindowScores]:
    """Windows of one grid frame each, from place ``first`` on; those before the video's start are left out."""
    places = range(first, first + len(readings.probabilities))
    scored = _scores([Window(first_frame + place, first_frame + place + 1) for place in places], readings)
    return scored[max(0, -first) :]


def _scores(windows: list[Window], readings: Readings) -> list[WindowScores]:
    if not np.isfinite(readings.probabilities).all():
        raise no_finite_scores()
    rows = zip(windows, readings.probabilities, readings.is_unknown.tolist(), strict=True)
    return [WindowScores(*row) for row in rows]


Scorer = WindowScorer | StreamScorer | _WholeScorer


def _windows(heads: Heads, file: ModelDescription, config: InferenceConfig) -> Scorer:
    if not heads.reads_windows:
        raise UserError(
            "this file holds the streaming step alone, which cannot score windows; use --inference.mode stream, or the "
            "file that ends in .clip.onnx"
        )
    num_frames = file.sampling.num_frames
    stride = config.stride_frames or max(1, num_frames // 4)
    return WindowScorer(heads, num_frames, stride, file.transform.frames_for(0))


def _stream(heads: Heads, file: ModelDescription, config: InferenceConfig) -> Scorer:
    sample_fps = file.sampling.sample_fps
    reset_frames = round(config.reset_seconds * sample_fps)
    if config.reset_seconds and not reset_frames:
        raise UserError(
            f"inference.reset_seconds {config.reset_seconds:g} is less than one grid frame; the model reads "
            f"{sample_fps:g} a second"
        )
    return StreamScorer(heads, reset_frames, file.transform.frames_for(0), file.sequence.delay_frames)


def _whole(heads: Heads, file: ModelDescription, config: InferenceConfig) -> Scorer:
    if not heads.reads_whole:
        raise UserError(
            f"this exported file reads both ways over windows of {file.sampling.num_frames} frames, not over whole "
            "videos; use --inference.mode windows, or the model file that it was made of"
        )
    return _WholeScorer(heads, file.transform.frames_for(0), file.sequence.delay_frames)


# mode -> (heads, the model's file, settings) -> scorer
SCORERS: dict[str, Callable[[Heads, ModelDescription, InferenceConfig], Scorer]] = {
    "windows": _windows,
    "stream": _stream,
    "whole": _whole,
}
