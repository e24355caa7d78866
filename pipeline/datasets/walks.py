"""Walks along long videos: batches of consecutive grid frames, in which each lane goes on where it stopped.

    frames of each video -> walk -> pieces of sequence_frames, by step and lane -> SequenceBatch

Several videos are walked along side by side, each in a lane of the batch; a lane that ends a video begins the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from pipeline.datasets.sequences import has_target, nothing_known
from pipeline.datasets.videos import BadVideo
from pipeline.ranks import ALONE, Ranks


class Piece(NamedTuple):
    """Consecutive grid frames ``[start, stop)`` of a video."""

    video: int
    start: int
    stop: int


_IDLE = Piece(0, 0, 0)


def walk(num_frames: Sequence[int], num_lanes: int, sequence_frames: int, seed: Sequence[int]) -> list[list[Piece]]:
    """One pass over all videos: for each step the pieces that are read side by side, in fixed lanes; an idle lane has
    an empty piece. Another seed gives other videos to a lane, in another order; the number of steps stays the same.

    Args:
        num_frames: of each video.
        num_lanes: videos side by side.
        sequence_frames: the longest piece; 0: whole videos.
        seed: of the order.
    """
    rng = np.random.default_rng(list(seed))
    shuffled = rng.permutation(len(num_frames)).tolist()
    pieces = {video: _pieces(video, num_frames[video], sequence_frames) for video in shuffled}
    lanes: list[list[Piece]] = [[] for _ in range(min(num_lanes, len(num_frames)))]
    groups: list[list[int]] = [[] for _ in lanes]
    # The longest first, each to the lane that has least: equal numbers of steps whatever the seed.
    for video in sorted(shuffled, key=lambda video: -len(pieces[video])):
        lane = min(range(len(lanes)), key=lambda lane: sum(len(pieces[other]) for other in groups[lane]))
        groups[lane].append(video)
    for pieces_of_lane, videos in zip(lanes, groups, strict=True):
        for video in rng.permutation(videos).tolist():
            pieces_of_lane += pieces[video]
    length = max(map(len, lanes), default=0)
    return [[lane[step] if step < len(lane) else _IDLE for lane in lanes] for step in range(length)]


def _pieces(video: int, num_frames: int, sequence_frames: int) -> list[Piece]:
    # The last one alone may be shorter: what fills it up would spoil a state that is carried on.
    length = sequence_frames or num_frames
    return [Piece(video, start, min(start + length, num_frames)) for start in range(0, num_frames, length)]


class Walk:
    """The lanes of one rank in walks along videos, one walk for each epoch; all ranks take as many steps.

    Args:
        num_frames: of each video.
        num_lanes: of each rank.
        sequence_frames: as ``walk``.
        seed: likewise.
        ranks: this rank, and how many there are.
    """

    def __init__(
        self, num_frames: Sequence[int], num_lanes: int, sequence_frames: int, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self.num_frames = num_frames
        self._form = num_lanes * ranks.count, sequence_frames
        self._seed, self._ranks, self._epoch = seed, ranks, -1
        self._steps: list[list[Piece]] = []

    def steps(self, epoch: int) -> list[list[Piece]]:
        """The pieces of each step of an epoch, one for each lane."""
        if epoch != self._epoch:
            steps = walk(self.num_frames, *self._form, (self._seed, epoch))
            self._steps = [step[self._ranks.index :: self._ranks.count] or [_IDLE] for step in steps]
            self._epoch = epoch
        return self._steps

    def __len__(self) -> int:
        return len(self.steps(max(self._epoch, 0)))


class WalkSampler(Sampler[tuple[int, int]]):
    """The steps of one epoch as (epoch, step); can begin in the middle, as a run that is resumed does."""

    def __init__(self, steps: Walk) -> None:
        self.walk = steps
        self._epoch, self._done = 0, (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self._epoch = epoch

    def skip(self, epoch: int, count: int) -> None:
        """Leave out the first ``count`` steps of that epoch."""
        self._done = (epoch, count)

    def __len__(self) -> int:
        return len(self.walk)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first = self._done[1] if self._done[0] == self._epoch else 0
        return iter([(self._epoch, step) for step in range(first, len(self.walk))])


@dataclass(frozen=True)
class LaneFrames:
    """Frames of the lanes of a batch, from which its features are made."""

    frames: Tensor
    """uint8 ``[F, 3, S, S]``: of one lane after the other, those that are only looked back at too."""
    counts: tuple[int, ...]
    """Of each lane that has frames, how many."""
    draws: tuple[int, ...]
    """Of each of these the seed of its augmentation: the same as long as the video lasts."""
    places: Tensor
    """int64 ``[B, T]``: of each grid frame its features' place among those of all lanes."""
    learning: Tensor
    """int64 ``[M]``: places of the features that the backbone learns from."""

    def to(self, device: Any, **kwargs: Any) -> LaneFrames:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device, **kwargs) for name in ("frames", "places", "learning")}
        return replace(self, **moved)


@dataclass(frozen=True)
class SequenceBatch:
    """Pieces of several videos, side by side, each filled up to the longest."""

    features: Tensor | LaneFrames
    """float ``[B, T, D, ...]``, or what they are made of."""
    targets: Tensor
    """int64 ``[B, T]`` or float ``[B, T, K]``; what was filled up has none."""
    is_frame: Tensor
    """bool ``[B, T]``: false where it was filled up."""
    begins: Tensor
    """bool ``[B]``: the first piece of its video."""
    ends: Tensor
    """bool ``[B]``: the last piece of its video."""
    is_full: bool
    """True if nothing was filled up."""
    has_targets: bool
    """False where nothing in it is labelled."""
    bad: tuple[BadVideo, ...] = ()
    """Pieces that could not be read; their lanes have no frames."""

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def has_frames(self) -> bool:
        """False where every lane is idle."""
        return self.is_frame.shape[1] > 0

    def to(self, device: Any, **kwargs: Any) -> SequenceBatch:
        """The same batch on another device."""
        names = ("features", "targets", "is_frame", "begins", "ends")
        return replace(self, **{name: getattr(self, name).to(device, **kwargs) for name in names})


def batch_of(
    pieces: Sequence[Piece],
    targets: Sequence[Tensor],
    num_frames: Sequence[int],
    features: Tensor | LaneFrames,
    bad: tuple[BadVideo, ...] = (),
) -> SequenceBatch:
    """A step's batch.

    Args:
        pieces: one a lane.
        targets: of each lane, ``[t]`` or ``[t, K]``, with t 0 in a lane that has no frames.
        num_frames: of the video of each piece.
        features: of all lanes.
        bad: pieces that could not be read.
    """
    lengths = torch.tensor([len(some) for some in targets])
    is_frame = torch.arange(int(lengths.max())) < lengths[:, None]
    wanted = targets[0].new_full((*is_frame.shape, *targets[0].shape[1:]), nothing_known(targets[0]))
    for lane, some in enumerate(targets):
        wanted[lane, : len(some)] = some
    begins = torch.tensor([piece.start == 0 for piece in pieces])
    ends = torch.tensor([0 < piece.stop == count for piece, count in zip(pieces, num_frames, strict=True)])
    is_full, has_targets = bool(is_frame.all()), bool(has_target(wanted).any())
    return SequenceBatch(features, wanted, is_frame, begins, ends, is_full, has_targets, bad)


def shown_by(piece: Piece, num_features: int) -> tuple[range, Tensor]:
    """Of a piece of a video with so many features, the places that it needs, and of each grid frame its place among
    them, int64 ``[t]``: after the end, where a delayed model still answers, the last one is held."""
    places = torch.arange(piece.start, piece.stop).clamp_max(num_features - 1)
    needed = range(int(places[0]), int(places[-1]) + 1) if len(places) else range(0)
    return needed, places - (needed.start if needed else 0)
