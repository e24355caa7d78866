"""From stretches of long videos to loaders of sequences, of features or of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.config import Experiment
from pipeline.datasets.datamodule import VideoDataModule
from pipeline.datasets.features import FrozenBackbone
from pipeline.datasets.sequence_features import Copies, Sequences, feature_loader, read_copies
from pipeline.datasets.sequence_frames import FrameLoader, FrameSequences, count_grid_frames
from pipeline.datasets.sequences import TimelineVideo, delayed, frame_targets, has_target, timeline_videos
from pipeline.datasets.settled import Splits
from pipeline.datasets.videos import BadVideo
from pipeline.datasets.walks import WalkSampler
from pipeline.errors import UserError
from pipeline.ranks import ALONE, Ranks


class SequenceDataModule(VideoDataModule):
    """Walks along whole videos: along features and targets in memory, or along frames that workers decode."""

    def __init__(self, experiment: Experiment, splits: Splits, ranks: Ranks = ALONE) -> None:
        super().__init__(experiment, splits, ranks)
        self.bad: list[BadVideo] = []
        self.train_targets: list[Tensor] = []
        self._sequences: dict[str, Sequences | FrameSequences | None] = {}

    def cache_features(self, backbone: FrozenBackbone, progress: Callable[[], None]) -> None:
        """Read every video once: its features from its file, from the cache, or made now; of a video whose frames are
        walked along, only how long it is. Those that cannot be read are left out and named in ``bad``."""
        for part, rows in (("train", self.splits.train), ("val", self.splits.val)):
            videos, is_training = timeline_videos(rows), part == "train"
            sequences: Sequences | FrameSequences | None
            if self.experiment.learns_from_features:
                sequences, targets = self._of_features(backbone, videos, progress, is_training=is_training)
            else:
                sequences, targets = self._of_frames(videos, progress, is_training=is_training)
            self._sequences[part] = sequences
            if videos:
                self._require_targets(part, targets)
            if is_training:
                self.train_targets = targets

    def _of_features(
        self,
        backbone: FrozenBackbone,
        videos: Sequence[TimelineVideo],
        progress: Callable[[], None],
        *,
        is_training: bool,
    ) -> tuple[Sequences | None, list[Tensor]]:
        config, rows = self.experiment, [video.row for video in videos]
        found = read_copies(config, backbone, rows, progress, self.ranks, is_training=is_training)
        kept: list[Copies] = [
            [(features, self._targets(video, len(features), offset)) for features, offset in copies]
            for video, copies in zip(videos, found, strict=True)
            if not isinstance(copies, BadVideo)
        ]
        self.bad += [bad for bad in found if isinstance(bad, BadVideo)]
        num_lanes, longest = (config.data.batch_size, config.sequence.sequence_frames) if is_training else (1, 0)
        sequences = Sequences(kept, num_lanes, longest, config.seed, self.ranks) if kept else None
        return sequences, [copies[0][1] for copies in kept]

    def _of_frames(
        self, videos: Sequence[TimelineVideo], progress: Callable[[], None], *, is_training: bool
    ) -> tuple[FrameSequences | None, list[Tensor]]:
        grid_of_features = self.experiment.transform.grid_of_features
        found = count_grid_frames(self.experiment, [video.row for video in videos], progress, self.ranks)
        kept = [(video, n) for video, n in zip(videos, found, strict=True) if not isinstance(n, BadVideo)]
        self.bad += [bad for bad in found if isinstance(bad, BadVideo)]
        targets = [self._targets(video, len(grid_of_features(num_frames))) for video, num_frames in kept]
        rows, counts = [video.row for video, _ in kept], [num_frames for _, num_frames in kept]
        if not kept:
            return None, []
        return FrameSequences(self.experiment, rows, counts, targets, self.ranks, is_training=is_training), targets

    def _targets(self, video: TimelineVideo, num_features: int, offset_seconds: float = 0.0) -> Tensor:
        """Of each answer that a stream would give: the features of a model that looks back are those of the frames from
        the second on."""
        config = self.experiment
        grid = config.transform.grid_of_features(config.transform.frames_for(num_features))
        fps, sequence = config.sampling.sample_fps, config.sequence
        shown = frame_targets(video, grid.stop, fps, self.splits.labels, sequence, offset_seconds)
        return delayed(shown[grid.start :], sequence.delay_frames)

    def _require_targets(self, part: str, targets: Sequence[Tensor]) -> None:
        words = {"train": "training", "val": "validation"}[part]
        if not targets:
            raise UserError(f"none of the {words} videos can be read: {self.bad[-1].path}: {self.bad[-1].cause}")
        if not any(has_target(some).any() for some in targets):
            raise UserError(
                f"no grid frame of the {words} videos has a label: all of it is "
                f"{self.experiment.sequence.unlabelled_label} (sequence.unlabelled_label)"
            )

    def _loader(self, part: str) -> Any:
        sequences = self._sequences[part]
        if isinstance(sequences, FrameSequences):
            return FrameLoader(self.experiment, sequences, self.ranks, is_training=part == "train")
        return feature_loader(sequences) if sequences else []

    def train_dataloader(self) -> Any:
        """The walk along the training videos."""
        loader, (epoch, num_samples) = self._loader("train"), self._resume_at
        steps = loader.steps if isinstance(loader, FrameLoader) else loader.sampler
        assert isinstance(steps, WalkSampler)
        num_done = num_samples // (self.experiment.data.batch_size * self.ranks.count)
        steps.skip(epoch, num_done)
        # Workers begin with their first batches before the trainer tells the sampler which epoch it is.
        steps.set_epoch(epoch if num_done < len(steps) else epoch + 1)
        return loader

    def val_dataloader(self) -> Any:
        """Whole validation videos, one by one."""
        return self._loader("val")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Everything goes to the device."""
        return batch.to(device, non_blocking=True)
