"""The LightningModule: how a recogniser learns from batches of clips. Glue between the stages, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.classification import MulticlassAccuracy
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.config import Experiment, TrainingConfig
from pipeline.datasets.videos import BadVideo, ClipBatch
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer
from pipeline.transforms import ClipTransform


class ClipClassifier(LightningModule):
    """Trains a ``Recognizer``.

    Args:
        experiment: all settings.
        num_classes: K.
        class_weights: ``[K]`` loss weight of each class, or None.

    Attributes:
        bad_videos: unreadable videos met so far, by path.
    """

    def __init__(self, experiment: Experiment, num_classes: int, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.experiment = experiment
        size = experiment.transform.input_size_px
        self.recognizer = Recognizer(experiment.model, num_classes, input_size_px=size)
        self.transform = ClipTransform(experiment.transform, self.recognizer.backbone.normalization)
        self.bad_videos: dict[str, BadVideo] = {}
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None
        self._mix = _mixing(experiment.training, num_classes)
        self._freeze()
        self.train()  # the trainer keeps the modes it finds

    def _freeze(self) -> None:
        config = self.experiment.training
        if config.backbone_learning_rate_ratio == 0:
            self.recognizer.backbone.freeze()
        elif config.num_frozen_stages:
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
        """Chance in a step is a function of the seed and the step, so that a resumed run draws the same."""
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        seed = torch.tensor([self.experiment.seed, step], dtype=torch.int64)
        torch.manual_seed(int(seed[0]) * 1_000_003 + int(seed[1]))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        """The loss of a batch; None, a skipped step, if none of its videos could be read."""
        self._note_bad(batch)
        if len(batch.labels) == 0:
            return None
        logits, targets = self._forward(batch)
        loss = F.cross_entropy(
            logits, targets, self.class_weights, label_smoothing=self.experiment.training.label_smoothing
        )
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}; "
                "lower training.learning_rate, or train with training.precision fp32"
            )
        self.train_accuracy(logits, batch.labels)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch.labels))
        self.log("train_accuracy", self.train_accuracy, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def _forward(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Logits ``[B, K]`` and targets: class indices ``[B]``, or ``[B, K]`` shares where clips are mixed."""
        if batch.frames.is_floating_point():  # cached features
            return self.recognizer.classify(batch.frames), batch.labels
        clips, targets = self.transform.train(batch.frames), batch.labels
        if self._mix is not None:
            clips, targets = self._mix(tv_tensors.Video(clips), targets)
            clips = clips.as_subclass(Tensor)
        return self.recognizer(clips), targets

    def on_validation_epoch_start(self) -> None:
        """Counts start anew."""
        self._correct, self._videos, self._loss = 0, 0, 0.0

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
        self._loss += float(-probabilities.gather(1, labels[:, None]).clamp_min(1e-9).log().sum())

    def logits(self, batch: ClipBatch) -> Tensor:
        """Of a batch as in evaluation, ``[B, K]``."""
        if batch.frames.is_floating_point():  # cached features
            return self.recognizer.classify(batch.frames)
        logits: Tensor = self.recognizer(self.transform.evaluate(batch.frames))
        return logits

    def on_validation_epoch_end(self) -> None:
        """Accuracy and loss over videos."""
        if self._videos:
            self.log("val_accuracy", self._correct / self._videos, prog_bar=True)
            self.log("val_loss", self._loss / self._videos, prog_bar=True)
            # What the best epoch is chosen by: accuracy, and among equals the lower loss.
            self.log("val_order", self._correct / self._videos - 1e-6 * self._loss / self._videos)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint knows how good its weights were."""
        names = ("val_accuracy", "val_loss")
        figures = self.trainer.callback_metrics
        checkpoint["figures"] = {name: float(figures[name]) for name in names if name in figures}

    def _note_bad(self, batch: ClipBatch) -> None:
        for _, bad in batch.bad:
            before = self.bad_videos.get(bad.path)
            self.bad_videos[bad.path] = replace(bad, times=bad.times + (before.times if before else 0))

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
    backbone_rate = config.learning_rate * config.backbone_learning_rate_ratio
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
