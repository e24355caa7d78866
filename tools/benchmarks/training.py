"""Training without a cache, from cached frames and from cached features: clips a second, and the waiting share."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.tables import Findings, Table
from pipeline.config import DataConfig, Experiment, MachineConfig, ModelConfig, SamplingConfig, TrainingConfig
from pipeline.datasets.motion import MotionSetConfig, make_motion_set
from pipeline.training.fit import train

EPOCHS = 3  # the first fills the cache
CACHES = ("none", "frames", "features")


def experiment_with(cache: str, root: Path, folder: Path, device: str) -> Experiment:
    """A frozen ResNet-18 at 112 px with a GRU; its weights do not matter for time."""
    return Experiment(
        name=cache,
        output_dir=str(folder),
        data=DataConfig(root=str(root), cache=cache, cache_dir=str(folder / "cache"), batch_size=16),  # type: ignore[arg-type]
        sampling=SamplingConfig(),
        model=ModelConfig(backbone="resnet18", weights="none", heads=("gru",)),
        training=TrainingConfig(epochs=EPOCHS, backbone_lr_scale=0.0, freeze_batch_norm=False),
        machine=MachineConfig(accelerator="gpu" if device == "cuda" else "cpu"),
    )


def last_epochs(folder: Path, column: str) -> float:
    """Median over the epochs after the first."""
    (log,) = folder.glob("logs_1/metrics.csv")
    by_epoch: dict[int, list[float]] = {}
    with log.open() as stream:
        for row in csv.DictReader(stream):
            if row.get(column):
                by_epoch.setdefault(int(row["epoch"]), []).append(float(row[column]))
    return median(values[-1] for epoch, values in by_epoch.items() if epoch > 0)


def measure(device: str, rounds: int, compiles: bool) -> Findings:
    """The three, one after the other, on generated videos; the rounds are the epochs."""
    rows: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_motion_set(folder / "videos", replace(MotionSetConfig(), num_train_clips=32, num_untrimmed=0))
        for cache in CACHES:
            experiment = experiment_with(cache, folder / "videos", folder / "runs", device)
            train(experiment, quiet=True)
            rows[f"cache {cache}"] = {
                "clips a second": last_epochs(experiment.run_dir, "clips_per_second"),
                "share of the time waiting for data": last_epochs(experiment.run_dir, "waiting_share"),
            }
    note = (
        "A frozen ResNet-18 at 112 px with a GRU, 16 frames a clip, batches of 16, generated videos; "
        f"epochs 2 to {EPOCHS}. These videos of 96 px decode in no time, so that cached frames cannot pay here."
    )
    return Findings([Table("Training", note, rows)])
