"""Training on timelines: from long videos, with the state carried on from sequence to sequence.

Truncated backpropagation through time: batches walk along the videos (``datasets.sequences``), each begins with the
state that the one before ended with, and the gradient stops between them (Werbos, 1990; for online action detection An
et al., "MiniROAD", ICCV 2023). Some sequences begin anew, so that a model can begin anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Experiment
from pipeline.datasets.sequence_data import SequenceDataModule
from pipeline.datasets.sequences import IGNORED, class_shares, has_target
from pipeline.datasets.settled import Splits
from pipeline.datasets.walks import LaneFrames, SequenceBatch
from pipeline.embedding.feature_file import count_features
from pipeline.errors import UserError
from pipeline.machine import one_thread
from pipeline.models.backbones import FILE_FEATURES
from pipeline.models.temporal.head import State
from pipeline.models.temporal.stack import MAP_HEADS
from pipeline.ranks import ALONE, Ranks
from pipeline.timeline.labelled import Span, spans_of_steps, without_labels
from pipeline.timeline.metrics.segments import match_segments
from pipeline.training.lanes import embed_lanes
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
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.recognizer.let_labels_overlap(experiment.sequence.labels == "several")

    def note(self, data: SequenceDataModule) -> None:
        """Take over what reading the videos has shown: those that are bad, and how often each label occurs."""
        add_bad_videos(self.bad_videos, data.bad)
        if self.experiment.training.class_weights == "balanced":
            num_classes = self.recognizer.classifier.out_features
            weights = _class_weights(data.train_targets, num_classes, self._sequence.max_class_weight)
            self.class_weights = weights.to(self.device)

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        """The mean loss of the grid frames that have a target, of all ranks, summed over the stages. A batch without a
        target is a skipped step; with several ranks, where no step can be skipped, a gradient of zero."""
        add_bad_videos(self.bad_videos, batch.bad)
        sizes = self.ranks.sum(self._sizes(batch.targets)) / self.ranks.count
        loss = self._stages_loss(batch, sizes) if batch.has_frames else self._no_loss()
        self._mean_loss = self.ranks.sum(loss.detach()) / self.ranks.count
        if self.ranks.count == 1 and not batch.has_targets:
            return None
        if self.is_followed:
            self.log("train_loss", self._mean_loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch))
        return loss

    def _stages_loss(self, batch: SequenceBatch, sizes: Tensor) -> Tensor:
        is_frame = None if batch.is_full else batch.is_frame
        projected = self.recognizer.project(self._features(batch), is_frame)
        stages, state = self.recognizer.score_stages(projected, self._begin(batch), is_frame)
        # A lane that was filled up from its start, as where a piece could not be read, has nothing to go on from.
        self._state = self.recognizer.forget(_detached(state), ~batch.is_frame[:, 0]) if self._carries else None
        return torch.stack([self.stage_loss(scores, batch.targets, sizes) for scores in stages]).sum()

    def _features(self, batch: SequenceBatch) -> Tensor:
        """``[B, T, D, ...]``, from its frames if it has these."""
        if isinstance(batch.features, LaneFrames):
            return embed_lanes(self.recognizer, self.transform, batch.features)
        return batch.features

    def _begin(self, batch: SequenceBatch) -> State:
        """The state that the batch goes on from; of videos that begin, and of a few more, the initial one."""
        if self._state is None:
            return None
        drawn = torch.rand(len(batch.begins), device=self.device) < self._sequence.state_dropout
        return self.recognizer.forget(_detached(self._state, self.device), batch.begins | drawn)

    def stage_loss(self, scores: Tensor, targets: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Loss of one stage: scores ``[B, T, K]`` (logits), targets ``[B, T]`` or ``[B, T, K]`` -> a number.

        Args:
            scores: of the stage.
            targets: of its grid frames.
            sizes: what the sums of both terms are divided by, ``[2]``; unset: those of these targets alone.
        """
        fit_size, smoothing_size = (self._sizes(targets) if sizes is None else sizes).clamp_min(1e-9)
        if targets.is_floating_point():
            fit, levels = self._fit_several(scores, targets), F.logsigmoid(scores)
        else:
            fit, levels = self._fit_one(scores, targets), F.log_softmax(scores, dim=-1)
        if not self._sequence.smoothing_weight or scores.shape[1] < 2:
            return torch.as_tensor(fit / fit_size)
        change = (levels[:, 1:] - levels[:, :-1].detach()).abs().clamp_max(_CLIPPED_AT).square()
        smoothing = change[has_target(targets)[:, 1:]].sum() / smoothing_size
        return torch.as_tensor(fit / fit_size + self._sequence.smoothing_weight * smoothing)

    def _sizes(self, targets: Tensor) -> Tensor:
        """The number of targets (or their class weights' sum) and of smoothed log-probabilities, float32 ``[2]``."""
        is_target = has_target(targets)
        num_steps = is_target[:, 1:].sum() * self.recognizer.classifier.out_features
        fit = (~targets.isnan()).sum() if targets.is_floating_point() else is_target.sum()
        if self.class_weights is not None and not targets.is_floating_point() and self._sequence.loss != "focal":
            fit = self.class_weights[targets[is_target]].sum()
        return torch.stack([fit.float(), num_steps.float()])

    def _fit_one(self, scores: Tensor, targets: Tensor) -> Tensor:
        flat, wanted = scores.flatten(0, 1), targets.flatten()
        is_focal = self._sequence.loss == "focal"
        losses = F.cross_entropy(
            flat,
            wanted,
            self.class_weights,
            ignore_index=IGNORED,
            label_smoothing=self.experiment.training.label_smoothing,
            reduction="none" if is_focal else "sum",
        )
        if not is_focal:
            return losses
        own = flat.softmax(dim=1).gather(1, wanted.clamp_min(0)[:, None])[:, 0]
        return (losses * (1 - own) ** _FOCUS)[wanted != IGNORED].sum()

    def _fit_several(self, scores: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        wanted = targets.nan_to_num()
        losses = F.binary_cross_entropy_with_logits(scores, wanted, pos_weight=self.class_weights, reduction="none")
        if self._sequence.loss == "focal":
            probabilities = scores.sigmoid()
            losses = losses * (wanted * (1 - probabilities) + (1 - wanted) * probabilities) ** _FOCUS
        return losses[known].sum()

    def on_train_epoch_start(self) -> None:
        """An epoch begins with every video at its start."""
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            self._state = None

    def on_validation_epoch_start(self) -> None:
        """Begin to collect."""
        self._seen, self._kept = [], []

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:  # type: ignore[override]
        """Scores of a whole video, once all its pieces are there."""
        add_bad_videos(self.bad_videos, batch.bad)
        scored = self.scored(batch)
        if scored is not None:
            self._seen.append(scored)

    def scored(self, batch: SequenceBatch) -> tuple[Tensor, Tensor] | None:
        """Scores (logits) ``[G, K]`` and targets ``[G, ...]`` of a whole video, on the CPU, when ``batch`` is the last
        of its pieces, else None. Batches of a validation come in order, each with a lane of one video."""
        if batch.has_frames:
            self._kept.append((self._features(batch), batch.targets))
        if not batch.ends[0] or not self._kept:
            return None
        features, targets = (torch.cat(parts, dim=1) for parts in zip(*self._kept, strict=True))
        self._kept = []
        return self.recognizer.score(features)[0][0].float().cpu(), targets[0].cpu()

    def on_validation_epoch_end(self) -> None:
        """``timeline_figures`` and loss over the validation videos of all ranks that have a target."""
        self._seen = [pair for part in self.ranks.gather(self._seen) for pair in part if has_target(pair[1]).any()]
        if not self._seen:
            return
        pairs = [(scores[None].to(self.device), targets[None].to(self.device)) for scores, targets in self._seen]
        losses = [float(self.stage_loss(*pair).detach()) for pair in pairs]
        found = timeline_figures(self._seen, self.recognizer.classifier.out_features - 1)
        figures = {f"val_{name}": value for name, value in found.items()}
        self.log_dict({"val_loss": float(np.mean(losses)), **figures}, prog_bar=True)
        self.log("val_order", float(np.mean(list(figures.values()))) - 1e-6 * float(np.mean(losses)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint in mid-epoch holds the states of the videos that are under way."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["sequence_states"] = self.ranks.gather(_detached(self._state, torch.device("cpu")))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        super().on_load_checkpoint(checkpoint)
        self._state = checkpoint["sequence_states"][self.ranks.index]


def timeline_figures(seen: Sequence[tuple[Tensor, Tensor]], background: int) -> dict[str, float]:
    """Figures of whole videos, means over them: ``accuracy`` of frames and ``f1_25``, F1 of segments at 25 % overlap.

    Where there may be several labels: the share of (frame, label) pairs that are right at one half, balanced between
    present and absent, and F1 of the segments of each label by itself.

    Args:
        seen: logits ``[G, K]`` and targets ``[G]`` or ``[G, K]`` of each video, of which one at least is known.
        background: place of the label without segments, where there is one label at a time.
    """
    accuracies, f1s = [], []
    for scores, targets in seen:
        known = has_target(targets)
        truth, predicted = targets[known], scores[known].argmax(dim=-1)
        if targets.is_floating_point():
            truth, predicted = truth > 0.5, scores[known] > 0
            accuracies += [float((predicted == truth)[truth == kind].float().mean()) for kind in truth.unique()]
        else:
            accuracies.append(float((predicted == truth).float().mean()))
        ours, theirs = (_spans(some, background) for some in (predicted, truth))
        f1s.append(match_segments(ours, theirs, min_iou=0.25).f1)
    return {"accuracy": float(np.mean(accuracies)), "f1_25": float(np.mean(f1s))}


def _spans(steps: Tensor, background: int) -> tuple[Span, ...]:
    """Segments of a video's labels ``[G]``, or of those that are there, bool ``[G, K]``."""
    if steps.ndim == 1:
        return without_labels(spans_of_steps([str(label) for label in steps.tolist()], 1.0), [str(background)])
    columns = [[str(label) if there else "" for there in column] for label, column in enumerate(steps.T.tolist())]
    return tuple(span for column in columns for span in without_labels(spans_of_steps(column, 1.0), [""]))


def _detached(state: State, device: torch.device | None = None) -> State:
    if isinstance(state, tuple):
        return tuple(_detached(part, device) for part in state)
    return state if state is None else state.detach().to(device or state.device)


def _class_weights(targets: Sequence[Tensor], num_classes: int, greatest: float) -> Tensor:
    """``[K]`` weights in inverse proportion to each class's grid frames, none more than ``greatest`` times the mean."""
    if targets[0].is_floating_point():
        shares = torch.cat(list(targets)).nanmean(dim=0).clamp(1e-6, 1)
        return ((1 - shares) / shares).clamp(1.0, greatest)
    shares_of_classes = torch.from_numpy(class_shares(targets, num_classes)).float()
    weights = (1 / num_classes) / shares_of_classes.clamp_min(1e-6)
    return weights.clamp_max(greatest)


@contextmanager
def fewer_threads(experiment: Experiment) -> Iterator[None]:
    """A recurrence over vectors is a chain of small products, in which threads mostly wait for one another: one thread
    takes a third of the time of two, and leaves the other core free. Everything else keeps its threads."""
    is_chain = (
        experiment.task == "timeline"
        and experiment.learns_from_features
        and MAP_HEADS.isdisjoint(experiment.model.heads)
    )
    with one_thread() if is_chain else nullcontext():
        yield


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
