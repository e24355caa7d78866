"""How far a model's scores can be trusted, and whether it notices classes it has never seen, on the motion set.

    python tools/benchmark_calibration.py --folder runs/calibration --output benchmarks

Models are trained as in the demo, each without one pair of classes, which are then unknown to it. On the pairs of
``CHOICE`` the measures of the unknown are compared; on those of ``REPORT``, which had no part in that, the one that
ships is reported. Temperature and threshold come from validation clips of known classes, every figure from test clips.
Trained models stay in the folder and are used again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.calibration import MEASURES, UNCALIBRATED, fit_temperature, reliability, threshold_of
from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_feature_loader, read_features
from pipeline.datasets.features import FeatureCache, FrozenBackbone
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.grids import cache_store
from pipeline.datasets.motion import PARTNER
from pipeline.datasets.settled import Splits, make_splits
from pipeline.datasets.videos import ClipBatch, fixed_clips
from pipeline.demo import motion_experiment
from pipeline.training.fit import train
from pipeline.transforms.augmentation import TrainTransform

ROOT = Path(__file__).resolve().parents[1]
CHOICE = ("moves_right", "grows")
REPORT = ("turns_clockwise", "moves_down")
PAGE_HEAD = """# Calibration and classes never seen

Written by

    python tools/benchmark_calibration.py --folder runs/calibration --output benchmarks

The motion set as `make demo` makes it; four models trained as there (CNN + ConvGRU), each without one pair of classes.
Temperature and threshold come from validation clips of known classes, the figures from test clips of them and the
clips of the pair left out. The threshold keeps 90 % of the validation clips. `max_probability`, after the temperature,
is what ships."""
SHIPPED = UNCALIBRATED.unknown_measure
_NEIGHBOURS = 5


@dataclass(frozen=True)
class Seen:
    """Some clips as a model sees them: logits ``[N, K]``, what the classifier reads ``[N, D]``, classes ``[N]``."""

    logits: Tensor
    features: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Trial:
    """One model, what it was trained on, known clips, and clips of the pair that it has not seen."""

    name: str
    train: Seen
    val: Seen
    test: Seen
    unknown: Seen


def _class_means(train: Seen) -> Tensor:
    return torch.stack([train.features[train.truth == label].mean(0) for label in range(int(train.truth.max()) + 1)])


# Distances that need the training features: compared, but a model file does not hold those.
DISTANCES: dict[str, Callable[[Seen, Seen], Tensor]] = {
    "distance to the nearest class mean": lambda train, seen: (
        -torch.cdist(seen.features, _class_means(train)).amin(dim=1)
    ),
    "distance to the 5th nearest neighbour (Sun et al., 2022)": lambda train, seen: (
        -torch.cdist(normalize(seen.features), normalize(train.features)).topk(_NEIGHBOURS, largest=False).values[:, -1]
    ),
}


def measured(name: str, trial: Trial, seen: Seen) -> Tensor:
    """How known each clip looks, ``[N]``."""
    if name in DISTANCES:
        return DISTANCES[name](trial.train, seen)
    return MEASURES[name](seen.logits, fit_temperature(trial.val.logits, trial.val.truth))


def unknown_figures(name: str, trial: Trial) -> dict[str, float]:
    """Kept known and rejected unknown clips at the threshold of the validation clips, and the area under the curve."""
    val, test, unknown = (measured(name, trial, seen) for seen in (trial.val, trial.test, trial.unknown))
    threshold = threshold_of(val)
    assert threshold is not None
    return {
        "known_kept": float((test >= threshold).float().mean()),
        "unknown_rejected": float((unknown < threshold).float().mean()),
        "auroc": float((test[:, None] > unknown[None]).float().mean()),
    }


def calibration_figures(trial: Trial) -> dict[str, float]:
    """Expected calibration error on the test clips, before and after."""
    temperature, truth = fit_temperature(trial.val.logits, trial.val.truth), trial.test.truth
    return {
        "accuracy": float((trial.test.logits.argmax(dim=1) == truth).float().mean()),
        "temperature": temperature,
        "ece_before": reliability(trial.test.logits.softmax(dim=1), truth).expected_error,
        "ece_after": reliability((trial.test.logits / temperature).softmax(dim=1), truth).expected_error,
    }


def run_trial(experiment: Experiment, splits: Splits, left_out: str) -> Trial:
    """Trains without a pair of classes, or finds the model that was."""
    pair = (left_out, PARTNER[left_out])
    parts = {
        name: tuple(row for row in getattr(splits, name) if row.label not in pair) for name in ("train", "val", "test")
    }
    labels = tuple(label for label in splits.labels if label not in pair)
    experiment = replace(experiment, name=f"without_{left_out}")
    path = experiment.run_dir / "model.safetensors"
    model = load_model_file(path) if path.exists() else train(experiment, Splits(labels, **parts)).model
    parts["unknown"] = tuple(replace(row, label=labels[0]) for row in (*splits.val, *splits.test) if row.label in pair)
    return Trial(left_out, **{name: _seen(experiment, model, rows) for name, rows in parts.items()})


@torch.inference_mode()
def _seen(experiment: Experiment, model: ModelFile, rows: tuple[VideoRow, ...]) -> Seen:
    recognizer = model.recognizer
    backbone = FrozenBackbone(recognizer, TrainTransform(model.transform, model.normalization))
    settings = experiment.clips
    cache = FeatureCache(backbone, cache_store(settings.data), settings)
    features = read_features(cache, rows, model.labels, settings, 0, lambda: None)
    found = []
    for batch in make_feature_loader(rows, model.labels, settings, fixed_clips, features):
        assert isinstance(batch, ClipBatch)
        outputs, _ = recognizer.temporal.recur(recognizer.project(batch.frames))
        last = outputs.mean(dim=(3, 4))[:, -1]  # [B, T, C, h, w] -> [B, C]
        found.append((recognizer.classifier(last), last, batch.labels))
    return Seen(*(torch.cat(part) for part in zip(*found, strict=True)))


def table(rows: list[dict[str, object]]) -> str:
    """Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures_of(trials: dict[str, Trial]) -> dict[str, list[dict[str, object]]]:
    """The three tables."""

    def mean_over(name: str, pairs: tuple[str, ...]) -> dict[str, object]:
        each = [unknown_figures(name, trials[pair]) for pair in pairs]
        return {key: sum(figures[key] for figures in each) / len(each) for key in each[0]}

    reported: list[dict[str, object]] = [
        {"unknown pair": PARTNER[pair] + ", " + pair, **unknown_figures(SHIPPED, trials[pair])} for pair in REPORT
    ]
    reported.append({"unknown pair": "mean", **mean_over(SHIPPED, REPORT)})
    return {
        "choice": [{"measure": name, **mean_over(name, CHOICE)} for name in (*MEASURES, *DISTANCES)],
        "report": reported,
        "calibration": [{"model without": name, **calibration_figures(trial)} for name, trial in trials.items()],
    }


def page(figures: dict[str, list[dict[str, object]]]) -> str:
    """The record in Markdown."""
    parts = [PAGE_HEAD]
    for key, title in (
        ("calibration", "Expected calibration error (15 bins)"),
        ("choice", f"Measures of the unknown, mean over the models without {' and '.join(CHOICE)}"),
        ("report", "What ships, on the pairs that had no part in that choice"),
    ):
        parts += [f"## {title}", table(figures[key])]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "calibration", help="videos, cache and models")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="folder for the results")
    args = parser.parse_args()
    experiment = motion_experiment()
    data = replace(experiment.data, root=str(args.folder / "motion_set"), cache_dir=str(args.folder / "cache"))
    experiment = replace(experiment, output_dir=str(args.folder), data=data)
    splits = make_splits(read_annotations(data), data, experiment.seed)
    figures = figures_of({pair: run_trial(experiment, splits, pair) for pair in (*CHOICE, *REPORT)})
    (args.output / "calibration.json").write_text(json.dumps(figures, indent=1) + "\n")
    (args.output / "calibration.md").write_text(page(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
