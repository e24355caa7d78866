"""Stretches proposed from numbers: those in which something moves, and those whose label would help most. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.floating]
_SMOOTHED_SECONDS, _JOINED_SECONDS, _LEAST_SECONDS = 1.0, 1.5, 1.0
_LEAST_MOTION = 0.3
"""Mean change of a pixel, of 255, below which nothing moves but noise."""
_SPREADS = 3.0


def moving_stretches(motion: _Floats, sample_fps: float) -> list[tuple[float, float]]:
    """Return the stretches, in seconds, in which more moves than is usual in the video.

    Usual is the median; by how much it varies is told by the frames below it, in which no action hides.
    """
    if not len(motion):
        return []
    width = max(1, round(_SMOOTHED_SECONDS * sample_fps))
    smooth = np.convolve(motion, np.ones(width) / width, mode="same")
    usual = float(np.median(smooth))
    spread = usual - float(np.quantile(smooth, 0.16))
    moves = smooth > max(usual + _SPREADS * spread, _LEAST_MOTION)
    if moves.mean() < 0.01:  # it moves all the time: the liveliest parts
        moves = smooth > max(float(np.quantile(smooth, 0.75)), _LEAST_MOTION)
    found = [(start / sample_fps, stop / sample_fps) for start, stop in runs_of(moves)]
    return [(start, end) for start, end in _joined(found) if end - start >= _LEAST_SECONDS]


def runs_of(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs ``[start, stop)`` of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _joined(stretches: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for start, end in stretches:
        if joined and start - joined[-1][1] < _JOINED_SECONDS:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


@dataclass(frozen=True)
class Offer:
    """A stretch whose label would help."""

    video: str
    start_seconds: float
    end_seconds: float
    why: str

    def is_next_to(self, other: Offer | None) -> bool:
        """True if both are of one video and touch."""
        if other is None or other.video != self.video:
            return False
        return self.start_seconds <= other.end_seconds + 1e-6 and other.start_seconds <= self.end_seconds + 1e-6


@dataclass(frozen=True)
class FrameEvidence:
    """Features, probabilities and labels of a video at each of its G grid frames."""

    features: _Floats
    """``[G, C]``"""
    probabilities: _Floats
    """``[M, G, K]``: of M models, calibrated."""
    is_labelled: NDArray[np.bool_]
    """``[G]``"""

    def expected_frames(self, frames: slice | NDArray[np.bool_]) -> _Floats:
        """Of each label, by the mean of the models, among these frames, ``[K]``."""
        frames_of: _Floats = self.probabilities[:, frames].mean(axis=0).sum(axis=0).ravel()
        return frames_of

    def labelled_frames(self) -> _Floats:
        """Of each label, among those that are labelled, ``[K]``."""
        return self.expected_frames(self.is_labelled)


_WORDS = ("the model is unsure", "it looks new", "two models disagree", "it may hold a rare label")


def random_offers(
    videos: Mapping[str, FrameEvidence], sample_fps: float, window_seconds: float, seed: int, limit: int = 100
) -> list[Offer]:
    """Return stretches that are not labelled yet in random order, no two neighbours in a row: the control."""
    windows = [window for window in _windows(videos, sample_fps, window_seconds) if window.is_open]
    order = np.random.default_rng(seed).permutation(len(windows)).tolist()
    return apart([windows[place].offer("by chance") for place in order])[:limit]


def rank_offers(
    videos: Mapping[str, FrameEvidence], sample_fps: float, window_seconds: float, limit: int = 100
) -> list[Offer]:
    """Return the stretches whose label would help most, the best first, no two neighbours in a row.

    A window's worth is the mean of its ranks by four measures: the entropy of the mean probabilities; the distance of
    its mean feature from the nearest window that is labelled, or offered before it; the Jensen-Shannon divergence of
    the models; and by how much it is expected to multiply the frames of each label, which a rare one gains most by.
    """
    windows = _windows(videos, sample_fps, window_seconds)
    known = [window.mean_feature() for window in windows if not window.is_open]
    windows = [window for window in windows if window.is_open]
    if not windows:
        return []
    means = np.stack([window.mean_feature() for window in windows])
    measures = np.array([window.doubts() for window in windows])
    unsure, divided = _ranked(measures[:, 0]), _ranked(measures[:, 1])
    expected = np.stack([window.expected_frames() for window in windows])
    counts = np.sum([evidence.labelled_frames() for evidence in videos.values()], axis=0)
    distances = _distances(means, np.stack(known)) if known else np.full(len(windows), np.inf)
    chosen: list[Offer] = []
    is_left = np.ones(len(windows), bool)
    for _ in range(min(limit, len(windows))):
        growth = np.log1p(expected / (counts + 1)).sum(axis=1)
        ranks = np.stack([unsure, _ranked(distances), divided, _ranked(growth)])
        order = np.argsort(-np.where(is_left, ranks.mean(axis=0), -1.0), kind="stable")[: is_left.sum()].tolist()
        last = chosen[-1] if chosen else None
        place = next((place for place in order if not windows[place].offer().is_next_to(last)), order[0])
        chosen.append(windows[place].offer(_WORDS[int(ranks[:, place].argmax())]))
        is_left[place] = False
        # What resembles a stretch that was offered is no longer new, and its labels are no longer as rare.
        distances = np.minimum(distances, _distances(means, means[place : place + 1]))
        counts = counts + expected[place]
    return chosen


@dataclass(frozen=True)
class _Window:
    """Frames ``[start, stop)`` of a video."""

    video: str
    evidence: FrameEvidence
    start: int
    stop: int
    sample_fps: float

    @property
    def is_open(self) -> bool:
        """True if less than half of it is labelled."""
        return bool(self.evidence.is_labelled[self.start : self.stop].mean() < 0.5)

    def offer(self, why: str = "") -> Offer:
        return Offer(self.video, self.start / self.sample_fps, self.stop / self.sample_fps, why)

    def mean_feature(self) -> _Floats:
        mean: _Floats = self.evidence.features[self.start : self.stop].mean(axis=0)
        return mean

    def expected_frames(self) -> _Floats:
        return self.evidence.expected_frames(slice(self.start, self.stop))

    def doubts(self) -> tuple[float, float]:
        """Entropy of the mean of the models, and their divergence."""
        part = self.evidence.probabilities[:, self.start : self.stop]
        if not part.size:
            return 0.0, 0.0
        whole = _entropy(part.mean(axis=0)).mean()
        return float(whole), float(whole - _entropy(part).mean())


def _windows(videos: Mapping[str, FrameEvidence], sample_fps: float, window_seconds: float) -> list[_Window]:
    size = max(1, round(window_seconds * sample_fps))
    return [
        _Window(name, evidence, start, min(start + size, len(evidence.is_labelled)), sample_fps)
        for name, evidence in videos.items()
        for start in range(0, len(evidence.is_labelled), size)
    ]


def _entropy(probabilities: _Floats) -> _Floats:
    result: _Floats = -(probabilities * np.log(np.maximum(probabilities, 1e-9))).sum(axis=-1)
    return result


def _distances(means: _Floats, known: _Floats) -> _Floats:
    squares = (means**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None] - 2 * means @ known.T
    nearest: _Floats = np.maximum(squares, 0).min(axis=1)
    return nearest


def _ranked(values: Sequence[float] | _Floats) -> _Floats:
    """Ranks from 0 to 1; equal values have the same, and say nothing if all are equal."""
    unique, place = np.unique(np.asarray(values), return_inverse=True)
    return place / max(1, len(unique) - 1)


def apart(offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers in an order in which no two neighbours follow each other, as far as there is one; otherwise the
    better goes first."""
    left, chosen = list(offers), list[Offer]()
    while left:
        last = chosen[-1] if chosen else None
        place = next((place for place, offer in enumerate(left) if not offer.is_next_to(last)), 0)
        chosen.append(left.pop(place))
    return chosen
