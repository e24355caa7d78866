"""Train and evaluate in two processes for test_ranks.py: ``python -m tests.two_ranks CONFIG FOLDER MODE ...``.

Each process trains, evaluates a model of clips, and writes to FOLDER what it came to. A MODE is ``resume``, or what
happens to the second process when its third batch is done: ``die`` or ``stop`` (SIGTERM, heard after the fourth); or
the name of another config in FOLDER, with which nothing happens. With one MODE
Lightning starts the second process; with several each is run in two forks of this process, which is spared to import
everything anew, and the exit codes are printed, a line for each MODE.
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

from pipeline.cli.parser import read_experiment
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import make_splits
from pipeline.evaluation import evaluate_model
from pipeline.files.stopping import Interrupted
from pipeline.ranks import current_rank, join
from pipeline.training.fit import train
from pipeline.training.module import ClipClassifier
from pipeline.training.timelines import TimelineLearner
from tests.ports import free_port


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

    mode = "resume"
    digests: list[str] = []  # noqa: RUF012 (one in this process)
    rows: list[list[int]] = []  # noqa: RUF012
    num_good: list[int] = []  # noqa: RUF012

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        note_weights(self)
        self.num_good.append(len(batch.labels))  # type: ignore[attr-defined]
        self.rows.append(batch.rows.tolist() + [row for row, _ in batch.bad])  # type: ignore[attr-defined]


def run(config: Path, folder: Path, mode: str) -> int:
    """Train and evaluate as MODE says; the exit code."""
    from pipeline.training import fit

    fit.ClipClassifier = WatchedClassifier  # type: ignore[misc]
    fit.TimelineLearner = WatchedLearner  # type: ignore[misc]
    WatchedClassifier.mode = mode
    experiment = read_experiment(folder / mode if mode.endswith(".yaml") else config)
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


def run_in_forks(config: Path, folder: Path, mode: str) -> tuple[int, ...]:
    """Run two ranks, each in a fork; their exit codes."""
    port, children = free_port(), []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 1
            try:
                code = run(config, folder, mode)
            except BaseException:  # noqa: BLE001 (told; then the fork ends here)
                traceback.print_exc()
            finally:
                atexit._run_exitfuncs()  # lets go of the other, as at the end of an interpreter
                os._exit(code)
        children.append(child)
    return tuple(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def main() -> int:
    config, folder, modes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    if len(modes) == 1:
        return run(config, folder, *modes)
    for mode in modes:
        print(*run_in_forks(config, folder, mode), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
