"""From rows to loaders: hand out batches, remember the place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.config import ClipSettings, DataConfig, Experiment, MachineConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.features import FRAMES_A_CALL, FeatureCache, FeatureDataset, FrozenBackbone
from pipeline.datasets.grids import DecodedClips, cache_store
from pipeline.datasets.loading import ClipLoader, InMemory, can_send_in_memory, lost_workers
from pipeline.datasets.settled import Splits
from pipeline.datasets.videos import (
    BadVideo,
    ChooseClips,
    ClipBatch,
    EpochSampler,
    RankBatches,
    Sample,
    VideoDataset,
    collate,
    fixed_clips,
    random_clip,
    whole_grid,
)
from pipeline.errors import DecodeError, UserError
from pipeline.files.stopping import work_for_parent
from pipeline.machine import free_memory_bytes, num_cores
from pipeline.ranks import ALONE, Ranks

# What a slow machine decodes at least.
_MIN_BYTES_PER_SECOND = 250_000.0
# Videos with more frames, some 60 MB, are embedded while they are decoded, and not after it. A smaller file holds
# fewer, but for pictures in which nothing moves.
_LONG_FRAMES, _LONG_BYTES = 1_000, 2_000_000
# Rows whose features are made before the ranks wait for one another: none has to wait long.
_ROWS_A_ROUND = 256


def num_workers(config: DataConfig, ranks: Ranks = ALONE) -> int:
    """Decoding processes of this rank: as set, else its share of the cores that may be used, 8 at most."""
    if config.num_workers is not None:
        return config.num_workers
    return min(max(1, num_cores() // ranks.local_count), 8)


def num_prefetched(settings: ClipSettings, workers: int) -> int:
    """Batches that each worker has ready: 4, to even out videos that take long to decode; fewer, but at least one,
    where those of all workers would fill more than a tenth of the free memory."""
    batch_bytes = settings.data.batch_size * settings.num_frames * 3 * settings.transform.fit_size_px**2
    free_bytes = free_memory_bytes()
    if free_bytes is None:
        return 2
    return max(1, min(4, free_bytes // 10 // (workers * batch_bytes)))


def _num_bytes(row: VideoRow) -> int:
    if row.part is not None:
        return row.part.num_bytes
    return row.path.stat().st_size if row.path.is_file() else 0


def uses_cuda(config: MachineConfig) -> bool:
    """True if a training runs on an NVIDIA (or ROCm) GPU."""
    return config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    work_for_parent()


def make_loader(
    rows: Sequence[VideoRow],
    labels: Sequence[str],
    settings: ClipSettings,
    choose: ChooseClips,
    ranks: Ranks = ALONE,
) -> DataLoader[Sample]:
    """A loader of ``ClipBatch``es: shuffled random clips for training, every video's fixed clips in order otherwise.
    Of several ranks, each gets its own part of the batches, and all as many."""
    workers = num_workers(settings.data, ranks)
    return _loader(VideoDataset(rows, labels, settings, choose), settings, choose, workers, ranks)


def _loader(
    dataset: VideoDataset | FeatureDataset, settings: ClipSettings, choose: ChooseClips, workers: int, ranks: Ranks
) -> DataLoader[Sample]:
    training = choose is random_clip
    batch_size = settings.data.batch_size
    if not training:  # an item holds several clips
        batch_size = max(1, batch_size // settings.sampling.num_eval_clips) if choose is fixed_clips else 1
    prefetched = 2 if choose is whole_grid else num_prefetched(settings, max(workers, 1))
    order = EpochSampler(len(dataset), settings.seed, shuffle=training)
    timeout_seconds = settings.data.timeout_seconds
    if choose is whole_grid and isinstance(dataset, VideoDataset):  # all of a video is decoded
        timeout_seconds += max((_num_bytes(row) for row in dataset.rows), default=0) / _MIN_BYTES_PER_SECOND
    return ClipLoader(
        dataset,
        batch_sampler=RankBatches(order, batch_size, ranks, training=training),
        **loading_options(settings, workers, prefetched, timeout_seconds, training=training),
    )


def loading_options(
    settings: ClipSettings, workers: int, prefetched: int, timeout_seconds: float, *, training: bool
) -> dict[str, Any]:
    """Options of a ``ClipLoader`` whose workers each have so many batches ready."""
    return {
        "num_workers": workers,
        "collate_fn": InMemory() if workers and can_send_in_memory() else collate,
        "timeout": timeout_seconds if workers else 0,
        "worker_init_fn": _start_worker,
        "persistent_workers": training and workers > 0,
        "prefetch_factor": prefetched if workers else None,
        "pin_memory": uses_cuda(settings.machine),
    }


@lost_workers()
def read_features(
    cache: FeatureCache,
    rows: Sequence[VideoRow],
    labels: Sequence[str],
    settings: ClipSettings,
    num_copies: int,
    progress: Callable[[], None],
    ranks: Ranks = ALONE,
) -> list[list[Tensor] | BadVideo]:
    """Return the features of every row, from the cache or made now, or the reason there are none. ``progress`` is
    called after each. Several ranks share the making, and find in the cache what the others made."""
    for start in range(0, len(rows) if ranks.count > 1 else 0, _ROWS_A_ROUND * ranks.count):
        mine = rows[start : start + _ROWS_A_ROUND * ranks.count][ranks.index :: ranks.count]
        read_features(cache, mine, labels, settings, num_copies, lambda: None)
        ranks.wait()
    found: list[list[Tensor] | BadVideo | None] = []
    for row in rows:
        found.append(cache.find(row, num_copies))
        if found[-1] is not None:
            progress()
    decoded = DecodedClips(settings)
    for place, row in enumerate(rows):
        if found[place] is None and _is_long(decoded, row):
            found[place] = _features_of_parts(cache, decoded, row, num_copies)
            progress()
    missing = [place for place, features in enumerate(found) if features is None]
    left = [rows[place] for place in missing]
    for place, batch in zip(missing, make_loader(left, labels, settings, whole_grid) if left else (), strict=True):
        assert isinstance(batch, ClipBatch)
        bad = [reason for _, reason in batch.bad]
        found[place] = bad[0] if bad else cache.make(rows[place], batch.frames[0].split(FRAMES_A_CALL), num_copies)
        progress()
    return [features for features in found if features is not None]


def _is_long(decoded: DecodedClips, row: VideoRow) -> bool:
    """True if a worker had better not hand over all grid frames of the row at once."""
    if row.part is not None or _num_bytes(row) < _LONG_BYTES:  # to count frames, the file is read
        return False
    try:
        return decoded.num_frames(row) > _LONG_FRAMES
    except DecodeError:  # who decodes it says so
        return False


def _features_of_parts(
    cache: FeatureCache, decoded: DecodedClips, row: VideoRow, num_copies: int
) -> list[Tensor] | BadVideo:
    try:
        with closing(decoded.parts(row, FRAMES_A_CALL)) as parts:
            return cache.make(row, parts, num_copies)
    except DecodeError as error:
        return BadVideo.of(row, error)


def make_feature_loader(
    rows: Sequence[VideoRow],
    labels: Sequence[str],
    settings: ClipSettings,
    choose: ChooseClips,
    features: Sequence[Sequence[Tensor] | BadVideo],
    ranks: Ranks = ALONE,
) -> DataLoader[Sample]:
    """Return a loader as ``make_loader`` does, but of features."""
    return _loader(FeatureDataset(rows, labels, settings, choose, features), settings, choose, 0, ranks)


class VideoDataModule(LightningDataModule):
    """Loaders for one rank of one experiment, and the place in the epoch for an exact resume."""

    def __init__(self, experiment: Experiment, splits: Splits, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.experiment, self.splits, self.ranks = experiment, splits, ranks
        self._resume_at = (0, 0)
        self._features: dict[ChooseClips, list[list[Tensor] | BadVideo]] = {}

    def cache_features(self, backbone: FrozenBackbone, progress: Callable[[], None]) -> None:
        """Reads every training and validation video once, or finds what it gave in the cache; from then on batches
        hold features. ``progress`` is called after each video."""
        cache = FeatureCache(backbone, cache_store(self.experiment.data), self.experiment.clips)
        for choose, rows in ((random_clip, self.splits.train), (fixed_clips, self.splits.val)):
            num_copies = self.experiment.data.feature_copies if choose is random_clip else 0
            self._features[choose] = read_features(
                cache, rows, self.splits.labels, self.experiment.clips, num_copies, progress, self.ranks
            )

    def _make_loader(self, rows: Sequence[VideoRow], choose: ChooseClips) -> DataLoader[Sample]:
        labels = self.splits.labels
        if not self._features:
            return make_loader(rows, labels, self.experiment.clips, choose, self.ranks)
        return make_feature_loader(rows, labels, self.experiment.clips, choose, self._features[choose], self.ranks)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Random clips of the training rows."""
        loader = self._make_loader(self.splits.train, random_clip)
        assert isinstance(loader.batch_sampler, RankBatches)
        epoch, num_done = self._resume_at
        order = loader.batch_sampler.sampler
        order.skip(epoch, num_done)
        # Workers begin with their first batches before the trainer tells the sampler which epoch it is.
        num_in_epoch = len(loader) * self.experiment.data.batch_size * self.ranks.count
        order.set_epoch(epoch if num_done < num_in_epoch else epoch + 1)
        return loader

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Evaluation clips of the validation rows; nothing if there are none."""
        return self._make_loader(self.splits.val, fixed_clips) if self.splits.val else []

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        """uint8 goes to the device; everything else happens there."""
        return batch.to(device, non_blocking=True)

    def state_dict(self) -> dict[str, int]:
        """The epoch, the number of its samples that all ranks have used, and the number of ranks."""
        assert self.trainer is not None
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
        done = batches.processed  # type: ignore[attr-defined]  # Lightning declares a narrower class than it uses
        samples = done * self.experiment.data.batch_size * self.ranks.count
        return {"epoch": self.trainer.current_epoch, "samples": samples, "ranks": self.ranks.count}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from there. Raises ``UserError`` if the run had another number of ranks."""
        before = state_dict.get("ranks", 1)
        if before != self.ranks.count:
            error = UserError(
                f"{before} processes made this run, and {self.ranks.count} would go on with other batches; resume with "
                "machine.devices and machine.num_nodes as they were"
            )
            self.ranks.refuse(error)
        self._resume_at = (state_dict["epoch"], state_dict["samples"])
