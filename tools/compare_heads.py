"""Compares sequence models as temporal heads: one budget, several seeds; motion, UT-Interaction, CIFAR-10.

    python tools/compare_heads.py --ut_interaction .../ut_interaction/set1 --cifar10 .../cifar10_jpeg.zip

Writes ``compare_heads.json``, ``.md`` and plots. Every run that is finished is kept in the JSON file, so that the same
command goes on where it was stopped. On motion and UT-Interaction the backbone is frozen and its features are cached;
CIFAR-10 is read by rows without a CNN. Each seed draws its own split of UT-Interaction by sequences.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.claims import claim_tables, over_length
from benchmarks.tables import Table
from benchmarks.timing import interleaved, machine

from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import Splits, make_splits
from pipeline.evaluation import evaluate_model
from pipeline.files.writing import write_atomically
from pipeline.models.recognizer import Recognizer
from pipeline.training.fit import train

ROOT = Path(__file__).resolve().parents[1]
# Name in the tables -> model.heads. The two min heads need a second layer to let the past decide what is kept.
HEADS: dict[str, tuple[str, ...]] = {
    "mean": ("mean",),
    "rnn": ("rnn",),
    "lstm": ("lstm",),
    "gru": ("gru",),
    "mingru twice": ("mingru", "mingru"),
    "convlstm": ("convlstm",),
    "convgru": ("convgru",),
    "convmingru twice": ("convmingru", "convmingru"),
    "change, gru": ("change", "gru"),
    "gru, lstm": ("gru", "lstm"),
    "convgru, gru": ("convgru", "gru"),
}
# 97.5 % quantiles of Student's t with so many degrees of freedom.
_T_QUANTILES = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_HIDDEN_CHANNELS = 64
_CIFAR10_LIMIT, _CIFAR10_EPOCHS = 5000, 8  # a tenth of the training pictures, so that all heads take an hour or so


@dataclass(frozen=True)
class Task:
    """What the heads are compared on."""

    experiment: Experiment
    limit: int | None
    """Training clips at most."""


def tasks(arguments: argparse.Namespace) -> dict[str, Task]:
    """Those whose data is at hand, as their configs say but for what makes many runs affordable."""
    configs, found = ROOT / "configs", {}
    motion = _frozen(read_experiment(configs / "motion.yaml"), arguments.motion)
    found["motion"] = Task(motion, arguments.limit)
    if arguments.ut_interaction:
        ut = _frozen(read_experiment(configs / "ut_interaction.yaml"), arguments.ut_interaction)
        ut = replace(ut, data=replace(ut.data, batch_size=6, test_fraction=0.3))
        found["UT-Interaction"] = Task(ut, arguments.limit)
    if arguments.cifar10:
        rows = read_experiment(configs / "cifar10_rows_gru.yaml")
        rows = replace(rows, data=replace(rows.data, root=arguments.cifar10, batch_size=64))
        rows = replace(rows, training=replace(rows.training, epochs=_CIFAR10_EPOCHS))
        found["CIFAR-10 rows"] = Task(rows, min(arguments.limit or _CIFAR10_LIMIT, _CIFAR10_LIMIT))
    return found


def _frozen(experiment: Experiment, root: str) -> Experiment:
    return replace(
        experiment,
        data=replace(experiment.data, root=root, cache="features"),
        transform=replace(experiment.transform, input="rgb"),
        training=replace(experiment.training, backbone_lr_scale=0.0, precision="fp32"),
    )


def variant(task: Task, heads: Sequence[str], seed: int, epochs: int | None) -> Experiment:
    """One run's settings: all heads one way, of one width, with one optimiser, for the same epochs."""
    experiment = task.experiment
    model = replace(
        experiment.model, heads=tuple(heads), hidden_channels=_HIDDEN_CHANNELS, bidirectional=False, readout="mean"
    )
    training = replace(experiment.training, epochs=epochs or experiment.training.epochs)
    return replace(experiment, seed=seed, model=model, training=training)


def split(task: Task, seed: int) -> Splits:
    """The rows of a seed; the last epoch is kept, so nothing is chosen on the test rows."""
    data = replace(task.experiment.data, val_fraction=0.0)
    splits = make_splits(read_annotations(data), data, seed)
    if task.limit is None or task.limit >= len(splits.train):
        return replace(splits, val=())
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(seed))
    return replace(splits, train=tuple(splits.train[place] for place in order[: task.limit].tolist()), val=())


def run(experiment: Experiment, splits: Splits) -> dict[str, float]:
    """Trains, and measures once on the test rows."""
    with TemporaryDirectory() as folder:
        result = train(replace(experiment, output_dir=folder), splits, quiet=True)
        evaluation = evaluate_model(result.model, splits.test, experiment.data)
    parameters = result.model.recognizer.temporal.parameters()
    return {"top1": evaluation.top1, "parameters": sum(parameter.numel() for parameter in parameters)}


def run_all(
    found: Mapping[str, Task], names: Sequence[str], seeds: int, epochs: int | None, record: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Task -> ``head/seed`` -> figures. Read from the record where they are there, and added to it as they come."""
    results: dict[str, Any] = json.loads(record.read_text())["runs"] if record.exists() else {}
    for task_name, task in found.items():
        done = results.setdefault(task_name, {})
        for seed in range(seeds):
            left = [name for name in names if f"{name}/{seed}" not in done]
            splits = split(task, seed) if left else None
            for name in left:
                assert splits is not None
                done[f"{name}/{seed}"] = run(variant(task, HEADS[name], seed, epochs), splits)
                print(f"{task_name}, {name}, seed {seed}: {done[f'{name}/{seed}']['top1']:.3f}", file=sys.stderr)
                _write(record, {"runs": results})
    return results


def _write(record: Path, content: dict[str, Any]) -> None:
    write_atomically(record, (json.dumps(content, indent=1) + "\n").encode())


def interval(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean over seeds, by Student's t."""
    if len(values) < 2:
        return float("nan")
    quantile = _T_QUANTILES[min(len(values) - 1, max(_T_QUANTILES))]
    return quantile * stdev(values) / math.sqrt(len(values))


def _training_step(recognizer: Recognizer, features: torch.Tensor) -> Callable[[], object]:
    learning = [parameter for parameter in recognizer.parameters() if parameter.requires_grad]

    def step() -> None:
        torch.autograd.grad(recognizer.classify(features).sum(), learning, allow_unused=True)

    return step


def _streaming_step(recognizer: Recognizer, features: torch.Tensor) -> Callable[[], object]:
    state: list[Any] = [None]

    @torch.inference_mode()
    def step() -> None:
        _, state[0] = recognizer.score(features, state[0])

    return step


def step_times(task: Task, names: Sequence[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of a training step on a batch's features, and of one frame of a stream, of everything behind the
    backbone; all heads in turn."""
    training: dict[str, Callable[[], object]] = {}
    streaming: dict[str, Callable[[], object]] = {}
    experiment = task.experiment
    size, num_frames = experiment.transform.input_size_px, experiment.sampling.num_frames
    for name in names:
        model = replace(variant(task, HEADS[name], 0, None).model, weights="none")
        recognizer = Recognizer(model, 10, input_size_px=size)
        recognizer.backbone.freeze()
        with torch.no_grad():
            frame = recognizer.eval().embed(torch.zeros(1, 3, size, size))
        batch = torch.randn(experiment.data.batch_size, num_frames, *frame.shape[1:])
        training[name] = _training_step(recognizer.train(), batch)
        streaming[name] = _streaming_step(
            Recognizer(model, 10, input_size_px=size).eval(), torch.randn(1, 1, *frame.shape[1:])
        )
    times = [interleaved(steps, rounds, "cpu") for steps in (training, streaming)]
    return {name: (times[0].milliseconds(name), times[1].milliseconds(name)) for name in names}


def result_table(
    task_name: str, task: Task, runs: Mapping[str, Mapping[str, float]], names: Sequence[str], rounds: int
) -> Table:
    """A row a head."""
    times = step_times(task, names, rounds)
    rows: dict[str, dict[str, float | None]] = {}
    for name in names:
        of_head = [figures for key, figures in runs.items() if key.rpartition("/")[0] == name]
        accuracies = [100 * figures["top1"] for figures in of_head]
        rows[name] = {
            "accuracy, %": mean(accuracies),
            "± (95 %, over seeds)": interval(accuracies),
            "seeds": len(accuracies),
            "parameters of the heads": of_head[0]["parameters"],
            "training step, ms": times[name][0],
            "one frame of a stream, ms": times[name][1],
        }
    return Table(task_name, _budget(task), rows)


def _budget(task: Task) -> str:
    data, sampling = task.experiment.data, task.experiment.sampling
    few = f", at most {task.limit} training clips" if task.limit else ""
    return (
        f"{_HIDDEN_CHANNELS} channels, batches of {data.batch_size} clips of {sampling.num_frames} frames{few}. "
        "Steps are those of everything behind the backbone."
    )


def draw(tables: Sequence[Table], path: Path) -> None:
    """Accuracy with its interval for each head, a panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(tables), figsize=(4 * len(tables), 4), layout="constrained", squeeze=False)
    for axes, table in zip(panels[0], tables, strict=True):
        names = list(table.rows)
        accuracies = [table.rows[name]["accuracy, %"] or 0.0 for name in names]
        spreads = [table.rows[name]["± (95 %, over seeds)"] or 0.0 for name in names]
        axes.barh(names, accuracies, xerr=spreads, color="tab:blue", ecolor="black", capsize=2)
        axes.set(title=table.title, xlabel="accuracy, %")
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--motion", default=str(ROOT / "runs" / "motion_set"), help="the motion set; made if not there")
    parser.add_argument("--ut_interaction", help="UT-Interaction's set1; left out without it")
    parser.add_argument("--cifar10", help="CIFAR-10 as a folder or zip of pictures; left out without it")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS), help="which to compare")
    parser.add_argument("--tasks", nargs="+", help="some of: motion, UT-Interaction, 'CIFAR-10 rows'")
    parser.add_argument("--seeds", type=int, default=3, help="how often each is trained")
    parser.add_argument("--epochs", type=int, help="of each run; as the configs say without it")
    parser.add_argument("--limit", type=int, help="training clips at most")
    parser.add_argument("--rounds", type=int, default=9, help="how often each step is timed")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmarks", help="folder for the results")
    arguments = parser.parse_args()
    found = {name: task for name, task in tasks(arguments).items() if name in (arguments.tasks or [name])}
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = arguments.output / "compare_heads.json"
    runs = run_all(found, arguments.heads, arguments.seeds, arguments.epochs, record)
    tables = [result_table(name, task, runs[name], arguments.heads, arguments.rounds) for name, task in found.items()]
    claims = claim_tables(arguments.rounds)
    on = machine("cpu")
    budget = f"epochs {arguments.epochs or 'as in the configs'}, seeds {arguments.seeds}"
    command = f"    python tools/compare_heads.py {' '.join(sys.argv[1:])}"
    where = f"{on['cpu']}, {on['threads']} threads, torch {on['torch']}, commit {on['commit']}"
    head = f"{budget}; {where}. Written by\n\n{command}"
    text = "\n\n".join(["# Temporal heads compared", head, *(table.markdown() for table in (*tables, *claims))])
    write_atomically(arguments.output / "compare_heads.md", (text + "\n").encode())
    as_json = [{"title": table.title, "rows": table.rows} for table in (*tables, *claims)]
    _write(record, {"machine": on, "budget": budget, "tables": as_json, "runs": runs})
    draw(tables, arguments.output / "compare_heads.png")
    over_length(claims[-1]).draw(arguments.output)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
