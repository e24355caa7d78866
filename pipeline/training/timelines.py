"""Training on timelines: from long videos, with the state carried on from sequence to sequence.

Truncated backpropagation through time: batches walk along the videos (``datasets.sequences``), each begins with the
state that the one before ended with, and the gradient stops between them (Werbos, 1990; for online action detection An
et al., "MiniROAD", ICCV 2023). Some sequences begin anew, so that a model can begin anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import VideoDataModule, read_features
from pipeline.datasets.features import FeatureCache, FrozenBackbone
from pipeline.datasets.grids import cache_store
from pipeline.datasets.sequences import (
    IGNORED,
    Copies,
    SequenceBatch,
    Sequences,
    TimelineVideo,
    WalkSampler,
    class_shares,
    delayed,
    frame_targets,
    sequence_loader,
    timeline_videos,
)
from pipeline.datasets.settled import Splits
from pipeline.datasets.videos import BadVideo
from pipeline.embedding.feature_file import at_grid, count_features, read_feature_file
from pipeline.errors import DecodeError, UserError
from pipeline.models.backbones import FILE_FEATURES
from pipeline.models.temporal.head import State
from pipeline.models.temporal.stack import MAP_HEADS
from pipeline.ranks import ALONE, Ranks
from pipeline.timeline.labelled import Span, spans_of_steps, without_labels
from pipeline.timeline.metrics.segments import match_segments
from pipeline.training.module import ClipClassifier, add_bad_videos

_CLIPPED_AT = 4.0
_FOCUS = 2.0  # gamma of the focal loss, as its paper has it


class TimelineLearner(ClipClassifier):
    """Trains a ``Recognizer`` to answer at every grid frame.

    Args:
        experiment: all settings.
        num_classes: K.
        class_weights: ``[K]`` loss weight of each class, or None.
        ranks: those that train it together.
    """

    def __init__(
        self, experiment: Experiment, num_classes: int, class_weights: Tensor | None = None, ranks: Ranks = ALONE
    ) -> None:
        super().__init__(experiment, num_classes, class_weights, ranks)
        self._sequence = experiment.sequence
        self._state: State = None
        self._carries = experiment.sequence.carry_state and self.recognizer.temporal.streams
        self._seen: list[tuple[Tensor, Tensor]] = []

    def note(self, data: SequenceDataModule) -> None:
        """Take over what reading the videos has shown: those that are bad, and how often each label occurs."""
        add_bad_videos(self.bad_videos, data.bad)
        if self.experiment.training.class_weights == "balanced":
            num_classes = self.recognizer.classifier.out_features
            weights = _class_weights(data.train_targets, num_classes, self._sequence.max_class_weight)
            self.class_weights = weights.to(self.device)

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        """The mean loss of the grid frames that have a target, summed over the stages."""
        stages, state = self.recognizer.score_stages(self.recognizer.project(batch.features), self._begin(batch))
        self._state = _detached(state) if self._carries else None
        if not batch.has_targets:
            return None
        loss = torch.stack([self.stage_loss(scores, batch.targets) for scores in stages]).sum()
        self._mean_loss = loss.detach()
        self.log("train_loss", self._mean_loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch))
        return loss

    def _begin(self, batch: SequenceBatch) -> State:
        """The state that the batch goes on from; of videos that begin, and of a few more, the initial one."""
        if self._state is None:
            return None
        drawn = torch.rand(len(batch.begins), device=self.device) < self._sequence.state_dropout
        return self.recognizer.forget(self._state, batch.begins | drawn)

    def stage_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Loss of one stage: scores ``[B, T, K]`` (logits), targets ``[B, T]`` or ``[B, T, K]`` -> a number."""
        if targets.is_floating_point():
            fit, levels = self._fit_several(scores, targets), F.logsigmoid(scores)
        else:
            fit, levels = self._fit_one(scores, targets), F.log_softmax(scores, dim=-1)
        if not self._sequence.smoothing_weight or scores.shape[1] < 2:
            return fit
        change = (levels[:, 1:] - levels[:, :-1].detach()).abs().clamp_max(_CLIPPED_AT).square()
        known = _is_target(targets)[:, 1:]
        smoothing = change[known].mean() if known.any() else change.sum() * 0
        return fit + self._sequence.smoothing_weight * smoothing

    def _fit_one(self, scores: Tensor, targets: Tensor) -> Tensor:
        flat, wanted = scores.flatten(0, 1), targets.flatten()
        smoothing = self.experiment.training.label_smoothing
        if self._sequence.loss == "cross_entropy":
            return F.cross_entropy(flat, wanted, self.class_weights, ignore_index=IGNORED, label_smoothing=smoothing)
        losses = F.cross_entropy(
            flat, wanted, self.class_weights, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none"
        )
        known = wanted != IGNORED
        own = flat.softmax(dim=1).gather(1, wanted.clamp_min(0)[:, None])[:, 0]
        return (losses * (1 - own) ** _FOCUS)[known].mean()

    def _fit_several(self, scores: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        wanted = targets.nan_to_num()
        losses = F.binary_cross_entropy_with_logits(scores, wanted, pos_weight=self.class_weights, reduction="none")
        if self._sequence.loss == "focal":
            probabilities = scores.sigmoid()
            losses = losses * (wanted * (1 - probabilities) + (1 - wanted) * probabilities) ** _FOCUS
        return losses[known].mean()

    def on_train_epoch_start(self) -> None:
        """An epoch begins with every video at its start."""
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            self._state = None

    def on_validation_epoch_start(self) -> None:
        """Begin to collect."""
        self._seen = []

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:  # type: ignore[override]
        """Scores of a whole video."""
        scores, _ = self.recognizer.score(batch.features)
        self._seen.append((scores[0].float().cpu(), batch.targets[0].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Frame accuracy, segmental F1 and loss over the validation videos."""
        if not self._seen:
            return
        losses = [float(self.stage_loss(s[None].to(self.device), t[None].to(self.device))) for s, t in self._seen]
        figures = _figures(self._seen, self.recognizer.classifier.out_features - 1)
        self.log_dict({"val_loss": float(np.mean(losses)), **figures}, prog_bar=True)
        self.log("val_order", float(np.mean(list(figures.values()))) - 1e-6 * float(np.mean(losses)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint in mid-epoch holds the states of the videos that are under way."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["sequence_state"] = self._state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        super().on_load_checkpoint(checkpoint)
        self._state = checkpoint.get("sequence_state")


def _figures(seen: Sequence[tuple[Tensor, Tensor]], background: int) -> dict[str, float]:
    """Frame accuracy and F1 at 25 % overlap, means over videos; where there may be several labels, the share of
    (frame, label) pairs that are right at one half, balanced between present and absent."""
    if seen[0][1].is_floating_point():
        shares = []
        for scores, targets in seen:
            right = (scores > 0) == (targets > 0.5)
            shares += [float(right[targets == kind].float().mean()) for kind in (0, 1) if (targets == kind).any()]
        return {"val_accuracy": float(np.mean(shares))}
    accuracies, f1s = [], []
    for scores, targets in seen:
        known, predicted = targets != IGNORED, scores.argmax(dim=-1)
        accuracies.append(float((predicted == targets)[known].float().mean()))
        ours, theirs = (_spans(some[known].tolist(), background) for some in (predicted, targets))
        f1s.append(match_segments(ours, theirs, min_iou=0.25).f1)
    return {"val_accuracy": float(np.mean(accuracies)), "val_f1_25": float(np.mean(f1s))}


def _spans(labels: Sequence[int], background: int) -> tuple[Span, ...]:
    return without_labels(spans_of_steps([str(label) for label in labels], 1.0), [str(background)])


def _is_target(targets: Tensor) -> Tensor:
    """``[B, T]`` or ``[B, T, K]`` -> bool ``[B, T]``."""
    return ~targets.isnan().any(dim=-1) if targets.is_floating_point() else targets != IGNORED


def _detached(state: State) -> State:
    return tuple(_detached(part) for part in state) if isinstance(state, tuple) else state.detach()


def _class_weights(targets: Sequence[Tensor], num_classes: int, greatest: float) -> Tensor:
    """``[K]`` weights in inverse proportion to each class's grid frames, none more than ``greatest`` times the mean."""
    if targets[0].is_floating_point():
        shares = torch.cat(list(targets)).nanmean(dim=0).clamp(1e-6, 1)
        return ((1 - shares) / shares).clamp(1.0, greatest)
    shares_of_classes = torch.from_numpy(class_shares(targets, num_classes)).float()
    weights = (1 / num_classes) / shares_of_classes.clamp_min(1e-6)
    return weights.clamp_max(greatest)


class SequenceDataModule(VideoDataModule):
    """Features and targets of whole videos in memory, and walks along them."""

    def __init__(self, experiment: Experiment, splits: Splits, ranks: Ranks = ALONE) -> None:
        super().__init__(experiment, splits, ranks)
        self.bad: list[BadVideo] = []
        self._videos: dict[str, list[Copies]] = {}

    def cache_features(self, backbone: FrozenBackbone, progress: Callable[[], None]) -> None:
        """Read every video once: its features from its file, from the cache, or made now. Those that cannot be read are
        left out and named in ``bad``."""
        for part, rows in (("train", self.splits.train), ("val", self.splits.val)):
            videos = timeline_videos(rows)
            is_training = part == "train"
            found = _copies_of(self.experiment, backbone, videos, progress, self.ranks, is_training=is_training)
            self.bad += [bad for bad in found if isinstance(bad, BadVideo)]
            self._videos[part] = [
                [self._with_targets(video, *copy) for copy in copies]
                for video, copies in zip(videos, found, strict=True)
                if not isinstance(copies, BadVideo)
            ]
        if not self._videos["train"]:
            raise UserError(f"none of the training videos can be read: {self.bad[0].path}: {self.bad[0].cause}")

    def _with_targets(self, video: TimelineVideo, features: Tensor, offset_seconds: float) -> tuple[Tensor, Tensor]:
        fps, config = self.experiment.sampling.sample_fps, self.experiment.sequence
        targets = frame_targets(video, len(features), fps, self.splits.labels, config, offset_seconds)
        return delayed(features, targets, config.delay_frames)

    @property
    def train_targets(self) -> list[Tensor]:
        """Of each training video as it is."""
        return [copies[0][1] for copies in self._videos["train"]]

    def train_dataloader(self) -> DataLoader[Any]:
        """The walk along the training videos."""
        config = self.experiment
        dataset = Sequences(
            self._videos["train"], config.data.batch_size, config.sequence.sequence_frames, seed=config.seed
        )
        loader = sequence_loader(dataset)
        assert isinstance(loader.sampler, WalkSampler)
        epoch, num_samples = self._resume_at
        num_done = num_samples // (config.data.batch_size * self.ranks.count)
        loader.sampler.skip(epoch, num_done)
        loader.sampler.set_epoch(epoch if num_done < len(loader.sampler) else epoch + 1)
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Whole validation videos, one by one."""
        videos = self._videos["val"]
        return sequence_loader(Sequences(videos, 1, 0, seed=0)) if videos else []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Everything goes to the device."""
        return batch.to(device, non_blocking=True)


@contextmanager
def fewer_threads(experiment: Experiment) -> Iterator[None]:
    """A recurrence over vectors is a chain of small products, in which threads mostly wait for one another: one thread
    takes a third of the time of two, and leaves the other core free. Everything else keeps its threads."""
    before = torch.get_num_threads()
    if experiment.task == "timeline" and MAP_HEADS.isdisjoint(experiment.model.heads):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settle_features(experiment: Experiment, splits: Splits) -> Experiment:
    """The experiment with what the feature files of its training videos say of themselves.

    Raises:
        UserError: their rate is not given, they are no feature files, or their sizes do not agree.
    """
    if experiment.model.backbone != FILE_FEATURES:
        return experiment
    fps = experiment.model.features_fps or experiment.data.features_fps
    if fps is None or fps < experiment.sampling.sample_fps:
        raise UserError(
            f"model.backbone features: set data.features_fps to the steps a second of the files, at least "
            f"sampling.sample_fps {experiment.sampling.sample_fps:g}, got {fps}"
        )
    count = experiment.model.num_features or count_features(list(dict.fromkeys(row.path for row in splits.train)))
    return replace(experiment, model=replace(experiment.model, num_features=count, features_fps=fps))


def _copies_of(
    experiment: Experiment,
    backbone: FrozenBackbone,
    videos: Sequence[TimelineVideo],
    progress: Callable[[], None],
    ranks: Ranks,
    *,
    is_training: bool,
) -> list[list[tuple[Tensor, float]] | BadVideo]:
    """Of whole videos the features at their grid frames, ``[G, D, ...]``, and so many seconds after each; for training
    more copies of them; or why there are none."""
    if experiment.model.backbone == FILE_FEATURES:
        found = []
        for video in videos:
            found.append(_copies_of_file(experiment, video.row, is_training=is_training))
            progress()
        return found
    settings = experiment.clips
    rows = [VideoRow(v.row.path, "", v.row.group, name=v.row.name, part=v.row.part) for v in videos]
    cache = FeatureCache(backbone, cache_store(settings.data), settings)
    num_copies = settings.data.feature_copies if is_training else 0
    kept = read_features(cache, rows, [""], settings, num_copies, progress, ranks)
    return [some if isinstance(some, BadVideo) else [(copy, 0.0) for copy in some] for some in kept]


def _copies_of_file(
    experiment: Experiment, row: VideoRow, *, is_training: bool
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
        return BadVideo(str(row.path), error.stage, error.cause)
    return [(torch.from_numpy(grid), offset) for grid, offset in zip(grids, offsets, strict=True)]
