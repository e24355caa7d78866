"""Run folders as training and evaluation leave them, made without either: quick, and of any size."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.clip import Segment
from pipeline.config import ModelConfig, to_yaml
from pipeline.evaluation import Evaluation, VideoResult, write_evaluation
from pipeline.timeline_results import ScoreCurves, TimelineEvaluation, TimelineResult, write_timelines
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


def made_timelines(
    num_videos: int, path: Path, *, num_labels: int = 4, seconds: float = 40.0, several: bool = False, seed: int = 0
) -> TimelineEvaluation:
    """Random stretches of some seconds, and answers that are off by a little, or of another label; the second video
    has a stretch that nobody has looked at, the last one cannot be read."""
    rng = np.random.default_rng(seed)
    labels = (*(f"action {k}" for k in range(num_labels - 1)), "</script><b>&")
    results = []
    for number in range(num_videos):
        truth, found, place = [], [], float(rng.uniform(0, 3))
        while place < seconds - 6:
            start, end, label = place, place + float(rng.uniform(2, 5)), str(rng.choice(labels))
            truth.append(Segment(start, end, label))
            if rng.random() < 0.8:
                answer = label if rng.random() < 0.7 else str(rng.choice(labels))
                found.append(Segment(start + float(rng.uniform(0, 1)), end, answer, float(rng.uniform(0.4, 1))))
            place = end + float(rng.uniform(-1 if several else 0, 3))
        if number == 1:
            truth.append(Segment(seconds - 3, seconds, "unlabelled"))
        times = tuple(np.arange(0.25, seconds, 0.5).tolist())
        curves = ScoreCurves(times, {label: tuple(rng.random(len(times)).round(2).tolist()) for label in labels})
        found = found if number < num_videos - 1 else []
        error = "" if number < num_videos - 1 else "open: no such file"
        name = f"videos/{number:02}.mp4"
        results.append(
            TimelineResult(
                name, str(path), seconds, int(2 * seconds), tuple(truth), tuple(found), (), curves, error=error
            )
        )
    at_once = "several" if several else "one"
    named = labels if several else (*labels, "background")
    return TimelineEvaluation(named, 2.0, tuple(results), at_once, frame_map_by_score=0.5)


def make_timeline_run(folder: Path, evaluation: TimelineEvaluation) -> Path:
    """A run of a model of timelines, evaluated."""
    (folder / "logs_1").mkdir(parents=True)
    rows = [f"{epoch},{epoch},{2.5 - 0.5 * epoch},{0.3 + 0.1 * epoch},{0.2 + 0.1 * epoch}" for epoch in range(3)]
    heading = "epoch,step,train_loss_epoch,val_accuracy,val_f1_25"
    (folder / "logs_1" / "metrics.csv").write_text("\n".join([heading, *rows]) + "\n")
    write_timelines(evaluation, folder / "evaluation_test", evaluation.summary())
    return folder
