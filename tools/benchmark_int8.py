"""What 8 bits cost in accuracy over a whole protocol: each fold's model against itself in 8 bits, on that fold's test
videos, calibrated on that fold's training videos.

    clipgru evaluate --protocol leave_one_group_out --config configs/ut_interaction.yaml --data.root SET1 --name ut
    python tools/benchmark_int8.py runs/ut --output benchmarks

reads the models that the first command left in the run's folder, and writes ``int8.md`` and ``int8.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.tables import Table
from benchmarks.timing import machine
from rich.progress import track

from pipeline.checkpoint import load_model_file
from pipeline.cli import ENVIRONMENT
from pipeline.confidence import wilson_interval
from pipeline.config import Experiment
from pipeline.evaluation import Evaluation
from pipeline.export.assembly import assemble
from pipeline.export.cost import Cost, measure_cost
from pipeline.export.int8 import calibration_clips, quantize
from pipeline.export.pieces import make_pieces
from pipeline.protocols.folds import PROTOCOLS, Fold
from pipeline.protocols.running import MODEL
from pipeline.schema import read_checked, read_json

_NUM_CALIBRATION_CLIPS = 32


def costs_of(run: Path) -> list[Cost]:
    """A fold each, of the first seed."""
    path = run / "protocol.json"
    settings = read_json(path.read_text(), str(path))
    experiment = read_checked(Experiment, settings["experiment"], str(path))
    folds = PROTOCOLS[settings["protocol"]](experiment)
    folder = run / MODEL / f"seed_{experiment.seed}"
    models = [folder / f"fold_{number:02d}" / "model.safetensors" for number in range(1, len(folds) + 1)]
    absent = [str(path) for path in models if not path.exists()]
    if absent:
        raise SystemExit(f"not all folds are trained, the first without a model: {absent[0]}")
    pairs = track(list(zip(models, folds, strict=True)), "folds", disable=not sys.stderr.isatty())
    return [cost_of(path, fold, experiment) for path, fold in pairs]


def cost_of(path: Path, fold: Fold, experiment: Experiment) -> Cost:
    """One fold's model in both precisions."""
    file = load_model_file(path)
    pieces = make_pieces(file)
    clips = calibration_clips(file, fold.train, experiment.data, _NUM_CALIBRATION_CLIPS)
    small = quantize(file, pieces, clips)
    plain, int8 = (assemble(file, some)["clip"] for some in (pieces, small))
    return measure_cost(file, plain, int8, fold.test, experiment.data, lambda count: None)


def joined(costs: list[Cost]) -> Cost:
    """All folds as one."""

    def together(parts: list[Evaluation]) -> Evaluation:
        return Evaluation(parts[0].labels, tuple(result for part in parts for result in part.results))

    return Cost(together([cost.plain for cost in costs]), together([cost.int8 for cost in costs]))


def table_of(costs: list[Cost]) -> Table:
    """A row a fold, and all of them."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, cost in [*((f"fold {number}", cost) for number, cost in enumerate(costs, 1)), ("all", joined(costs))]:
        summary = cost.summary()
        rows[name] = {
            "videos": summary["num_videos"],
            "float32, % right": 100 * summary["top1"],
            "8 bits, % right": 100 * summary["top1_int8"],
            "same answer, %": 100 * summary["same_answer"],
            "greatest difference of a score": summary["greatest_score_difference"],
        }
    return Table("Float32 and 8 bits", _note(joined(costs)), rows)


def _note(cost: Cost) -> str:
    parts = []
    for name, evaluation in (("float32", cost.plain), ("8 bits", cost.int8)):
        right = round(evaluation.top1 * evaluation.num_videos)
        low, high = wilson_interval(right, evaluation.num_videos)
        parts.append(f"{name}: {right} of {evaluation.num_videos} (95 % interval {100 * low:.1f} to {100 * high:.1f})")
    return "ONNX Runtime, one clip a video. " + "; ".join(parts) + "."


def write(costs: list[Cost], folder: Path) -> None:
    """``int8.md`` and ``int8.json``."""
    table, on = table_of(costs), machine("cpu")
    head = (
        f"Each fold's model, and the same in 8 bits calibrated on {_NUM_CALIBRATION_CLIPS} clips of that fold's "
        f"training videos. {on['cpu']}, torch {on['torch']}, commit {on['commit']}. Written by"
    )
    text = f"# What 8 bits cost\n\n{head}\n\n    python tools/benchmark_int8.py runs/ut --output benchmarks\n\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "int8.md").write_text(text + table.markdown() + "\n")
    record: dict[str, Any] = {"machine": on, "rows": table.rows}
    (folder / "int8.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run", type=Path, help="folder of a protocol's run")
    parser.add_argument("--output", type=Path, help="folder for int8.md and int8.json; unset: print alone")
    args = parser.parse_args()
    costs = costs_of(args.run)
    print(table_of(costs).markdown())
    if args.output:
        write(costs, args.output)
    return 0


if __name__ == "__main__":
    import os

    os.environ.update(ENVIRONMENT | os.environ)
    sys.exit(main())
