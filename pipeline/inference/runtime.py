"""Interface to run a model by torch (``torch_runtime``) or ONNX Runtime (``onnx_runtime``). The engine and the streams
know only this, so that an exported file needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Image
from pipeline.config import DecodeConfig, SamplingConfig, SequenceConfig, TimelineNumbers, TransformConfig
from pipeline.embedding.arrays import Features

Fit = Callable[[Image, Fraction], Image]
"""uint8 RGB ``[H, W, 3]`` of any size, and the sample aspect ratio of its pixels -> uint8 ``[3, S, S]`` as the model
reads it, channels-last in memory."""
Scores = NDArray[np.float32]
State = Any  # opaque to everyone but its heads; None is before the first frame


@dataclass(frozen=True)
class Readings:
    """Calibrated answers for N windows or frames."""

    probabilities: Scores
    """``[N, K]``."""
    is_unknown: NDArray[np.bool_]
    """``[N]``: true if unknown by the model's rule."""


class ModelDescription(Protocol):
    """Description of a model in its file, for any runtime."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""

    @property
    def sampling(self) -> SamplingConfig:
        """Sampling of the frames that the model reads."""

    @property
    def transform(self) -> TransformConfig:
        """Conversion of those frames to its input."""

    @property
    def decode(self) -> DecodeConfig:
        """Decoding settings."""

    @property
    def task(self) -> str:
        """clip, or timeline."""

    @property
    def sequence(self) -> SequenceConfig:
        """Answers of a model of timelines."""

    @property
    def timeline(self) -> TimelineNumbers | None:
        """Numbers by which its scores become segments; None: none were chosen."""

    @property
    def may_overlap(self) -> bool:
        """True if each label has a probability of its own."""


class Heads(Protocol):
    """Temporal heads, classifier and calibration: features in, readings out."""

    @property
    def streams(self) -> bool:
        """True if a state can be carried on."""

    @property
    def reads_windows(self) -> bool:
        """True if windows can be scored: not by a file that holds the streaming step alone."""

    @property
    def reads_whole(self) -> bool:
        """True if frames of any number can be scored one after the other."""

    def score_windows(self, features: Features) -> Readings:
        """Readings of windows ``[B, T, ...]``, each from a fresh state, as a clip in training."""

    def score_steps(self, features: Features, state: State) -> tuple[Readings, State]:
        """Readings of frames ``[T, ...]`` of one source, and the state after the last."""


@dataclass(frozen=True)
class Runtime:
    """The parts of a model that do the work."""

    fit: Fit
    embed: Callable[[Image], Features]
    """uint8 ``[B, T + L, 3, S, S]`` -> ``[B, T, ...]``, each frame alone; the first L are only looked back at."""
    heads: Heads
    num_pieces: int
    """In how many threads a large batch is best embedded; 1: the runtime spreads it by itself."""
    feature_form: tuple[int, float] | None = None
    """Of a model that reads files of features: the numbers of a step, and steps a second."""
