"""What each of two processes does for test_ranks.py: ``python -m tests.two_ranks CONFIG FOLDER MODE``.

Trains, evaluates, and writes to FOLDER what this one came to. MODE is ``resume``, or what happens to the second process
when its third batch is done: ``die`` or ``stop`` (SIGTERM, heard after the fourth).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.parser import read_experiment
from pipeline.datasets.settled import make_splits, read_annotations
from pipeline.evaluation import evaluate_model
from pipeline.files.stopping import Interrupted
from pipeline.ranks import current_rank, join
from pipeline.training.fit import train
from pipeline.training.module import ClipClassifier


class WatchedClassifier(ClipClassifier):
    """Notes its weights after each step and the videos of each batch."""

    digests: list[str] = []  # noqa: RUF012 (one in this process)
    rows: list[list[int]] = []  # noqa: RUF012
    num_good: list[int] = []  # noqa: RUF012

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if current_rank() == 1 and len(self.rows) == 2:
            if sys.argv[3] == "die":
                os._exit(3)
            if sys.argv[3] == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
        content = b"".join(parameter.detach().numpy().tobytes() for parameter in self.recognizer.parameters())
        self.digests.append(hashlib.sha256(content).hexdigest())
        self.num_good.append(len(batch.labels))  # type: ignore[attr-defined]
        self.rows.append(batch.rows.tolist() + [row for row, _ in batch.bad])  # type: ignore[attr-defined]


def main() -> None:
    from pipeline.training import fit

    fit.ClipClassifier = WatchedClassifier  # type: ignore[misc]
    experiment = read_experiment(Path(sys.argv[1]))
    try:
        result = train(experiment, resume=sys.argv[3] == "resume", quiet=True)
    except Interrupted as interrupted:
        sys.exit(100 + interrupted.signal_number if current_rank() == 0 else 0)
    ranks = join(experiment.machine)
    rows = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed).test
    evaluation = evaluate_model(result.model, rows, experiment.data, ranks=ranks)
    facts = {
        "digests": WatchedClassifier.digests,
        "rows": WatchedClassifier.rows,
        "num_good": WatchedClassifier.num_good,
        "metrics": result.metrics,
        "results": [asdict(video) for video in evaluation.results],
    }
    Path(sys.argv[2], f"rank_{ranks.index}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
