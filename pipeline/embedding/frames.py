"""``FrameEmbedder``: frames of one source in, features out.

An input of RGB differences looks back: the features of a frame are those of its change since the frame before. The
embedder keeps that frame from portion to portion, as a cache of keys and values keeps the past of a language model, so
that nobody else has to know of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.config import TransformConfig
from pipeline.embedding.arrays import Features, joined, stacked


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
        self._before: Any = None  # uint8 [L, 3, S, S]: what the next frame looks back at
        self._held: Features = None  # [1, ...]: features of the last frame as long as it stands still

    def push(self, frames: Any) -> Features:
        """Features ``[m, ...]`` of frames, uint8 ``[n, 3, S, S]``, an array or a tensor.

        m is n, less the first frames of a sequence that have nothing to look back at. None where m is 0.
        """
        return embed_together([self], [frames])[0]

    def hold(self, count: int) -> Features:
        """Features ``[count, ...]`` as if the last frame were pushed that many times more, for the price of one at
        most. None for no frame, and before the first."""
        if self._held is None and self._before is not None:
            self._held = self._embed(stacked([self._before[-1:]] * (1 + self._lookback), axis=1))
        return joined([self._held] * count) if count and self._held is not None else None

    def _inputs(self, frames: Any) -> Any:
        """uint8 ``[n, 3, S, S]`` -> ``[m, 1 + L, 3, S, S]``."""
        if not self._lookback:
            return frames[:, None]
        frames = frames if self._before is None else joined([self._before, frames])
        num_whole = max(len(frames) - self._lookback, 0)
        self._before = frames[num_whole:]
        return stacked([frames[i : i + num_whole] for i in range(1 + self._lookback)], axis=1)

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


def feature_places(clip: Sequence[int], num_features: int, transform: TransformConfig) -> list[int]:
    """The places of a clip's features among those of its video.

    The features of a video of G grid frames are what pushing its frames gives, then what ``hold`` gives, G in all. A
    frame that looks back at the one before it has the place of the change; one that repeats it, the last place.

    Args:
        clip: places of its frames, those that are only looked back at too.
        num_features: G.
        transform: tells what is looked back at.
    """
    if not transform.lookback_frames:
        return list(clip)
    return [before if now == before + 1 else num_features - 1 for before, now in itertools.pairwise(clip)]
