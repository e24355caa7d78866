"""A small training of a timeline: made-up features in files, and a table of when."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import DataConfig, Experiment, SequenceConfig
from tests.small import small_experiment

LABELS = ("jump", "run", "background")


def timeline_experiment(folder: Path, **sequence: Any) -> Experiment:
    """Three made-up videos of features of four numbers, of which the first two tell the label, a little late."""
    generator, lines = np.random.default_rng(0), ["path,label,start_seconds,end_seconds,split"]
    for number in range(8):
        labels = np.repeat(generator.integers(0, 3, 8), 5)[: 40 - number % 3]
        shown = np.eye(3)[np.roll(labels, 1)][:, :2]
        features = np.concatenate([shown, generator.normal(size=(len(labels), 2))], axis=1)
        np.save(folder / f"{number}.npy", (features + 0.1 * generator.normal(size=(len(labels), 4))).astype(np.float32))
        edges = [0, *np.flatnonzero(np.diff(labels)) + 1, len(labels)]
        for start, stop in pairwise(edges):
            if labels[start] < 2:
                part = "train" if number < 6 else "val" if number == 6 else "test"
                lines.append(f"{number}.npy,{LABELS[labels[start]]},{start / 2},{stop / 2},{part}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    base = small_experiment(folder, folder / "runs")
    model = replace(base.model, backbone="features", heads=("gru",), hidden_channels=16, dropout=0.0)
    return replace(
        base,
        task="timeline",
        data=DataConfig(format="manifest", root=str(folder), batch_size=3, features_fps=2.0),
        sampling=replace(base.sampling, sample_fps=2.0),
        model=model,
        sequence=SequenceConfig(**{"sequence_frames": 8, "state_dropout": 0.0, **sequence}),
        training=replace(base.training, backbone_lr_scale=0.0, epochs=10, learning_rate=0.05, label_smoothing=0.0),
    )
