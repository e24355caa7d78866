"""What each of two processes does for test_ranks.py: trains and evaluates, and writes down what it came to.

``rank_of`` is one of two forks that know of each other. ``python -m tests.two_ranks CONFIG FOLDER MODEL`` has Lightning
start the second process: both evaluate the model by the command, train, and then the second one dies.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.cli import main as clipgru
from pipeline.cli.parser import read_experiment
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import make_splits
from pipeline.evaluation import evaluate_model
from pipeline.files.stopping import Interrupted
from pipeline.ranks import current_rank, join
from pipeline.training.fit import train
from pipeline.training.module import ClipClassifier
from pipeline.training.timelines import TimelineLearner


def note_weights(module: WatchedClassifier | WatchedLearner) -> None:
    if current_rank() == 1 and len(WatchedClassifier.digests) == 2:
        if WatchedClassifier.mode == "die":
            os._exit(3)
        if WatchedClassifier.mode == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
    content = b"".join(parameter.detach().numpy().tobytes() for parameter in module.recognizer.parameters())
    WatchedClassifier.digests.append(hashlib.sha256(content).hexdigest())


class WatchedLearner(TimelineLearner):
    """Notes its weights after each step."""

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        note_weights(self)


class WatchedClassifier(ClipClassifier):
    """Notes its weights after each step and the videos of each batch."""

    mode = ""
    digests: list[str] = []  # noqa: RUF012 (one in this process)
    rows: list[list[int]] = []  # noqa: RUF012
    num_good: list[int] = []  # noqa: RUF012

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        note_weights(self)
        self.num_good.append(len(batch.labels))  # type: ignore[attr-defined]
        self.rows.append(batch.rows.tolist() + [row for row, _ in batch.bad])  # type: ignore[attr-defined]


def run(config: Path, folder: Path, mode: str) -> int:
    """Train, and evaluate a model of clips; the exit code.

    Args:
        config: of the training.
        folder: takes what each rank came to.
        mode: ``resume``, or what happens to the second process when its third batch is done: ``die`` or ``stop``
            (SIGTERM, heard after the fourth); or anything else, with which nothing happens.
    """
    from pipeline.training import fit

    fit.ClipClassifier = WatchedClassifier  # type: ignore[misc]
    fit.TimelineLearner = WatchedLearner  # type: ignore[misc]
    WatchedClassifier.mode = mode
    experiment = read_experiment(config)
    try:
        result = train(experiment, resume=mode == "resume", quiet=True)
    except Interrupted as interrupted:
        return 100 + interrupted.signal_number if current_rank() == 0 else 0
    ranks = join(experiment.machine)
    facts: dict[str, Any] = {
        "digests": WatchedClassifier.digests,
        "rows": WatchedClassifier.rows,
        "num_good": WatchedClassifier.num_good,
        "metrics": result.metrics,
    }
    if experiment.task == "clip":
        rows = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed).test
        evaluation = evaluate_model(result.model, rows, experiment.data, ranks=ranks)
        facts["results"] = [asdict(video) for video in evaluation.results]
    (folder / f"rank_{ranks.index}.json").write_text(json.dumps(facts))
    return 0


def rank_of(config: Path, folder: Path, mode: str) -> None:
    """One of two forks: ``run``, then the end of the process."""
    code = 1
    try:
        code = run(config, folder, mode)
    except BaseException:  # noqa: BLE001 (told; then the fork ends here)
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # lets go of the other, as at the end of an interpreter
        os._exit(code)


def evaluate_and_die() -> None:
    """By the command line, in the process that Lightning starts and in the one that has it started."""
    config, folder, model = map(Path, sys.argv[1:])
    options = ["--machine.devices", "2", "--machine.accelerator", "cpu", "--output", str(folder), "--quiet"]
    code = clipgru(["evaluate", str(model), *options])
    (folder / f"code_{current_rank()}.txt").write_text(str(code))
    run(config, folder, "die")


def launch(*arguments: str) -> None:
    """``python -m tests.two_ranks``, for a fork."""
    sys.modules["__main__"], sys.argv = sys.modules[__name__], [__file__, *arguments]
    evaluate_and_die()


if __name__ == "__main__":
    evaluate_and_die()
