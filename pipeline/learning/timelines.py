"""A timeline head in seconds: long videos of which a few stretches are labelled, each embedded once, in few dimensions.

The features of a frozen backbone are projected to their main components; a GRU learns on these, which is quicker.
Afterwards the projection becomes a part of the GRU's input weights, and so the model file is one like any other, with
the whole backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from pipeline.calibration import UNCALIBRATED, Calibration, fit_temperature
from pipeline.config import (
    DataConfig,
    DecodeConfig,
    Experiment,
    MachineConfig,
    ModelConfig,
    SamplingConfig,
    SequenceConfig,
    TrainingConfig,
    TransformConfig,
)
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.sequence_features import Copies, Sequences, feature_loader
from pipeline.datasets.sequences import (
    IGNORED,
    delayed,
    frame_targets,
    has_target,
    nothing_known,
    timeline_videos,
)
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer
from pipeline.training.calm import calm_lightning
from pipeline.training.timelines import TimelineLearner, fewer_threads, timeline_figures

# Defaults, not tuned: as few components as that, and label smoothing, because a GRU soon knows a few labelled stretches
# by heart. A trial on one data set suggested both, but it looked at all of its videos, and so shows nothing.
_NUM_COMPONENTS, _NUM_SAMPLED = 32, 4096
_LEAST_COMPONENT = 1e-3
"""Of the greatest; a smaller one is noise."""
_NUM_STEPS, _LANES = 160, 32
_PIECE_FRAMES, _SEQUENCE_FRAMES = 128, 32
"""Pieces of videos that are learned from side by side, each from an empty state."""
_MARGIN_SECONDS = 4.0
"""Beside a labelled stretch, taken for background where nobody has labelled any: who says when an action begins saw
that it was not there before."""
_MAX_FOLDS = 2
_REJECTED_COPIES = 3
"""A rejected draft is learned from so many times as background: a model has taken it for something."""


def draft_experiment(root: str, decode: DecodeConfig, seed: int = 0) -> Experiment:
    """The experiment of a model that is learned while somebody labels: 4 frames a second, answers a second late."""
    return Experiment(
        name="learn",
        seed=seed,
        task="timeline",
        data=DataConfig(format="manifest", root=root, batch_size=_LANES, num_workers=0, cache="features"),
        decode=decode,
        sampling=SamplingConfig(sample_fps=4.0),
        transform=TransformConfig(fit_size_px=144, input_size_px=128, input="rgb+rgb_diff"),
        sequence=SequenceConfig(delay_frames=4, sequence_frames=_SEQUENCE_FRAMES),
        model=ModelConfig(heads=("gru",), hidden_channels=96, dropout=0.3),
        training=TrainingConfig(learning_rate=4e-3, backbone_lr_scale=0.0, label_smoothing=0.1),
        machine=MachineConfig(accelerator="cpu"),
    )


@dataclass(frozen=True)
class Basis:
    """The main components of features, each scaled to the same spread."""

    mean: Tensor
    """``[D]``"""
    components: Tensor
    """``[D, C]``"""

    def project(self, features: Tensor) -> Tensor:
        """``[G, D]`` -> float32 ``[G, C]``."""
        return (features.float() - self.mean) @ self.components


def fit_basis(features: Sequence[Tensor], seed: int = 0) -> Basis:
    """The basis of the features of some videos, ``[G, D]`` each, by a sample of their frames."""
    total = sum(map(len, features))
    sample = torch.cat([some[:: max(1, total // _NUM_SAMPLED)].float() for some in features])
    mean = sample.mean(dim=0)
    count = min(_NUM_COMPONENTS, *sample.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, values, vectors = torch.svd_lowrank(sample - mean, q=count, niter=2)
    kept = values > _LEAST_COMPONENT * values[:1].clamp_min(1e-6)
    return Basis(mean, vectors[:, kept] * (len(sample) ** 0.5 / values[kept]))


@dataclass(frozen=True)
class Example:
    """One video to learn from."""

    name: str
    group: str
    features: Tensor
    """``[G, C]``, projected."""
    targets: Tensor
    """int64 ``[G]`` or float32 ``[G, K]``, as of ``frame_targets``."""
    rejected: tuple[tuple[int, int], ...] = ()
    """Grid frames of drafts that were rejected, where nothing else is labelled."""


@dataclass(frozen=True)
class HeldOutFigures:
    """Figures of models on videos that they have not seen, means over videos; empty with one video."""

    figures: Mapping[str, float]
    calibration: Calibration
    models: tuple[Recognizer, ...] = ()
    groups: tuple[frozenset[str], ...] = ()
    """Of each model those that it has not seen."""


def make_examples(
    rows: Sequence[VideoRow],
    features: Mapping[str, Tensor],
    labels: Sequence[str],
    experiment: Experiment,
    rejected: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> list[Example]:
    """The videos of the rows that have features, with a target at each: of a model that looks back these are the grid
    frames from the second on."""
    fps, transform, examples = experiment.sampling.sample_fps, experiment.transform, []
    for video in timeline_videos(rows):
        name = video.row.name
        if name in features:
            grid = transform.grid_of_features(transform.frames_for(len(features[name])))
            shown = frame_targets(video, grid.stop, fps, labels, experiment.sequence)
            spans = [(max(0, int(a * fps) - grid.start), int(b * fps) + 1) for a, b in (rejected or {}).get(name, ())]
            examples.append(Example(name, video.row.group, features[name], shown[grid.start :], tuple(spans)))
    return examples


def _with_margins(examples: Sequence[Example], labels: Sequence[str], num_frames: int) -> Sequence[Example]:
    """The examples, and where no background is labelled that beside each labelled stretch: a model that has never seen
    nothing sees something everywhere."""
    if any(_is_nothing(e.targets, labels).any() for e in examples):
        return examples
    found = []
    for example in examples:
        is_known = has_target(example.targets)
        near = F.max_pool1d(is_known[None].float(), 2 * num_frames + 1, stride=1, padding=num_frames)[0] > 0
        filled = _with_nothing(example.targets, labels)
        is_kept = near if filled.ndim == 1 else near[:, None]
        found.append(replace(example, targets=torch.where(is_kept, filled, example.targets)))
    return found


def _is_nothing(targets: Tensor, labels: Sequence[str]) -> Tensor:
    """True where the target is that nothing happens, bool ``[G]``."""
    return (targets == 0).all(dim=-1) if targets.is_floating_point() else targets == len(labels) - 1


def _with_nothing(targets: Tensor, labels: Sequence[str]) -> Tensor:
    """The targets, and where there are none that nothing happens."""
    if targets.is_floating_point():
        return targets.nan_to_num(0.0)
    return targets.masked_fill(targets == IGNORED, len(labels) - 1)


def _copies(examples: Sequence[Example], experiment: Experiment, labels: Sequence[str]) -> list[Copies]:
    """Pieces to learn from, and again those that were rejected."""
    pieces: list[Copies] = []
    delay = experiment.sequence.delay_frames
    for example in examples:
        features, targets = _held(example.features, delay), delayed(example.targets, delay)
        for start in range(0, len(features), _PIECE_FRAMES):
            part = targets[start : start + _PIECE_FRAMES]
            if has_target(part).any():
                pieces.append([(features[start : start + _PIECE_FRAMES], part)])
        for start, stop in example.rejected:
            pieces += _REJECTED_COPIES * [_rejected_piece(features, targets, start + delay, stop + delay, labels)]
    return pieces


def _rejected_piece(features: Tensor, targets: Tensor, start: int, stop: int, labels: Sequence[str]) -> Copies:
    """The frames before and in a rejected draft, of which nothing happens where nothing is labelled."""
    first = max(0, min(start, len(features) - 1) - _SEQUENCE_FRAMES)
    part = torch.full_like(targets[first:stop], nothing_known(targets))
    part[start - first :] = _with_nothing(targets[start:stop], labels)
    return [(features[first:stop], part)]


def train_small(examples: Sequence[Example], labels: Sequence[str], experiment: Experiment, seed: int) -> Recognizer:
    """A recogniser of projected features, in evaluation mode."""
    examples = _with_margins(examples, labels, round(_MARGIN_SECONDS * experiment.sampling.sample_fps))
    pieces = _copies(examples, experiment, labels)
    small = _small_experiment(experiment, examples[0].features.shape[1], pieces)
    seed_everything(seed, verbose=False)
    learner = TimelineLearner(small, len(labels))
    loader = feature_loader(Sequences(pieces, _LANES, _SEQUENCE_FRAMES, seed=seed))
    with calm_lightning(), fewer_threads(small):
        Trainer(
            accelerator="cpu",
            max_epochs=small.training.epochs,
            gradient_clip_val=small.training.gradient_clip_norm,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        ).fit(learner, loader)
    return learner.recognizer.eval()


def _small_experiment(experiment: Experiment, num_features: int, pieces: Sequence[Copies]) -> Experiment:
    steps_an_epoch = -(-len(pieces) // _LANES) * (_PIECE_FRAMES // _SEQUENCE_FRAMES)
    epochs = max(4, round(_NUM_STEPS / steps_an_epoch))
    return replace(
        experiment,
        transform=replace(experiment.transform, input="rgb"),
        model=replace(
            experiment.model,
            backbone="features",
            num_features=num_features,
            features_fps=experiment.sampling.sample_fps,
        ),
        training=replace(experiment.training, epochs=epochs),
    )


@torch.inference_mode()
def timeline_scores(small: Recognizer, features: Tensor, delay_frames: int) -> Tensor:
    """Logits at each grid frame, ``[G, C]`` -> ``[G, K]``, each of the time that it speaks of."""
    return small.score(_held(features, delay_frames)[None])[0][0][delay_frames:]


def _held(features: Tensor, num_frames: int) -> Tensor:
    return torch.cat([features, features[-1:].expand(num_frames, -1)])


def hold_out(
    examples: Sequence[Example],
    labels: Sequence[str],
    experiment: Experiment,
    progress: Callable[[], None] = lambda: None,
) -> HeldOutFigures:
    """Train on all groups but some, and judge by those; once for each of the folds. Where all videos are of one group,
    each counts as one."""
    if len({example.group for example in examples}) < 2:  # the videos of one source, one by one: that flatters
        examples = [replace(example, group=example.name) for example in examples]
    groups = sorted({example.group for example in examples})
    if len(groups) < 2:
        return HeldOutFigures({}, UNCALIBRATED)
    num_folds = min(_MAX_FOLDS, len(groups))
    folds = [frozenset(groups[fold::num_folds]) for fold in range(num_folds)]
    models, judged = [], []
    for number, fold in enumerate(folds):
        models.append(
            train_small([e for e in examples if e.group not in fold], labels, experiment, experiment.seed + 1 + number)
        )
        progress()
        for example in examples:
            if example.group in fold and has_target(example.targets).any():
                logits = timeline_scores(models[-1], example.features, experiment.sequence.delay_frames)
                judged.append((logits, example.targets))
    found = timeline_figures(judged, len(labels) - 1)
    figures = {"frame accuracy": found["accuracy"], "F1@25": found["f1_25"]}
    return HeldOutFigures(figures, _calibration(judged), tuple(models), tuple(folds))


def _calibration(judged: Sequence[tuple[Tensor, Tensor]]) -> Calibration:
    logits, truth = (torch.cat(part) for part in zip(*judged, strict=True))
    if truth.is_floating_point():  # a temperature is of labels of which one is there
        return UNCALIBRATED
    known = truth != IGNORED
    return Calibration(fit_temperature(logits[known], truth[known]))


def fold_in(small: Recognizer, basis: Basis, experiment: Experiment, num_classes: int) -> Recognizer:
    """The recogniser of pictures that answers what the small one answers to their projected features."""
    whole = Recognizer(
        experiment.model,
        num_classes,
        input_size_px=experiment.transform.input_size_px,
        num_pictures=experiment.transform.num_pictures,
    ).eval()
    state = {name: value for name, value in small.state_dict().items() if not name.startswith("feature_norm.")}
    norm, spread = small.feature_norm, basis.components.norm(dim=1).clamp_min(1e-6).reciprocal()
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(whole.feature_norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    name = "temporal.heads.0.layer.weight_ih_l0"
    weight, bias = state[name], name.replace("weight", "bias")
    # y = W (scale (C' (x - mean) - m) + b), and the whole one's norm gives (x - mean) / spread.
    state[name] = (weight * scale) @ basis.components.T * spread
    state[bias] = state[bias] + weight @ (norm.bias - scale * norm.running_mean)
    result = whole.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    with torch.no_grad():
        whole.feature_norm.running_mean.copy_(basis.mean)  # type: ignore[union-attr]
        whole.feature_norm.running_var.copy_(spread.square() - whole.feature_norm.eps)  # type: ignore[union-attr]
        whole.feature_norm.weight.fill_(1)
        whole.feature_norm.bias.zero_()
    return whole


def require_labels(labels: Sequence[str]) -> None:
    """Raises ``UserError`` where there is nothing to tell apart."""
    if not labels:
        raise UserError("nothing is labelled yet: label a stretch or two, then learn")
