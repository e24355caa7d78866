"""Stretches proposed from numbers: those in which something moves, and those whose label would help most. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

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

    def labelled_frames(self) -> _Floats:
        """Expected number of labelled frames of each label, by the mean of the models, ``[K]``."""
        frames: _Floats = self.probabilities[:, self.is_labelled].mean(axis=0).sum(axis=0).ravel()
        return frames


_WORDS = ("the model is unsure", "it looks new", "two models disagree", "it may hold a rare label")
_MOST_COMPARED = 3000
"""Frames, each with each, and windows."""
_PRIOR_FRAMES = 10.0
"""Added to what is labelled of each label."""


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

    With few labels it helps most to know something near everything: each pick is the window that most shortens the
    distances from the frames that are not labelled to the nearest that is, or will be (facility location, as in Wei,
    Iyer and Bilmes, "Submodularity in data subset selection and active learning", 2015). A frame counts for more where
    its likely labels are rare so far, and where the models are unsure or divided. Of many windows a part is looked at.
    """
    windows = _windows(videos, sample_fps, window_seconds)
    known, windows = [w for w in windows if not w.is_open], [w for w in windows if w.is_open]
    windows = windows[:: _stride(len(windows))]
    if not windows:
        return []
    step = max(round(sample_fps / 2), _stride(sum(window.stop - window.start for window in windows)))
    frames = [window.frames(step) for window in windows]
    sizes, joined = [len(some) for some in frames], np.concatenate(frames)
    starts = np.cumsum([0, *sizes[:-1]])
    between = _distances(joined, joined)
    nearest = np.full(len(joined), 2 * np.median(between), np.float32)
    if known:
        labelled = np.concatenate([window.frames(step) for window in known])
        nearest = _distances(labelled[:: _stride(len(labelled))], joined).min(axis=0)
    counts = np.sum([evidence.labelled_frames() for evidence in videos.values()], axis=0)
    rarities = np.concatenate([window.rarities(step, counts) for window in windows])
    doubts, divisions = np.array([window.doubts() for window in windows]).T
    doubts /= max(doubts.max(), 1e-6)
    measures = doubts, np.add.reduceat(nearest, starts) / sizes, divisions, np.add.reduceat(rarities, starts) / sizes
    why = np.stack([_ranked(values) for values in measures]).argmax(axis=0)
    reach = np.minimum.reduceat(between, starts, axis=0)  # from each window to each frame
    picks = _picks(windows, nearest, reach, (rarities * (1 + np.repeat(doubts, sizes))).astype(np.float32))
    return [windows[place].offer(_WORDS[why[place]]) for place in islice(picks, limit)]


def _picks(windows: Sequence[_Window], nearest: _Floats, reach: _Floats, weights: _Floats) -> Iterator[int]:
    """The places of all windows, each the one that most shortens the way to frames, given those before it.

    Args:
        windows: W of them.
        nearest: of each frame the squared distance to what is labelled, ``[N]``.
        reach: the same to each window, ``[W, N]``.
        weights: of the frames, ``[N]``.
    """
    # What a pick gains never grows by other picks, so that a gain of before is a bound (Minoux, "Accelerated greedy
    # algorithms for maximizing submodular set functions", 1978).
    bounds = np.maximum(nearest - reach, 0) @ weights
    is_left = is_apart = np.ones(len(windows), bool)
    while is_left.any():
        allowed = np.flatnonzero(is_left & is_apart if (is_left & is_apart).any() else is_left)
        place = int(allowed[bounds[allowed].argmax()])
        bounds[place] = np.maximum(nearest - reach[place], 0) @ weights
        if bounds[place] < bounds[allowed].max():
            continue
        yield place
        is_left = is_left & (np.arange(len(windows)) != place)
        is_apart = np.array([not window.offer().is_next_to(windows[place].offer()) for window in windows])
        nearest = np.minimum(nearest, reach[place])


def _stride(count: int) -> int:
    """The step by which so many are thinned to what is compared at most."""
    return max(1, -(-count // _MOST_COMPARED))


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

    def frames(self, step: int) -> _Floats:
        """Features of each ``step``-th frame."""
        features: _Floats = self.evidence.features[self.start : self.stop : step].astype(np.float32)
        return features

    def rarities(self, step: int, counts: _Floats) -> _Floats:
        """Of each ``step``-th frame how rare its likely labels are among those labelled so far."""
        expected = self.evidence.probabilities[:, self.start : self.stop : step].mean(axis=0)
        rare: _Floats = (expected.reshape(len(expected), -1) / (counts + _PRIOR_FRAMES)).sum(axis=1)
        return rare

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


def _distances(some: _Floats, others: _Floats) -> _Floats:
    """Squared, from each to each."""
    squares: _Floats = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None] - 2 * some @ others.T
    return np.maximum(squares, 0)


def _ranked(values: Sequence[float] | _Floats) -> _Floats:
    """Ranks from 0 to 1; equal values have the same, and say nothing if all are equal."""
    unique, place = np.unique(np.asarray(values, np.float64).round(6), return_inverse=True)
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
