"""What each part of a recipe is worth: a config, and the same with one part changed, over folds and seeds.

    python tools/ablate.py --config configs/fights.yaml --root FIGHTS --output benchmarks

A variant is what one would add to ``clipgru evaluate --protocol``; one that changes nothing about the recipe is left
out. Folds that are finished are kept in ``--runs``, so that the same command goes on where it was stopped; tables are
written after every variant.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks.tables import Table
from benchmarks.timing import machine
from compare_heads import interval

from pipeline.cli import ENVIRONMENT
from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment
from pipeline.errors import UserError
from pipeline.files.writing import write_atomically
from pipeline.machine import keep_freed_memory
from pipeline.protocols.clips import EvaluationSettings, FoldResult, ProtocolResult, run_protocol
from pipeline.protocols.folds import PROTOCOLS
from pipeline.protocols.running import MODEL

ROOT = Path(__file__).resolve().parents[1]
WHOLE = "the recipe"
_ONE_WAY, _BOTH_WAYS = "--model.bidirectional false", "--model.bidirectional true --model.readout mean"
_LEARNED = (  # how heads with weights are trained: a recipe may be made for one without
    "--training.optimizer adamw --training.learning_rate 0.001 --training.weight_decay 0.05 --model.dropout 0.4 "
    "--model.classifier_batch_norm false"
)
VARIANTS: dict[str, str] = {
    WHOLE: "",
    "pictures instead of changes": "--transform.input rgb --model.rgb_diff_scale 1",
    "pictures beside their changes": "--transform.input rgb+rgb_diff",
    "changes as they are": "--model.rgb_diff_scale 1",
    "changes four times as large": "--model.rgb_diff_scale 4",
    "features as they are": "--model.feature_norm none",
    "outputs not normalised": "--model.classifier_batch_norm false",
    "frame average": f"--model.heads [mean] {_ONE_WAY}",
    "GRU": f"--model.heads [gru] {_ONE_WAY} --model.readout mean {_LEARNED}",
    "GRU both ways": f"--model.heads [gru] {_BOTH_WAYS} {_LEARNED}",
    "LSTM both ways": f"--model.heads [lstm] {_BOTH_WAYS} {_LEARNED}",
    "two GRUs both ways": f"--model.heads [gru,gru] {_BOTH_WAYS} {_LEARNED}",
    "ConvGRU on maps": f"--model.heads [convgru] --model.hidden_channels 64 --model.readout mean {_LEARNED}",
    "GRU of vectors and their changes": f"--model.heads [change,gru] {_BOTH_WAYS} {_LEARNED}",
    "frozen backbone": "--training.backbone_lr_scale 0",
    "later stages learn": ("--data.cache frames --training.backbone_lr_scale 0.3 --training.num_frozen_stages 5"),
    "whole backbone learns": ("--data.cache frames --training.backbone_lr_scale 0.3 --training.num_frozen_stages 0"),
    "batch-norm statistics learn": "--training.freeze_batch_norm false",
    "other videos first": "--training.initial_model {first}",
    "four augmented copies of the features": "--data.feature_copies 4",
    "no crops, no mirror images, no colours": (
        "--transform.min_crop_area 1 --transform.horizontal_flip 0 --transform.brightness 0 "
        "--transform.contrast 0 --transform.saturation 0"
    ),
    "stronger crops": "--transform.min_crop_area 0.3",
    "mixup": "--training.mixup_alpha 0.2",
    "cutmix": "--training.cutmix_alpha 1",
    "label smoothing": "--training.label_smoothing 0.1",
    "averaged weights": "--training.ema_decay 0.98",
}


def variant(words: str, arguments: argparse.Namespace) -> Experiment:
    """The config with the common budget, then the variant's words."""
    budget = ["--data.root", arguments.root, "--data.cache", "frames", *shlex.split(arguments.budget)]
    return read_experiment(arguments.config, [*budget, *shlex.split(words.format(first=arguments.first or "null"))])


def changing(names: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """Those of the variants that change something and agree with the recipe's other settings."""
    recipe, found = variant(VARIANTS[WHOLE], arguments), []
    for name in names:
        with suppress(UserError):
            found += [name] if variant(VARIANTS[name], arguments) != recipe else []
    return found


def run_variant(name: str, arguments: argparse.Namespace) -> list[FoldResult]:
    """Every fold with every seed."""
    experiment = variant(VARIANTS[name], arguments)
    folder = arguments.runs / arguments.name
    experiment = replace(experiment, name=name.replace(" ", "_").replace(",", ""), output_dir=str(folder))
    asked = EvaluationSettings(arguments.clips, arguments.mirror)
    results = []
    for fold in run_protocol(experiment, arguments.protocol, num_seeds=arguments.seeds, evaluation=asked, quiet=True):
        results.append(fold)
        print(f"{name}: seed {fold.seed}, fold {fold.fold}: {fold.evaluation.top1:.3f}", file=sys.stderr, flush=True)
    return results


def row_of(results: list[FoldResult], whole: list[FoldResult]) -> dict[str, float | None]:
    """Accuracy over all answers; its spread over seeds; the difference from the recipe, seed by seed."""
    of_seeds, of_whole = by_seed(results), by_seed(whole)
    gains = [of_seeds[seed] - of_whole[seed] for seed in of_seeds if seed in of_whole]
    accuracies = list(of_seeds.values())
    spreads = {"± (95 %, over seeds)": accuracies, "± of the difference": gains}
    known = {name: interval(values) if len(values) > 1 else None for name, values in spreads.items()}
    return {
        "right, %": mean(accuracies),
        "± (95 %, over seeds)": known["± (95 %, over seeds)"],
        "difference from the recipe": mean(gains),
        "± of the difference": known["± of the difference"],
    }


def by_seed(results: list[FoldResult]) -> dict[int, float]:
    """Per cent right over all folds of each seed."""
    seeds = sorted({fold.seed for fold in results})
    folds = {seed: tuple(fold for fold in results if fold.seed == seed) for seed in seeds}
    return {seed: 100 * ProtocolResult(folds[seed]).whole(MODEL).top1 for seed in seeds}


def write(rows: dict[str, dict[str, float | None]], arguments: argparse.Namespace) -> Table:
    """``ablation_<name>.md`` and ``.json``."""
    on = machine("cpu")
    command = (
        f"python tools/ablate.py --config configs/{arguments.config.name} --root ... --protocol {arguments.protocol}"
    )
    command += f" --seeds {arguments.seeds} --clips {arguments.clips} --budget '{arguments.budget}'"
    command += " --mirror" if arguments.mirror else ""
    command += f" --name {arguments.name}" if arguments.name != arguments.config.stem else ""
    command += " --first MODEL" if arguments.first else ""
    names = " ".join(shlex.quote(name) for name in rows)
    command += f" --variants {names}" if list(rows) != [WHOLE, *changing(list(VARIANTS), arguments)] else ""
    where = f"{on['cpu']}, {on['threads']} threads, torch {on['torch']}, commit {on['commit']}"
    note = f"{arguments.seeds} seeds, {arguments.protocol}; every answer of every fold counts once. {where}. Written by"
    changes = "\n".join(
        f"- {name}: `{words.format(first='MODEL')}`" for name, words in VARIANTS.items() if words and name in rows
    )
    table = Table("One part changed at a time", "The difference is taken seed by seed, on the same folds.", rows)
    title = f"# What the parts of {arguments.config.name} are worth"
    title += f": {arguments.name}" if arguments.name != arguments.config.stem else ""
    text = "\n\n".join([title, note, f"    {command}", table.markdown(), changes])
    stem = arguments.output / f"ablation_{arguments.name}"
    write_atomically(stem.with_suffix(".md"), (text + "\n").encode())
    record = {"machine": on, "command": command, "variants": VARIANTS, "rows": rows}
    write_atomically(stem.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the recipe")
    parser.add_argument("--root", required=True, help="the videos")
    parser.add_argument("--protocol", default="group_5_fold", choices=list(PROTOCOLS), help="which folds")
    parser.add_argument("--seeds", type=int, default=3, help="how often each fold is trained")
    parser.add_argument("--clips", type=int, default=1, help="clips of a test video")
    parser.add_argument("--mirror", action="store_true", help="and their mirror images")
    parser.add_argument("--budget", default="", help="options for all variants, such as '--training.epochs 6'")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="which")
    parser.add_argument("--first", help="a model that was trained on other videos, for the variant that starts from it")
    parser.add_argument("--name", help="of the table; that of the config without it")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ablation", help="folder of the trained folds")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmarks", help="folder for the table")
    arguments = parser.parse_args()
    arguments.name = arguments.name or arguments.config.stem
    keep_freed_memory()
    whole = run_variant(WHOLE, arguments)
    rows = {WHOLE: row_of(whole, whole)}
    table = write(rows, arguments)
    for name in changing(arguments.variants, arguments):
        rows[name] = row_of(run_variant(name, arguments), whole)
        table = write(rows, arguments)
    print(table.markdown())
    return 0


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT | os.environ)
    sys.exit(main())
