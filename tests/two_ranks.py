"""What each of two processes does for test_ranks.py: ``python -m tests.two_ranks CONFIG FOLDER [die]``.

Trains, evaluates, and writes to FOLDER what this one came to. With ``die`` the second process ends in the middle.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.parser import read_experiment
from pipeline.datasets.datamodule import make_splits, read_annotations
from pipeline.evaluation import evaluate_model
from pipeline.ranks import current_rank, join
from pipeline.training.fit import train
from pipeline.training.module import ClipClassifier


class WatchedClassifier(ClipClassifier):
    """Notes its weights after each step and the videos of each batch."""

    digests: list[str] = []  # noqa: RUF012 (one in this process)
    rows: list[list[int]] = []  # noqa: RUF012

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if len(sys.argv) > 3 and current_rank() == 1:
            os._exit(3)
        content = b"".join(parameter.detach().numpy().tobytes() for parameter in self.recognizer.parameters())
        self.digests.append(hashlib.sha256(content).hexdigest())
        self.rows.append(batch.rows.tolist() + [row for row, _ in batch.bad])  # type: ignore[attr-defined]


def main() -> None:
    from pipeline.training import fit

    fit.ClipClassifier = WatchedClassifier  # type: ignore[misc]
    experiment = read_experiment(Path(sys.argv[1]))
    result = train(experiment, quiet=True)
    ranks = join(experiment.trainer)
    rows = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed).test
    evaluation = evaluate_model(result.model, rows, experiment.data, ranks=ranks)
    facts = {
        "digests": WatchedClassifier.digests,
        "rows": WatchedClassifier.rows,
        "metrics": result.metrics,
        "results": [asdict(video) for video in evaluation.results],
    }
    Path(sys.argv[2], f"rank_{ranks.index}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
