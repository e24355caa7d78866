"""Rows of an annotation -> samples -> batches. Workers open, decode and fit; batches stay uint8 until on the device.

A sample is named by ``SampleKey(epoch, row)`` and is a function of the seed and that key alone: the order of workers,
the batch it falls in and an interruption do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipeline.config import ClipSettings
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.formats import format_of
from pipeline.datasets.grids import CachedClips, ClipSource, DecodedClips, cache_store
from pipeline.datasets.images import PictureClips
from pipeline.errors import DecodeError
from pipeline.ranks import Ranks
from pipeline.sampling import evaluation_clips, training_clip


class SampleKey(NamedTuple):
    """A row, in one pass over the data."""

    epoch: int
    row: int


@dataclass(frozen=True)
class BadVideo:
    """A row whose video could not be read, and why."""

    path: str
    stage: str
    cause: str
    times: int = 1
    """Number of times that it was tried."""
    stretch: tuple[float, float | None] = (0.0, None)
    """Start and end of the row in seconds: of one video some rows may be readable and others not."""

    @classmethod
    def of(cls, row: VideoRow, error: DecodeError) -> BadVideo:
        """Return the reason that an attempt to read a row gave."""
        return cls(str(row.path), error.stage, error.cause, stretch=(row.start_seconds, row.end_seconds))


@dataclass(frozen=True)
class Sample:
    """One video's clips, or the reason there are none."""

    row: int
    label: int
    frames: Tensor | None
    """uint8 ``[N, T, 3, S, S]``: one clip in training, ``num_eval_clips`` at most in evaluation; or their features."""
    bad: BadVideo | None = None


@dataclass(frozen=True)
class ClipBatch:
    """Clips of several videos, side by side.

    A clip knows its row, so that the clips of a video can be averaged; unreadable videos are listed, not replaced.
    """

    frames: Tensor
    """uint8 ``[B, T, 3, S, S]``, or cached features, float ``[B, T, D, ...]``."""
    labels: Tensor
    """int64 ``[B]``."""
    rows: Tensor
    """int64 ``[B]``."""
    bad: tuple[tuple[int, BadVideo], ...]
    """Row and reason of each video that could not be read."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: Any, **kwargs: Any) -> ClipBatch:
        """The same batch on another device."""
        return replace(
            self,
            frames=self.frames.to(device, **kwargs),
            labels=self.labels.to(device, **kwargs),
            rows=self.rows.to(device, **kwargs),
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory."""
        return replace(
            self, frames=self.frames.pin_memory(), labels=self.labels.pin_memory(), rows=self.rows.pin_memory()
        )


def collate(samples: Sequence[Sample]) -> ClipBatch:
    """Joins samples into a batch; it has no clips when every video of it was bad."""
    good = [(sample, sample.frames) for sample in samples if sample.frames is not None]
    clips = [frames for _, frames in good]
    counts = torch.tensor([len(frames) for frames in clips], dtype=torch.int64)
    return ClipBatch(
        frames=torch.cat(clips) if clips else torch.zeros(0, 1, 3, 1, 1, dtype=torch.uint8),
        labels=torch.tensor([sample.label for sample, _ in good], dtype=torch.int64).repeat_interleave(counts),
        rows=torch.tensor([sample.row for sample, _ in good], dtype=torch.int64).repeat_interleave(counts),
        bad=tuple((sample.row, sample.bad) for sample in samples if sample.bad is not None),
    )


# The clips of a video: from its grid frames, the sample and the settings to lists of grid frames.
ChooseClips = Callable[[range, SampleKey, ClipSettings], list[list[int]]]


def random_clip(grid: range, key: SampleKey, settings: ClipSettings) -> list[list[int]]:
    """One training clip, another in each epoch."""
    rng = np.random.default_rng([settings.seed, key.epoch, key.row])
    return [training_clip(grid, settings.sampling, settings.num_frames, rng)]


def fixed_clips(grid: range, key: SampleKey, settings: ClipSettings) -> list[list[int]]:
    """The evaluation clips, always the same."""
    return evaluation_clips(grid, settings.sampling, settings.num_frames)


def whole_grid(grid: range, key: SampleKey, settings: ClipSettings) -> list[list[int]]:
    """Every grid frame, as one clip."""
    return [list(grid)]


def clip_source(settings: ClipSettings) -> ClipSource:
    """Return the source of clips that the data settings name."""
    data = settings.data
    if open_pictures := format_of(data).open_pictures:
        return PictureClips(open_pictures(data, settings.decode), Path(data.root), settings.transform)
    decoded = DecodedClips(settings)
    return CachedClips(decoded, cache_store(data)) if data.cache == "frames" else decoded


class VideoDataset(Dataset[Sample]):
    """Samples of some rows.

    Args:
        rows: the videos.
        labels: class names; a row's label index is its place here.
        settings: how clips are chosen and decoded.
        choose: selects the clips of a video that make its sample.
    """

    def __init__(
        self, rows: Sequence[VideoRow], labels: Sequence[str], settings: ClipSettings, choose: ChooseClips
    ) -> None:
        self.rows = tuple(rows)
        self.settings = settings
        self.choose = choose
        self._label_index = {label: index for index, label in enumerate(labels)}
        self._source = clip_source(settings)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey) -> Sample:
        row = self.rows[key.row]
        label = self._label_index[row.label]
        try:
            clips = self._source.clips(row, lambda grid: self.choose(grid, key, self.settings))
            return Sample(key.row, label, clips)
        except DecodeError as error:
            return Sample(key.row, label, None, BadVideo.of(row, error))


class EpochSampler(Sampler[SampleKey]):
    """Every row once an epoch, in an order that the seed and the epoch decide.

    ``skip(epoch, count)`` makes passes of that epoch start ``count`` samples in: how a run resumes exactly.
    """

    def __init__(self, num_rows: int, seed: int, *, shuffle: bool) -> None:
        self.num_rows, self.seed, self.shuffle = num_rows, seed, shuffle
        self.epoch = 0
        self._skip = (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def skip(self, epoch: int, count: int) -> None:
        """Leave out the first ``count`` samples of that epoch."""
        self._skip = (epoch, count)

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.arange(self.num_rows)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        done = self._skip[1] if self._skip[0] == self.epoch else 0
        return iter([SampleKey(self.epoch, int(row)) for row in order[done:]])


class RankBatches(Sampler[list[SampleKey]]):
    """The batches of one rank: those of a single process, dealt out in turn, the same number to each.

    In training a rest that does not fill a batch for every rank is left out, for other epochs to see; a set smaller
    than that makes one step, with some samples twice if the ranks cannot share it evenly. In evaluation nothing is left
    out and nothing comes twice: ranks whose turn does not come any more get batches without samples.

    Args:
        sampler: the order of the samples, the same on all ranks.
        batch_size: samples in a batch.
        ranks: this rank, and how many there are.
        training: True if this is for training.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, ranks: Ranks, *, training: bool) -> None:
        self.sampler, self.batch_size, self.ranks, self.training = sampler, batch_size, ranks, training

    def __len__(self) -> int:
        return self._num_steps(len(self.sampler))

    def _num_steps(self, num_samples: int) -> int:
        samples_a_step = self.batch_size * self.ranks.count
        if self.training and len(self.sampler) >= samples_a_step:
            return num_samples // samples_a_step
        return math.ceil(num_samples / samples_a_step)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        keys, size, count = list(self.sampler), self.batch_size, self.ranks.count
        if self.training and keys and len(self.sampler) < size * count:
            size = math.ceil(len(keys) / count)
            keys = (keys * count)[: size * count]  # the first ones once more, until all have as many
        for step in range(self._num_steps(len(keys))):
            start = (step * count + self.ranks.index) * size
            yield keys[start : start + size]
