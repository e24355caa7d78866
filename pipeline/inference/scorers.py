"""From what the backbone saw of each frame to scores: by windows that overlap, or by a state that is carried on.

A scorer is pushed the grid frames of one video or camera, in order, in portions of any size; the portions change
nothing. Memory is one window's, or one state's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.calibration import UNCALIBRATED, Calibration
from pipeline.config import InferenceConfig, SamplingConfig
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal.head import State
from pipeline.sampling import Window
from pipeline.timeline import WindowScores

_MAX_WINDOWS_A_CALL = 8


class WindowScorer:
    """Scores windows of ``num_frames`` grid frames, each from a fresh state, as a clip in training.

    Args:
        recognizer: gives scores.
        num_frames: of a window.
        stride_frames: grid frames from one window's start to the next.
        num_context_frames: a window reaches that many grid frames further than it has features.
        calibration: how logits become probabilities.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        num_frames: int,
        stride_frames: int,
        num_context_frames: int = 0,
        calibration: Calibration = UNCALIBRATED,
    ) -> None:
        self._recognizer, self._num_context, self._calibration = recognizer, num_context_frames, calibration
        self._num_frames, self._stride = num_frames, stride_frames
        self._kept: Tensor | None = None  # [t, ...]: the frames that a coming window may still need
        self._first = 0  # grid index of the first of them
        self._next_start = 0
        self._count = 0

    def push(self, projected: Tensor) -> list[WindowScores]:
        """Scores of the windows that ``projected [n, ...]`` completes."""
        kept = projected if self._kept is None else torch.cat([self._kept, projected])
        self._count += len(projected)
        starts = range(self._next_start, self._count - self._num_frames + 1, self._stride)
        scores = self._score(kept, starts)
        if starts:
            self._next_start = starts[-1] + self._stride
        # The last frames stay in any case: the video's last window ends with the video.
        first = max(self._first, min(self._next_start, self._count - self._num_frames))
        # A copy, so that a small rest does not keep a large portion alive.
        self._kept, self._first = kept[first - self._first :].clone(), first
        return scores

    def finish(self) -> list[WindowScores]:
        """The window that ends with the video, if the stride has not landed there. A camera has none."""
        last = self._count - self._num_frames
        if self._kept is None or last < 0 or last == self._next_start - self._stride:
            return []
        return self._score(self._kept, range(last, last + 1))

    def _score(self, kept: Tensor, starts: range) -> list[WindowScores]:
        scored = []
        for place in range(0, len(starts), _MAX_WINDOWS_A_CALL):
            some = starts[place : place + _MAX_WINDOWS_A_CALL]
            windows = torch.stack([kept[start - self._first :][: self._num_frames] for start in some])  # [B, T, ...]
            step_scores, _ = self._recognizer.score_projected(windows)
            windows_seen = [Window(start, start + self._num_frames + self._num_context) for start in some]
            scored += _read(self._calibration, self._recognizer.read_out(step_scores), windows_seen)
        return scored


class StreamScorer:
    """Scores every grid frame from all frames before it, by a state that is carried on.

    Args:
        recognizer: gives scores; its heads must be able to stream.
        reset_frames: the state starts anew every so many grid frames; 0 is never.
        num_context_frames: grid frames before the first one that has features.
        calibration: how logits become probabilities.

    Raises:
        UserError: the model reads the future.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        reset_frames: int = 0,
        num_context_frames: int = 0,
        calibration: Calibration = UNCALIBRATED,
    ) -> None:
        if not recognizer.temporal.streams:
            raise UserError(
                "this model is bidirectional: it reads the future and cannot score a stream frame by frame. Use the "
                "mode 'windows', or train with model.bidirectional false"
            )
        self._recognizer, self._reset_frames, self._num_context = recognizer, reset_frames, num_context_frames
        self._calibration = calibration
        self._state: State = None
        self._count = 0

    def push(self, projected: Tensor) -> list[WindowScores]:
        """A score for each of ``projected [n, ...]``: windows of one grid frame."""
        scored: list[WindowScores] = []
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
        """Nothing: every frame has its score."""
        return []

    def _score(self, projected: Tensor) -> list[WindowScores]:
        step_scores, self._state = self._recognizer.score_projected(projected.unsqueeze(0), self._state)
        first = self._count + self._num_context
        self._count += len(projected)
        return _read(
            self._calibration, step_scores[0], [Window(first + i, first + i + 1) for i in range(len(projected))]
        )


def _read(calibration: Calibration, logits: Tensor, windows: list[Window]) -> list[WindowScores]:
    """``logits [N, K]`` of N windows."""
    probabilities = calibration.probabilities(logits).cpu().numpy()
    unknown = calibration.is_unknown(logits).tolist()
    return [WindowScores(*row) for row in zip(windows, probabilities, unknown, strict=True)]


Scorer = WindowScorer | StreamScorer


def _windows(
    recognizer: Recognizer,
    sampling: SamplingConfig,
    config: InferenceConfig,
    num_context_frames: int,
    calibration: Calibration = UNCALIBRATED,
) -> Scorer:
    stride = config.stride_frames or max(1, sampling.num_frames // 4)
    return WindowScorer(recognizer, sampling.num_frames, stride, num_context_frames, calibration)


def _stream(
    recognizer: Recognizer,
    sampling: SamplingConfig,
    config: InferenceConfig,
    num_context_frames: int,
    calibration: Calibration = UNCALIBRATED,
) -> Scorer:
    reset_frames = round(config.reset_seconds * sampling.sample_fps)
    if config.reset_seconds and not reset_frames:
        raise UserError(
            f"reset_seconds {config.reset_seconds:g} is less than one grid frame; the model reads "
            f"{sampling.sample_fps:g} a second"
        )
    return StreamScorer(recognizer, reset_frames, num_context_frames, calibration)


# mode -> (recogniser, sampling, settings, context frames, calibration or none) -> scorer
SCORERS: dict[str, Callable[..., Scorer]] = {
    "windows": _windows,
    "stream": _stream,
}
