"""The LightningModule: how a recogniser learns from batches of clips. Glue between the stages, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from pipeline.config import Experiment, TrainingConfig
from pipeline.datasets.videos import BadVideo, ClipBatch
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal.fast import set_fast
from pipeline.ranks import ALONE, Ranks
from pipeline.sampling import part_edges
from pipeline.transforms.augmentation import TrainTransform

BadRows = dict[tuple[str, tuple[float, float | None]], BadVideo]
"""Rows that could not be read, by path and stretch."""


class ClipClassifier(LightningModule):
    """Trains a ``Recognizer``.

    Args:
        experiment: all settings.
        num_classes: K.
        class_weights: ``[K]`` loss weight of each class, or None.
        ranks: those that train it together.

    Attributes:
        bad_videos: unreadable rows that this rank met so far, by path and stretch.
        came_from: the provenance of the model that it started from, or None.
    """

    def __init__(
        self, experiment: Experiment, num_classes: int, class_weights: Tensor | None = None, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self.experiment, self.ranks = experiment, ranks
        size, num_pictures = experiment.transform.input_size_px, experiment.transform.num_pictures
        self.recognizer = Recognizer(
            experiment.model,
            num_classes,
            load_weights=experiment.training.initial_model is None,
            input_size_px=size,
            num_pictures=num_pictures,
            input_frames=experiment.transform.input_frames,
        )
        set_fast(self.recognizer, experiment.machine.fast_heads)
        self.transform = TrainTransform(experiment.transform, self.recognizer.backbone.normalization)
        self.bad_videos: BadRows = {}
        self.came_from: dict[str, Any] | None = None
        self.train_accuracy = MulticlassAccuracy(max(2, num_classes), average="micro")  # a timeline may have one label
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None
        self._mix = _mixing(experiment.training, num_classes)
        self._freeze()
        self.train()  # the trainer keeps the modes it finds

    def _freeze(self) -> None:
        config = self.experiment.training
        if config.backbone_lr_scale == 0:
            self.recognizer.backbone.freeze()
        elif config.num_frozen_stages:
            num_stages = len(self.recognizer.backbone.stages)
            if config.num_frozen_stages >= num_stages:
                raise UserError(
                    f"training.num_frozen_stages {config.num_frozen_stages}: {self.experiment.model.backbone} has "
                    f"{num_stages} stages, and none would learn; set a lower number, or training.backbone_lr_scale 0 "
                    "to freeze all of it"
                )
            self.recognizer.backbone.freeze(config.num_frozen_stages)

    def train(self, mode: bool = True) -> ClipClassifier:
        """Training mode, except for the parts of the backbone that must not change."""
        super().train(mode)
        if not hasattr(self, "recognizer"):
            return self
        for stage in self.recognizer.backbone.stages:
            if not any(parameter.requires_grad for parameter in stage.parameters()):
                stage.eval()
        if self.experiment.training.freeze_batch_norm:
            for module in self.recognizer.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        """Chance in a step is a function of the seed, the step and the rank, so that a resumed run draws the same."""
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        seed = self.experiment.seed * 1_000_003 + step + self.ranks.index * 1_000_000_007
        # Without a GPU, torch.manual_seed would keep a call and its traceback for one, at each step.
        (torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed)(seed)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        """The loss of a batch. If none of its videos could be read: None, a skipped step; with several ranks, where no
        step can be skipped, a gradient of zero."""
        self._note_bad(batch)
        loss, weight = self.loss(batch)
        loss, self._mean_loss, num_clips = self._share(loss, weight, len(batch.labels))
        if num_clips == 0:
            return loss if self.ranks.count > 1 else None
        if self.is_followed:
            self.log("train_loss", self._mean_loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=num_clips)
            self.log("train_accuracy", self.train_accuracy, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    @property
    def is_followed(self) -> bool:
        """True if somebody reads the figures of a training; keeping them takes a sixth of the step of a small head."""
        trainer = self._trainer
        return trainer is None or bool(trainer.loggers or trainer.progress_bar_callback)

    def on_after_backward(self) -> None:
        """Refuse a loss that is no finite number before the weights learn from it. This waits for the GPU, so it comes
        when all work of the backward pass is queued there."""
        if not math.isfinite(self._mean_loss):
            error = UserError(
                f"the loss became {float(self._mean_loss)} in epoch {self.current_epoch}; "
                "lower training.learning_rate, or train with training.precision fp32"
            )
            self.ranks.refuse(error)

    def loss(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Mean loss of the clips and what it weighs against other ranks' means; 0 and 0 where there are none."""
        if len(batch.labels) == 0:
            return self._no_loss(), torch.zeros((), device=self.device)
        logits, targets = self._forward(batch)
        self.train_accuracy(logits, batch.labels)
        loss = F.cross_entropy(
            logits, targets, self.class_weights, label_smoothing=self.experiment.training.label_smoothing
        )
        if self.class_weights is None or targets.is_floating_point():
            return loss, loss.new_full((), len(logits), dtype=torch.float32)
        return loss, self.class_weights[targets].sum()

    def _no_loss(self) -> Tensor:
        """0, and still a function of every weight: the ranks meet where its gradient is ready."""
        return torch.stack([parameter.sum() for parameter in self.parameters() if parameter.requires_grad]).sum() * 0.0

    def _share(self, loss: Tensor, weight: Tensor, num_clips: int) -> tuple[Tensor, Tensor, int]:
        """This rank's part of the loss of all clips of all ranks' batches, that loss, and how many clips they are.

        The ranks' gradients are averaged; scaled so, the average is the gradient of one large batch, also where ranks
        have fewer clips because some could not be read. A rank alone reads nothing back from its device.
        """
        if self.ranks.count == 1:
            return loss, loss.detach(), num_clips
        own = torch.stack([loss.detach().float() * weight, weight, torch.full_like(weight, num_clips)])
        weighted, total, clips = self.ranks.sum(own.double()).float()
        num_clips = int(clips)
        if num_clips == 0:
            return loss, torch.zeros_like(weight), 0
        return loss * (weight * self.ranks.count / total), weighted / total, num_clips

    def _forward(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Logits ``[B, K]`` and targets: class indices ``[B]``, or ``[B, K]`` shares where clips are mixed."""
        if batch.frames.is_floating_point():  # cached features
            return self.recognizer.classify(self._drawn(batch.frames)), batch.labels
        clips, targets = self._drawn(self.transform.train(batch.frames)), batch.labels
        if self._mix is not None:
            # A clip goes as one picture of T C channels: [B, T, C, H, W] -> [B, T C, H, W] and back.
            mixed, targets = self._mix(clips.flatten(1, 2), targets)
            clips = mixed.unflatten(1, clips.shape[1:3])
        return self.recognizer(clips), targets

    def _drawn(self, clips: Tensor) -> Tensor:
        """Clips ``[B, T, ...]`` or those of their frames that this step learns from, ``[B, train_frames, ...]``."""
        count = self.experiment.training.train_frames
        return clips if count is None else draw_frames(clips, count)

    def on_validation_epoch_start(self) -> None:
        """Counts start anew."""
        self._correct, self._videos, self._summed_loss = 0, 0, 0.0

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Scores of a video's clips are averaged; an unreadable video is a wrong answer."""
        self._note_bad(batch)
        self._videos += len(batch.bad)
        if len(batch.labels) == 0:
            return
        logits = self.logits(batch)
        _, places = batch.rows.unique(return_inverse=True)
        probabilities = average_by_video(logits.float().softmax(dim=-1), places)
        labels = batch.labels.new_zeros(len(probabilities)).scatter_(0, places, batch.labels)
        self._correct += int((probabilities.argmax(dim=-1) == labels).sum())
        self._videos += len(labels)
        self._summed_loss += float(-probabilities.gather(1, labels[:, None]).clamp_min(1e-9).log().sum())

    def logits(self, batch: ClipBatch) -> Tensor:
        """Of a batch as in evaluation, ``[B, K]``."""
        if batch.frames.is_floating_point():  # cached features
            return self.recognizer.classify(batch.frames)
        logits: Tensor = self.recognizer(self.transform.evaluate(batch.frames))
        return logits

    def on_validation_epoch_end(self) -> None:
        """Accuracy and loss over the videos of all ranks."""
        own = torch.tensor([self._correct, self._videos, self._summed_loss], dtype=torch.float64)
        correct, videos, loss = self.ranks.sum(own).tolist()
        if videos:
            self.log("val_accuracy", correct / videos, prog_bar=True)
            self.log("val_loss", loss / videos, prog_bar=True)
            # What the best epoch is chosen by: accuracy, and among equals the lower loss.
            self.log("val_order", correct / videos - 1e-6 * loss / videos)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint knows how good its weights were, and where they started."""
        checkpoint["came_from"] = self.came_from
        names = ("val_accuracy", "val_loss")
        figures = self.trainer.callback_metrics
        checkpoint["figures"] = {name: float(figures[name]) for name in names if name in figures}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A resumed run started where the first part did."""
        self.came_from = checkpoint.get("came_from")

    def _note_bad(self, batch: ClipBatch) -> None:
        add_bad_videos(self.bad_videos, (bad for _, bad in batch.bad))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW or SGD, warm-up then cosine, one learning rate for the backbone and one for the rest."""
        config = self.experiment.training
        groups = parameter_groups(self.recognizer, config)
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        else:
            optimizer = torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, total, config.warmup_fraction)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def draw_frames(clips: Tensor, count: int) -> Tensor:
    """One frame of each of ``count`` equal parts of each clip, in order: ``[B, T, ...]`` -> ``[B, count, ...]``, with
    ``count <= T`` (Wang et al., "Temporal Segment Networks", 2016). Draws from torch's global generator.

    This is not a matter of sampling: what a transform says of a frame, its change, needs the frame before it."""
    batch, steps = clips.shape[:2]
    edges = torch.tensor(part_edges(steps, count)).to(clips.device, non_blocking=True)
    lengths = edges[1:] - edges[:-1]
    places = edges[:-1] + (torch.rand(batch, count, device=clips.device) * lengths).long()
    return clips[torch.arange(batch, device=clips.device)[:, None], places]


def add_bad_videos(known: BadRows, met: Iterable[BadVideo]) -> None:
    """Adds rows to those known; one that is known was met so many times more."""
    for bad in met:
        before = known.get((bad.path, bad.stretch))
        known[bad.path, bad.stretch] = replace(bad, times=bad.times + (before.times if before else 0))


def average_by_video(scores: Tensor, places: Tensor) -> Tensor:
    """Mean over the clips of each video: ``scores [B, K]``, ``places [B]`` in 0..N-1 -> ``[N, K]``."""
    num_videos = int(places.max()) + 1
    sums = scores.new_zeros(num_videos, scores.shape[1]).index_add_(0, places, scores)
    return sums / torch.bincount(places, minlength=num_videos)[:, None]


def warmup_cosine(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate: linear from near 0, then half a cosine to 0 (Loshchilov and Hutter, 2017)."""
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def parameter_groups(recognizer: Recognizer, config: TrainingConfig) -> list[dict[str, object]]:
    """Parameters that learn, by learning rate and weight decay: biases and normalisation weights are not decayed."""
    groups: list[dict[str, object]] = []
    head = [parameter for name, parameter in recognizer.named_parameters() if not name.startswith("backbone.")]
    backbone_rate = config.learning_rate * config.backbone_lr_scale
    for parameters, rate in ((list(recognizer.backbone.parameters()), backbone_rate), (head, config.learning_rate)):
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for decayed in (True, False):
            chosen = [parameter for parameter in learning if (parameter.ndim > 1) == decayed]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": config.weight_decay if decayed else 0.0})
    return groups


def _mixing(config: TrainingConfig, num_classes: int) -> nn.Module | None:
    choices: list[nn.Module] = []
    if config.mixup_alpha > 0:
        choices.append(v2.MixUp(alpha=config.mixup_alpha, num_classes=num_classes))
    if config.cutmix_alpha > 0:
        choices.append(v2.CutMix(alpha=config.cutmix_alpha, num_classes=num_classes))
    return v2.RandomChoice(choices) if choices else None


def balanced_class_weights(label_indices: Sequence[int], num_classes: int) -> Tensor:
    """``[K]`` weights in inverse proportion to each class's clips, their mean over clips 1."""
    counts = torch.bincount(torch.tensor(label_indices), minlength=num_classes).clamp_min(1)
    return len(label_indices) / (num_classes * counts.float())
