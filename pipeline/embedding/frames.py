"""``FrameEmbedder``: frames of one source in, features out.

An input of RGB differences looks back: the features of a frame are those of its change since the frame before. So does
a video network, whose features of a frame are those of the clip that ends with it. The embedder keeps the frames that
are looked back at from portion to portion, as a cache of keys and values keeps the past of a language model, so that
nobody else has to know of them.

The first L frames of a sequence have no features: a network never reads a clip that is not one. So features are the
same in a file, a stream, a clip cut out of the middle, and in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.config import TransformConfig
from pipeline.embedding.arrays import Features, consecutive, joined, stacked


class FrameEmbedder:
    """Embeds the frames of one video or camera, in order, in portions of any size; the portions change nothing.

    Args:
        embed: uint8 ``[n, 1 + L, 3, S, S]``, each frame after the L that it looks back at -> features ``[n, ...]``.
        transform: tells what is looked back at.
    """

    def __init__(self, embed: Callable[[Any], Features], transform: TransformConfig) -> None:
        self._embed, self._lookback = embed, transform.lookback_frames
        self._is_change_alone = transform.input == "rgb_diff"
        self.reset()

    def reset(self) -> None:
        """Forget the frames so far: the next one is the first of another sequence."""
        self._before: Any = None  # uint8, L at most [n, 3, S, S]: what the next frame looks back at
        self._num_still = 0  # times that the last frame was shown in a row
        self._held: Features = None  # [1, ...]: features of the last frame, once nothing else is looked back at

    def push(self, frames: Any) -> Features:
        """Features ``[m, ...]`` of frames, uint8 ``[n, 3, S, S]``, an array or a tensor.

        m is n, less the first frames of a sequence that have nothing to look back at. None where m is 0.
        """
        return embed_together([self], [frames])[0]

    def hold(self, count: int) -> Features:
        """Features as if the last frame were pushed that many times more, for the price of L at most. None where there
        are none: for no frame, and before the first."""
        parts = []
        while self._num_still and self._held is None and count:
            count, num_still = count - 1, self._num_still + 1
            parts.append(self.push(self._before[-1:]))
            self._num_still = num_still
            if num_still > self._lookback:
                self._held = parts[-1]
        parts += [self._held] * count
        found = [features for features in parts if features is not None]
        return joined(found) if found else None

    def _inputs(self, frames: Any) -> Any:
        """uint8 ``[n, 3, S, S]`` -> ``[m, 1 + L, 3, S, S]``."""
        if len(frames):
            self._num_still = 1
        if not self._lookback:
            return frames[:, None]
        frames = frames if self._before is None else joined([self._before, frames])
        num_whole = max(len(frames) - self._lookback, 0)
        self._before = frames[num_whole:]
        if not num_whole:
            return stacked([frames[:0]] * (1 + self._lookback), axis=1)
        return consecutive(frames, 1 + self._lookback)

    def _note(self, features: Features) -> None:
        """Remember what ``hold`` gives after these."""
        if not self._lookback:
            self._held = joined([features[-1:]])  # a copy, so that it does not keep a whole batch alive
        elif not self._is_change_alone:
            self._held = None


def embed_together(embedders: Sequence[FrameEmbedder], frames: Sequence[Any]) -> list[Features]:
    """Push frames of several sources, those of each to its own embedder, through the backbone of one model at once.

    Returns what ``push`` would return for each.
    """
    inputs = [embedder._inputs(some) for embedder, some in zip(embedders, frames, strict=True)]
    edges = [0, *itertools.accumulate(map(len, inputs))]
    if not edges[-1]:
        return [None] * len(inputs)
    features = embedders[0]._embed(joined(inputs) if len(inputs) > 1 else inputs[0])
    found = [features[low:high] if low < high else None for low, high in itertools.pairwise(edges)]
    for embedder, some in zip(embedders, found, strict=True):
        if some is not None:
            embedder._note(some)
    return found


def feature_places(clip: Sequence[int], transform: TransformConfig) -> list[int]:
    """The places of a clip's features among those of its video.

    The features of a video of G grid frames are what pushing its frames gives, then what ``hold`` gives, G in all: of
    each frame and the L that follow, the last one repeated. So each has the place of the first frame of its own.

    Args:
        clip: places of its frames, those that are only looked back at too; in a row, but for a last one that is held.
        transform: tells what is looked back at.
    """
    return list(clip[: len(clip) - transform.lookback_frames])
