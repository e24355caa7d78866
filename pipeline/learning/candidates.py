"""The heads that are tried. Each candidate is a whole experiment, and so a model file like any other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    SamplingConfig,
    TrainingConfig,
    TransformConfig,
)
from pipeline.options import LearnOptions

# What a step of training takes does not depend on the number of videos, and few videos need as many as many.
_NUM_STEPS, _BATCH_SIZE = 100, 16
_SIZE_PX, _SAMPLE_FPS = 112, 8.0
MIN_FRAMES, MAX_FRAMES = 4, 16


def _with_heads(*heads: str, **settings: Any) -> Callable[[Experiment], Experiment]:
    def build(experiment: Experiment) -> Experiment:
        return replace(experiment, model=replace(experiment.model, heads=heads, **settings))

    return build


def _of_differences(build: Callable[[Experiment], Experiment]) -> Callable[[Experiment], Experiment]:
    def changed(experiment: Experiment) -> Experiment:
        experiment = build(experiment)
        return replace(experiment, transform=replace(experiment.transform, input="rgb_diff"))

    return changed


# name -> the experiment, made of the one that all share
CANDIDATES: dict[str, Callable[[Experiment], Experiment]] = {
    "mean": _with_heads("mean"),
    "gru": _with_heads("gru", hidden_channels=64),
    "change and gru": _with_heads("change", "gru", hidden_channels=64),
    "convgru": _with_heads("convgru", hidden_channels=32, kernel_size=1),
    "mean of differences": _of_differences(_with_heads("mean")),
    "gru of differences": _of_differences(_with_heads("gru", hidden_channels=64)),
}


def shared_experiment(root: str, options: LearnOptions, num_frames: int, num_training_videos: int) -> Experiment:
    """The experiment that all candidates share: the bundled backbone without its last layer, frozen, and short windows.

    Args:
        root: the folder of videos.
        options: the seed, which decides weights and clips, and how to decode.
        num_frames: grid frames of a clip.
        num_training_videos: of one training; decides the number of epochs.
    """
    steps_an_epoch = max(1, num_training_videos // _BATCH_SIZE)
    return Experiment(
        name="learn",
        seed=options.seed,
        data=DataConfig(root=root, batch_size=_BATCH_SIZE, num_workers=0, val_fraction=0.0, test_fraction=0.0),
        decode=options.decode,
        sampling=SamplingConfig(sample_fps=_SAMPLE_FPS, num_frames=num_frames),
        transform=TransformConfig(fit_size_px=_SIZE_PX, input_size_px=_SIZE_PX),
        model=ModelConfig(num_stages=8, dropout=0.3, readout="mean"),
        training=TrainingConfig(
            epochs=math.ceil(_NUM_STEPS / steps_an_epoch),
            learning_rate=2e-3,
            backbone_lr_scale=0.0,
            label_smoothing=0.05,
        ),
    )
