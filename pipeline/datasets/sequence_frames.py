"""Sequences of frames, for a backbone that learns: decoded by workers as the walk comes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import loading_options, num_prefetched, num_workers
from pipeline.datasets.grids import DecodedClips
from pipeline.datasets.loading import ClipLoader
from pipeline.datasets.videos import BadVideo, ClipBatch, Sample, clip_source
from pipeline.datasets.walks import LaneFrames, Piece, SequenceBatch, Walk, WalkSampler, batch_of, shown_by
from pipeline.errors import DecodeError
from pipeline.ranks import ALONE, Ranks
from pipeline.sampling import part_edges

_LanePiece = tuple[int, Piece]


def count_grid_frames(
    experiment: Experiment, rows: Sequence[VideoRow], progress: Callable[[], None], ranks: Ranks = ALONE
) -> list[int | BadVideo]:
    """The number of grid frames of each whole video, or why it cannot be opened. All ranks get the same."""
    source, found = DecodedClips(experiment.clips), {}
    for place in range(ranks.index, len(rows), ranks.count):
        found[place] = _count(source, rows[place])
        progress()
    for part in ranks.gather(dict(found)):
        found |= part
    return [found[place] for place in range(len(rows))]


def _count(source: DecodedClips, row: VideoRow) -> int | BadVideo:
    try:
        return source.num_frames(row)
    except DecodeError as error:
        return BadVideo.of(row, error)


class FrameSequences(Dataset[Sample]):
    """Frames of the pieces of walks; a key is a lane and its piece.

    Args:
        experiment: all settings.
        rows: whole videos.
        num_frames: grid frames of each.
        targets: of each, ``[G]`` or ``[G, K]``.
        ranks: this rank, and how many there are.
        is_training: False walks along one video a rank.
    """

    def __init__(
        self,
        experiment: Experiment,
        rows: Sequence[VideoRow],
        num_frames: Sequence[int],
        targets: Sequence[Tensor],
        ranks: Ranks,
        *,
        is_training: bool,
    ) -> None:
        self._rows, self._targets, self._seed = rows, targets, experiment.seed
        self._transform = experiment.transform
        self._num_features = [len(self._transform.grid_of_features(count)) for count in num_frames]
        self._source = clip_source(experiment.clips)
        learns = is_training and experiment.training.backbone_lr_scale > 0
        self._train_frames = (experiment.training.train_frames or experiment.sequence.sequence_frames) if learns else 0
        num_lanes = experiment.data.batch_size if is_training else 1
        lengths = [len(some) for some in targets]
        self.walk = Walk(lengths, num_lanes, experiment.sequence.sequence_frames, experiment.seed, ranks)

    def __getitem__(self, key: _LanePiece) -> Sample:
        lane, piece = key
        row = self._rows[piece.video]
        needed, _ = shown_by(piece, self._num_features[piece.video])
        wanted = range(needed.start, needed.start + self._transform.frames_for(len(needed)))
        try:
            # [n, 1, 3, S, S]: each a clip of its own, so that lanes of unlike lengths are joined.
            frames = self._source.clips(row, lambda grid: [[grid[min(k, len(grid) - 1)]] for k in wanted])
        except DecodeError as error:
            return Sample(lane, 0, None, BadVideo.of(row, error))
        return Sample(lane, 0, frames)

    def keys(self, epoch: int, step: int) -> list[_LanePiece]:
        """The frames to decode for a step."""
        return [(lane, piece) for lane, piece in enumerate(self.walk.steps(epoch)[step]) if piece.stop]

    def joined(self, epoch: int, step: int, clips: ClipBatch) -> SequenceBatch:
        """A step's batch, of the frames that were decoded for it."""
        pieces, counts = self.walk.steps(epoch)[step], torch.bincount(clips.rows, minlength=1).tolist()
        lanes = [lane for lane, count in enumerate(counts) if count]
        starts = [0, *accumulate(len(self._transform.grid_of_features(counts[lane])) for lane in lanes)]
        places = [torch.zeros(0, dtype=torch.int64) for _ in pieces]
        for lane, start in zip(lanes, starts, strict=False):
            places[lane] = shown_by(pieces[lane], self._num_features[pieces[lane].video])[1] + start
        targets = [
            self._targets[p.video][p.start : p.start + len(some)] for p, some in zip(pieces, places, strict=True)
        ]
        learning = [
            torch.from_numpy(self._learning(epoch, pieces[lane], stop - start)) + start
            for lane, (start, stop) in zip(lanes, pairwise(starts), strict=True)
        ]
        frames = LaneFrames(
            clips.frames[:, 0],
            tuple(counts[lane] for lane in lanes),
            tuple(self._draw(epoch, pieces[lane].video) for lane in lanes),
            torch.nn.utils.rnn.pad_sequence(places, batch_first=True),
            torch.cat([torch.zeros(0, dtype=torch.int64), *learning]),
        )
        lengths = [len(self._targets[piece.video]) for piece in pieces]
        return batch_of(pieces, targets, lengths, frames, tuple(bad for _, bad in clips.bad))

    def _draw(self, epoch: int, video: int) -> int:
        return int(np.random.default_rng([self._seed, epoch, video, 2]).integers(2**31))

    def _learning(self, epoch: int, piece: Piece, num_features: int) -> Any:
        """Places of the features that the backbone learns from: one of each of as many equal parts, as of a clip."""
        rng = np.random.default_rng([self._seed, epoch, piece.video, piece.start, 3])
        edges = part_edges(num_features, min(self._train_frames, num_features)) if self._train_frames else []
        return np.array([rng.integers(low, high) for low, high in pairwise(edges)], dtype=np.int64)


class _LaneBatches(Sampler[list[_LanePiece]]):
    """The frames to decode for each step, of the sampler that the trainer sets to an epoch."""

    def __init__(self, sampler: WalkSampler, dataset: FrameSequences) -> None:
        self.sampler, self._dataset = sampler, dataset

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[_LanePiece]]:
        return (self._dataset.keys(*key) for key in self.sampler)


class FrameLoader(ClipLoader):
    """A loader of ``SequenceBatch``es whose frames are decoded by workers. Raises as ``ClipLoader``."""

    def __init__(self, experiment: Experiment, dataset: FrameSequences, ranks: Ranks, *, is_training: bool) -> None:
        settings, workers = experiment.clips, num_workers(experiment.data, ranks)
        frames = replace(settings.sampling, num_frames=min(4096, experiment.sequence.sequence_frames))
        ahead = num_prefetched(replace(settings, sampling=frames), max(workers, 1))
        self.steps, self._sequences = WalkSampler(dataset.walk), dataset
        super().__init__(
            dataset,
            batch_sampler=_LaneBatches(self.steps, dataset),
            **loading_options(settings, workers, ahead, settings.data.timeout_seconds, training=is_training),
        )

    def __iter__(self) -> Any:
        for key, clips in zip(list(self.steps), super().__iter__(), strict=True):
            yield self._sequences.joined(*key, clips)
