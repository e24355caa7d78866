"""Sequences of features in memory: of whole videos, embedded once or read from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import read_features
from pipeline.datasets.features import FeatureCache, FrozenBackbone
from pipeline.datasets.grids import cache_store
from pipeline.datasets.videos import BadVideo
from pipeline.datasets.walks import Piece, SequenceBatch, Walk, WalkSampler, batch_of, shown_by
from pipeline.embedding.feature_file import at_grid, read_feature_file
from pipeline.errors import DecodeError
from pipeline.models.backbones import FILE_FEATURES
from pipeline.ranks import ALONE, Ranks

Copies = Sequence[tuple[Tensor, Tensor]]
"""Of one video: features ``[F, D, ...]`` and targets ``[G]`` or ``[G, K]``, as they are and changed a little; G is F,
and more by as many frames as answers come late."""


class Sequences(Dataset[SequenceBatch]):
    """Batches of walks along videos in memory; a key is (epoch, step).

    Args:
        videos: of each its copies, of which an epoch draws one.
        num_lanes: videos side by side, of this rank.
        sequence_frames: as ``walk``.
        seed: likewise.
        ranks: this rank, and how many there are.
    """

    def __init__(
        self, videos: Sequence[Copies], num_lanes: int, sequence_frames: int, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self._videos, self._seed = videos, seed
        num_frames = [len(copies[0][1]) for copies in videos]
        self.walk = Walk(num_frames, num_lanes, sequence_frames, seed, ranks)

    def __len__(self) -> int:
        return len(self.walk)

    def __getitem__(self, key: tuple[int, int]) -> SequenceBatch:
        epoch, step = key
        pieces = self.walk.steps(epoch)[step]
        lanes = [self._lane(piece, epoch) for piece in pieces]
        length = max(len(features) for features, _ in lanes)
        filled = lanes[0][0].new_zeros(len(lanes), length, *lanes[0][0].shape[1:])
        for lane, (features, _) in enumerate(lanes):
            filled[lane, : len(features)] = features
        num_frames = [self.walk.num_frames[piece.video] for piece in pieces]
        return batch_of(pieces, [targets for _, targets in lanes], num_frames, filled)

    def _lane(self, piece: Piece, epoch: int) -> tuple[Tensor, Tensor]:
        copies = self._videos[piece.video]
        features, targets = copies[
            int(np.random.default_rng([self._seed, epoch, piece.video, 1]).integers(len(copies)))
        ]
        needed, places = shown_by(piece, len(features))
        return features[needed.start : needed.stop].float()[places], targets[piece.start : piece.stop]


def feature_loader(dataset: Sequences) -> DataLoader[SequenceBatch]:
    """A loader of walks, in this process: everything is in memory."""
    return DataLoader(dataset, batch_size=None, sampler=WalkSampler(dataset.walk))


def read_copies(
    experiment: Experiment,
    backbone: FrozenBackbone,
    rows: Sequence[VideoRow],
    progress: Callable[[], None],
    ranks: Ranks,
    *,
    is_training: bool,
) -> list[list[tuple[Tensor, float]] | BadVideo]:
    """Features of whole videos, ``[F, D, ...]``, and the seconds that they stand after each grid frame; for training
    more copies of them; or why there are none. All ranks get the same."""
    if experiment.model.backbone == FILE_FEATURES:
        found = [_copies_of_file(experiment, row, progress, is_training=is_training) for row in rows]
    else:
        num_copies = experiment.data.feature_copies if is_training else 0
        found = _copies_of_videos(experiment, backbone, rows, num_copies, progress, ranks)
    bad = {place: some for place, some in enumerate(found) if isinstance(some, BadVideo)}
    for part in ranks.gather(bad):
        bad |= part
    return [bad.get(place, some) for place, some in enumerate(found)]


def _copies_of_videos(
    experiment: Experiment,
    backbone: FrozenBackbone,
    rows: Sequence[VideoRow],
    num_copies: int,
    progress: Callable[[], None],
    ranks: Ranks,
) -> list[list[tuple[Tensor, float]] | BadVideo]:
    settings = experiment.clips
    cache = FeatureCache(backbone, cache_store(settings.data), settings)
    unlabelled = [VideoRow(row.path, "", row.group, name=row.name, part=row.part) for row in rows]
    found: list[list[tuple[Tensor, float]] | BadVideo] = []
    for some in read_features(cache, unlabelled, [""], settings, num_copies, progress, ranks):
        if isinstance(some, BadVideo):
            found.append(some)
            continue
        # The cache ends with features of a frame that stands still, which a stream never shows.
        num_features = len(experiment.transform.grid_of_features(len(some[0])))
        found.append([(copy[:num_features], 0.0) for copy in some])
    return found


def _copies_of_file(
    experiment: Experiment, row: VideoRow, progress: Callable[[], None], *, is_training: bool
) -> list[tuple[Tensor, float]] | BadVideo:
    """One copy for each step that a training may begin at, where a file has several steps for each grid frame."""
    config, sample_fps = experiment.model, experiment.sampling.sample_fps
    assert config.num_features is not None
    assert config.features_fps is not None
    num_phases = int(config.features_fps / sample_fps + 1e-6) if is_training else 1
    offsets = [phase / config.features_fps for phase in range(num_phases)]
    try:
        steps = read_feature_file(row.path, config.num_features)
        grids = [at_grid(row.path, steps, config.features_fps, sample_fps, offset) for offset in offsets]
    except DecodeError as error:
        return BadVideo.of(row, error)
    finally:
        progress()
    return [(torch.from_numpy(grid), offset) for grid, offset in zip(grids, offsets, strict=True)]
