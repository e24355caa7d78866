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


_WORDS = ("the model is unsure", "it looks new", "two models disagree")


def rank_offers(
    videos: Mapping[str, FrameEvidence], sample_fps: float, window_seconds: float, limit: int = 500
) -> list[Offer]:
    """Return the stretches whose label would help most, the best first, no two neighbours in a row.

    A window's worth is the mean of its ranks by three measures: the entropy of the mean probabilities; the distance of
    its mean feature from the nearest labelled window; the Jensen-Shannon divergence of the models.
    """
    size = max(1, round(window_seconds * sample_fps))
    windows = [(name, start, min(start + size, len(e.is_labelled))) for name, e in videos.items()
               for start in range(0, len(e.is_labelled), size)]  # fmt: skip
    is_open = [videos[name].is_labelled[start:stop].mean() < 0.5 for name, start, stop in windows]
    means = np.array([videos[name].features[start:stop].mean(axis=0) for name, start, stop in windows])
    known = means[~np.array(is_open)] if windows else means
    rows = [place for place, is_free in enumerate(is_open) if is_free]
    if not rows:
        return []
    measures = [_measures(videos[windows[p][0]], *windows[p][1:]) for p in rows]
    novelty = _distances(means[rows], known)
    ranks = np.stack([_ranked([m[0] for m in measures]), _ranked(novelty), _ranked([m[1] for m in measures])])
    order = np.argsort(-ranks.mean(axis=0), kind="stable")
    offers = []
    for place in order.tolist():
        name, start, stop = windows[rows[place]]
        why = _WORDS[int(ranks[:, place].argmax())]
        offers.append(Offer(name, start / sample_fps, stop / sample_fps, why))
    return apart(offers)[:limit]


def _measures(evidence: FrameEvidence, start: int, stop: int) -> tuple[float, float]:
    """Entropy of the mean, and divergence of the models, of a window."""
    part = evidence.probabilities[:, start:stop]
    if not part.size:
        return 0.0, 0.0
    whole = _entropy(part.mean(axis=0)).mean()
    return float(whole), float(whole - _entropy(part).mean())


def _entropy(probabilities: _Floats) -> _Floats:
    result: _Floats = -(probabilities * np.log(np.maximum(probabilities, 1e-9))).sum(axis=-1)
    return result


def _distances(means: _Floats, known: _Floats) -> _Floats:
    if not len(known):
        return np.zeros(len(means))
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
