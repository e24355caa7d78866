"""One head trained on features, and what it says of videos that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.config import Experiment
from pipeline.datasets.datamodule import make_feature_loader
from pipeline.datasets.videos import ChooseClips, Sample, fixed_clips, random_clip
from pipeline.files.stopping import StopRequest
from pipeline.learning.features import VideoFeatures
from pipeline.training.calibrating import held_out_logits
from pipeline.training.callbacks import StopOnSignal
from pipeline.training.calm import calm_lightning
from pipeline.training.module import ClipClassifier


def fit_head(experiment: Experiment, labels: Sequence[str], videos: Sequence[VideoFeatures]) -> ClipClassifier:
    """Trains the head as ``clipgru train`` would, without what a long run needs: no files, no validation, no resume."""
    seed_everything(experiment.seed, verbose=False)
    module = ClipClassifier(experiment, len(labels))
    with StopRequest().listening() as stop, calm_lightning():
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=experiment.training.epochs,
            gradient_clip_val=experiment.training.gradient_clip_norm,
            callbacks=[StopOnSignal(None, stop)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, _loader(experiment, labels, videos, random_clip))
    return module.eval()


def scores_of(
    module: ClipClassifier, labels: Sequence[str], videos: Sequence[VideoFeatures]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each evaluation clip: logits ``[N, K]``, its class and the place of its video, int64 ``[N]`` each."""
    return held_out_logits(module, _loader(module.experiment, labels, videos, fixed_clips))


def _loader(
    experiment: Experiment, labels: Sequence[str], videos: Sequence[VideoFeatures], choose: ChooseClips
) -> DataLoader[Sample]:
    features = [[video.of(experiment)] for video in videos]
    # Features of changes are what these clips are made of, as pictures would be: they look back at nothing.
    settings = replace(experiment.clips, transform=replace(experiment.transform, input="rgb"))
    return make_feature_loader([video.row for video in videos], labels, settings, choose, features)


def loss_and_right(logits: Tensor, truth: Tensor, places: Tensor, num_videos: int) -> tuple[Tensor, Tensor]:
    """Of each video ``[V]``: minus the log of the probability of its class, and 1 if the best label is right; by the
    mean over its clips, as in evaluation."""
    probabilities = torch.stack([logits[places == place].softmax(dim=-1).mean(dim=0) for place in range(num_videos)])
    labels = torch.stack([truth[places == place][0] for place in range(num_videos)])
    own = probabilities.gather(1, labels[:, None])[:, 0]
    return -own.clamp_min(1e-9).log(), (probabilities.argmax(dim=1) == labels).float()
