"""Models of timelines over the folds and seeds of a dataset, judged by whole videos through the engine.

    python tools/benchmark_timelines.py --config configs/salads50.yaml --root ../data/salads50/split{split} \
        --official_splits 5 --seeds 3 --output benchmarks/salads50

Every fold trains on its training part alone, without sight of its test videos. Folds are the official splits, or with
--by_group the groups of a manifest, each left out once. Figures of feature sets are those at the grid frames, as
published ones are (``on_grid``); the rest are by time. What follows ``--`` changes the config's settings, as for
``clipgru train``: ``-- --sequence.delay_frames 5``.

Finished folds stay in the run folder and are not trained again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pipeline.checkpoint import load_model_file
from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment, InferenceConfig, TimelineConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import Splits
from pipeline.datasets.splits import leave_one_group_out
from pipeline.inference import Model
from pipeline.timeline_evaluation import TimelineEvaluation, evaluate_timelines
from pipeline.training.fit import train

_FIGURES = ("f1_10_by_video", "f1_25_by_video", "f1_50_by_video", "edit", "frame_accuracy")


def folds_of(experiment: Experiment, arguments: argparse.Namespace) -> Iterator[tuple[str, Splits]]:
    """Name and rows of each fold: what it trains on, and ``test``."""
    if not arguments.by_group:
        for number in range(1, arguments.official_splits + 1):
            found = read_annotations(replace(experiment.data, split=number))
            yield f"split{number}", Splits(found.labels, found.splits["train"], (), found.splits["test"])
        return
    found = read_annotations(experiment.data)
    rows: Sequence[VideoRow] = [row for part in found.splits.values() for row in part]
    for train_rows, test_rows in leave_one_group_out(rows):
        yield test_rows[0].group, Splits(found.labels, train_rows, (), test_rows)


def run_fold(
    experiment: Experiment, splits: Splits, name: str, arguments: argparse.Namespace
) -> dict[str, TimelineEvaluation]:
    """The fold's test videos, in the mode that the model is trained for and those asked for beside it."""
    experiment = replace(experiment, name=f"{experiment.name}_{name}_seed{experiment.seed}")
    path = experiment.run_dir / "model.safetensors"
    file = load_model_file(path) if path.exists() else train(experiment, splits, quiet=True).model
    timeline = TimelineConfig(background_label=experiment.sequence.background_label, min_seconds=arguments.min_seconds)
    modes: dict[str, InferenceConfig] = {"as trained": InferenceConfig()}
    if arguments.windows:
        modes["windows"] = InferenceConfig(mode="windows")
    return {
        mode: evaluate_timelines(Model(file), splits.test, inference=config, timeline=timeline)
        for mode, config in modes.items()
    }


def figures_of(evaluation: TimelineEvaluation) -> dict[str, float]:
    """At the grid frames, and by time."""
    summary = evaluation.summary()
    numbers = {name: float(value) for name, value in summary.items() if isinstance(value, float | int)}
    return numbers | {f"on_grid_{name}": summary["on_grid"][name] for name in _FIGURES}


def table(rows: dict[str, list[dict[str, float]]], names: Sequence[str]) -> str:
    """A row for each mode: means over folds and seeds, and their spread."""
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for mode, results in rows.items():
        cells = []
        for name in names:
            values = [100 * result[name] for result in results]
            cells.append(f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0:.1f}")
        lines.append(f"| {mode} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run all folds, print the table, and write it with every fold's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--root", help="in place of the config's data.root")
    parser.add_argument("--official_splits", type=int, default=1)
    parser.add_argument("--by_group", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--min_seconds", type=float, default=0.0, help="shorter segments go to a neighbour")
    parser.add_argument("--windows", action="store_true", help="score the same models by windows too")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--output", help="write NAME.md and NAME.json")
    parser.add_argument("settings", nargs="*", help="after --, as for clipgru train")
    arguments = parser.parse_args()
    experiment = read_experiment(Path(arguments.config), arguments.settings)
    data = replace(experiment.data, root=arguments.root or experiment.data.root)
    experiment = replace(experiment, data=data, output_dir=arguments.runs)
    rows: dict[str, list[dict[str, float]]] = {}
    kept: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for name, splits in folds_of(experiment, arguments):
            number = int(name.removeprefix("split")) if name.startswith("split") else experiment.data.split
            seeded = replace(experiment, seed=seed, data=replace(experiment.data, split=number))
            for mode, evaluation in run_fold(seeded, splits, name, arguments).items():
                figures = figures_of(evaluation)
                rows.setdefault(mode, []).append(figures)
                kept.append({"seed": seed, "fold": name, "mode": mode, **figures})
                shown = "  ".join(f"{100 * figures[f'on_grid_{key}']:.1f}" for key in _FIGURES)
                print(f"seed {seed}  {name}  {mode}  {shown}", flush=True)
    names = [f"on_grid_{key}" for key in _FIGURES]
    text = table(rows, names)
    print(text)
    if arguments.output:
        command = shlex.join(["python", "tools/benchmark_timelines.py", *sys.argv[1:]])
        Path(f"{arguments.output}.md").write_text(f"Written by\n\n    {command}\n\n{text}\n", encoding="utf-8")
        Path(f"{arguments.output}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
