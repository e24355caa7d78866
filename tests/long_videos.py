"""Small long videos of colours, their stretches, and an experiment that trains on them from their frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.config import DataConfig, Experiment, SequenceConfig
from tests.small import small_experiment

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "background": (90, 90, 110)}


def write_colours(path: Path, labels: list[str], seconds_each: float = 1.0, fps: int = 10) -> None:
    """A video of noise around the colour of each label, one after the other."""
    rng = np.random.default_rng(len(labels))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 40, 40, "yuv420p"
        for label in labels:
            for _ in range(round(seconds_each * fps)):
                image = (np.array(COLOURS[label]) + rng.normal(0, 25, (40, 40, 3))).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def make_long_videos(root: Path, num_train: int = 5) -> Path:
    """Videos of unlike lengths, 3 s and more, for training, one for validation and one for tests."""
    lines, rng = ["path,label,start_seconds,end_seconds,split"], np.random.default_rng(0)
    for number in range(num_train + 2):
        labels = [list(COLOURS)[place] for place in [*rng.permutation(3), *rng.integers(0, 3, number % 3)]]
        write_colours(root / f"{number}.mp4", labels)
        part = "train" if number < num_train else "val" if number == num_train else "test"
        lines += [
            f"{number}.mp4,{label},{start},{start + 1},{part}"
            for start, label in enumerate(labels)
            if label != "background"
        ]
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def frame_experiment(root: Path, folder: Path, **training: Any) -> Experiment:
    """A backbone that learns from 3 of every 6 grid frames, all that involves chance switched on."""
    base = small_experiment(root, folder, **{"epochs": 2, "train_frames": 3, "learning_rate": 0.01, **training})
    return replace(
        base,
        task="timeline",
        data=DataConfig(format="manifest", root=str(root), batch_size=2, num_workers=0),
        model=replace(base.model, heads=("gru",), dropout=0.1),
        sequence=SequenceConfig(sequence_frames=6, state_dropout=0.1, delay_frames=1),
    )
