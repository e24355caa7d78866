"""What frozen features are worth for a data set, inside the training parts of a protocol's folds.

    python tools/probe.py --config configs/fights.yaml --root FIGHTS --output benchmarks

Inside the training part of each fold of a protocol, folds by group are drawn once more, and a logistic regression is
trained and tested on those. It reads what a head without weights says of the whole video: the mean of each feature.
Settings can so be chosen before the protocol is run: a choice that every part makes for itself has not seen the test
videos of its fold. Features are cached, so that only the first run takes minutes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from benchmarks.tables import Table
from benchmarks.timing import machine
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pipeline.cli import ENVIRONMENT
from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import read_features
from pipeline.datasets.features import FeatureCache, FrozenBackbone
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.grids import cache_store
from pipeline.datasets.splits import group_folds
from pipeline.datasets.videos import BadVideo
from pipeline.errors import UserError
from pipeline.files.writing import write_atomically
from pipeline.machine import keep_freed_memory
from pipeline.models.recognizer import Recognizer
from pipeline.protocols.folds import PROTOCOLS
from pipeline.transforms.augmentation import TrainTransform

ROOT = Path(__file__).resolve().parents[1]
_CHANGES = "--transform.input rgb_diff"
VARIANTS: dict[str, str] = {
    "changes": _CHANGES,
    **{f"changes times {gain}": f"{_CHANGES} --model.rgb_diff_scale {gain}" for gain in (1, 2, 4, 8)},
    "pictures": "--transform.input rgb --model.rgb_diff_scale 1",
    "pictures beside changes": f"{_CHANGES} --transform.input rgb+rgb_diff",
    **{
        f"{side} pixels": f"{_CHANGES} --transform.fit_size_px {side} --transform.input_size_px {side}"
        for side in (96, 128, 160, 224)
    },
    **{
        f"EfficientNet-Lite{size}": f"--transform.input rgb --model.backbone tf_efficientnet_lite{size}"
        for size in (1, 2)
    },
    **{f"{fps} a second": f"{_CHANGES} --sampling.sample_fps {fps}" for fps in (3, 5, 8, 15)},
}
_NUM_INNER_FOLDS = 4
_INVERSE_REGULARISATION = 0.01


def experiment_of(words: str, arguments: argparse.Namespace) -> Experiment:
    """The config with the variant's words, its backbone frozen, dense clips, a head without weights."""
    fixed = ["--data.root", arguments.root, "--sampling.mode", "dense", "--sampling.short_video", "hold_last"]
    fixed += ["--model.heads", "[mean]", "--model.feature_norm", "none", "--model.bidirectional", "false"]
    return read_experiment(arguments.config, [*fixed, *shlex.split(words)])


def summaries(experiment: Experiment, rows: Sequence[VideoRow], labels: Sequence[str]) -> NDArray[np.float32]:
    """What the head says after each video's last frame, ``[N, D']``."""
    transform = experiment.transform
    recognizer = Recognizer(
        experiment.model,
        len(labels),
        input_size_px=transform.input_size_px,
        num_pictures=transform.num_pictures,
        input_frames=transform.input_frames,
    )
    backbone = FrozenBackbone(recognizer.eval(), TrainTransform(transform, recognizer.backbone.normalization))
    settings = experiment.clips
    cache = FeatureCache(backbone, cache_store(settings.data), settings)
    found = []
    for row, copies in zip(rows, read_features(cache, rows, labels, settings, 0, lambda: None), strict=True):
        if isinstance(copies, BadVideo):
            raise UserError(f"{row.path}: {copies.cause}; a probe needs videos that can be read")
        features = copies[0].float()
        steps = features[: max(1, len(features) - transform.frames_for(0))]  # not of the last frame held
        with torch.inference_mode():
            outputs, _ = recognizer.temporal(recognizer.normalize(steps.unsqueeze(0)))
        found.append(outputs[0, -1].numpy())
    return np.stack(found)


def inside(experiment: Experiment, arguments: argparse.Namespace) -> list[float]:
    """Per cent right inside the training part of each fold."""
    annotations = read_annotations(experiment.data)
    rows = [row for part in annotations.splits.values() for row in part]
    places = {row.path: place for place, row in enumerate(rows)}
    features = summaries(experiment, rows, annotations.labels)
    labels = np.array([row.label for row in rows])
    return [
        100 * mean(_right(features, labels, places, fold.train, seed) for seed in range(arguments.seeds))
        for fold in PROTOCOLS[arguments.protocol](experiment)
    ]


def _right(
    features: NDArray[np.float32],
    labels: NDArray[np.str_],
    places: dict[Path, int],
    rows: Sequence[VideoRow],
    seed: int,
) -> float:
    right = total = 0
    for train, test in group_folds(rows, _NUM_INNER_FOLDS, seed):
        known, asked = ([places[row.path] for row in part] for part in (train, test))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=500))
        with threadpool_limits(1, "blas"):  # threads wait for each other ten times as long as they add up such vectors
            answers = probe.fit(features[known], labels[known]).predict(features[asked])
        right, total = right + int((answers == labels[asked]).sum()), total + len(asked)
    return right / total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the recipe")
    parser.add_argument("--root", required=True, help="the videos")
    parser.add_argument("--protocol", default="group_5_fold", choices=list(PROTOCOLS), help="whose training parts")
    parser.add_argument("--seeds", type=int, default=3, help="how often inner folds are drawn")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="which")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmarks", help="folder for the table")
    arguments = parser.parse_args()
    keep_freed_memory()
    rows: dict[str, dict[str, float | None]] = {}
    for name in arguments.variants:
        by_fold = inside(experiment_of(VARIANTS[name], arguments), arguments)
        rows[name] = {"right, %": mean(by_fold)}
        rows[name] |= {f"part {number}": right for number, right in enumerate(by_fold, start=1)}
        print(f"{name}: {rows[name]['right, %']:.1f}", file=sys.stderr, flush=True)
    on = machine("cpu")
    note = (
        f"A logistic regression inside the training parts of {arguments.protocol}, {arguments.seeds} times "
        f"{_NUM_INNER_FOLDS} folds by group. Part k knows nothing of the test videos of fold k, but of those of "
        "other folds: a choice is free of all test videos where every part would make it. "
        f"{on['cpu']}, torch {on['torch']}, commit {on['commit']}. Written by"
    )
    command = f"    python tools/probe.py --config configs/{arguments.config.name} --root ..."
    table = Table("Frozen features", "Right answers inside the training parts.", rows)
    changes = "\n".join(f"- {name}: `{VARIANTS[name]}`" for name in rows)
    text = "\n\n".join([f"# Probes for {arguments.config.name}", note, command, table.markdown(), changes])
    write_atomically(arguments.output / f"probes_{arguments.config.stem}.md", (text + "\n").encode())
    print(table.markdown())
    return 0


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT | os.environ)
    sys.exit(main())
