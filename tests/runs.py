"""Run folders as training and evaluation leave them, made without either: quick, and of any size."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.config import ModelConfig, to_yaml
from pipeline.evaluation import Evaluation, VideoResult, write_evaluation
from tests.small import small_experiment

DIAGNOSIS = {
    "num_videos": 40,
    "num_errors": 0,
    "accuracy_by_order": {
        name: {"accuracy": share, "low": share - 0.1, "high": min(1.0, share + 0.1)}
        for name, share in {"as filmed": 0.9, "shuffled": 0.4, "reversed": 0.2}.items()
    },
    "lost_by_shuffling": 0.5,
    "accuracy_by_fraction_seen": {"0.25": 0.3, "0.5": 0.6, "1": 0.9},
    "label_changes_a_second": 1.5,
    "uses_time": True,
}


def made_results(num_videos: int, num_classes: int, path: Path, seed: int = 0) -> Evaluation:
    """Random answers, about half of them right; the last of ten videos cannot be read."""
    rng = np.random.default_rng(seed)
    labels = (*(f"class {k}" for k in range(num_classes - 1)), "</script><b>&")
    results = []
    for number in range(num_videos):
        label = labels[number % num_classes]
        row = VideoResult(str(path), label, None, (), "", f"{label}/{number:04}.mp4", 0.0, None)
        if number % 10 == 9:
            results.append(replace(row, error="open: not a video"))
            continue
        scores = rng.dirichlet(np.ones(num_classes))
        scores[number % num_classes] += rng.random()
        scores /= scores.sum()
        results.append(replace(row, predicted=labels[scores.argmax()], probabilities=tuple(scores.tolist())))
    return Evaluation(labels, tuple(results))


def make_run(
    folder: Path, evaluation: Evaluation, heads: tuple[str, ...] = ("convgru",), diagnosed: bool = True
) -> Path:
    """A trained and evaluated run of three epochs with five steps each."""
    experiment = small_experiment(Path("videos"), folder.parent)
    experiment = replace(experiment, name=folder.name, model=ModelConfig(heads=heads))
    (folder / "logs_1").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(experiment))
    with (folder / "logs_1" / "metrics.csv").open("w", newline="") as stream:
        names = ["epoch", "step", "train_loss_step", "train_loss_epoch", "val_loss", "val_accuracy", "clips_per_second"]
        log = csv.DictWriter(stream, names)
        log.writeheader()
        for epoch in range(3):
            for step in range(5 * epoch, 5 * epoch + 5):
                log.writerow({"epoch": epoch, "step": step, "train_loss_step": 3 - 0.1 * step, "clips_per_second": 40})
            log.writerow({"epoch": epoch, "step": step, "val_loss": 2 - 0.5 * epoch, "val_accuracy": 0.3 + 0.2 * epoch})
            log.writerow({"epoch": epoch, "step": step, "train_loss_epoch": 2.5 - 0.5 * epoch})
    write_evaluation(evaluation, folder / "evaluation_test", evaluation.summary())
    counts = {label: 7 + place for place, label in enumerate(evaluation.labels)}
    split = {"class_counts": counts, "num_sources": 5, "durations_seconds": [1.5, 2.0, 4.25]}
    (folder / "data.json").write_text(json.dumps({"labels": list(evaluation.labels), "splits": {"train": split}}))
    (folder / "bad_videos.csv").write_text("path,stage,cause,times\nvideos/<cut>.avi,decode,no frame at 1.2 s,3\n")
    if diagnosed:
        (folder / "diagnosis").mkdir()
        (folder / "diagnosis" / "diagnosis.json").write_text(json.dumps(DIAGNOSIS))
    return folder
