"""Whole evaluation protocols: train and test over folds from one experiment, each fold without sight of its test rows.

Folds are finished one by one and kept on disk, so that an interrupted protocol goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.config import Experiment, to_dict
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import Splits, read_annotations
from pipeline.datasets.splits import check_split, group_folds, leave_one_group_out, split_by_group
from pipeline.errors import UserError, unknown_name
from pipeline.evaluation import Evaluation, VideoResult, evaluate_model, wilson_interval
from pipeline.files import write_atomically
from pipeline.training.fit import train

Rows = Sequence[VideoRow]
Fold = tuple[Sequence[VideoRow], Sequence[VideoRow]]  # train, test

PROTOCOLS: dict[str, Callable[[Rows, Experiment], Sequence[Fold]]] = {
    "leave_one_group_out": lambda rows, experiment: leave_one_group_out(rows),
    "group_5_fold": lambda rows, experiment: group_folds(rows, 5, experiment.seed),
    "group_10_fold": lambda rows, experiment: group_folds(rows, 10, experiment.seed),
}


@dataclass(frozen=True)
class ProtocolResult:
    """Every video's result when it was in the test part of its fold."""

    folds: tuple[Evaluation, ...]

    @property
    def whole(self) -> Evaluation:
        """All folds as one evaluation: each video counts once."""
        return Evaluation(self.folds[0].labels, tuple(result for fold in self.folds for result in fold.results))

    def summary(self) -> dict[str, float]:
        """Accuracy over all videos with its 95 % Wilson interval, and each fold's extremes."""
        whole = self.whole
        low, high = wilson_interval(round(whole.top1 * whole.num_videos), whole.num_videos)
        return whole.summary() | {
            "top1_low": low,
            "top1_high": high,
            "worst_fold": min(fold.top1 for fold in self.folds),
            "best_fold": max(fold.top1 for fold in self.folds),
            "num_folds": len(self.folds),
        }


def run_protocol(experiment: Experiment, name: str, *, quiet: bool = False) -> Iterator[Evaluation]:
    """Trains and tests each fold of a protocol, yielding each fold's evaluation as it is done.

    A fold that is finished in the run folder, with the same settings, is read from there instead.

    Raises:
        UserError: unknown protocol, a fold whose training part lacks a class, or a run folder of other settings.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    annotations = read_annotations(experiment.data)
    rows = [row for part in annotations.splits.values() for row in part]
    _claim(experiment, name)
    for number, (train_rows, test_rows) in enumerate(PROTOCOLS[name](rows, experiment), start=1):
        fold = replace(experiment, output_dir=str(experiment.run_dir), name=f"fold_{number:02d}")
        yield _run_fold(fold, annotations.labels, train_rows, test_rows, quiet)


def _claim(experiment: Experiment, name: str) -> None:
    """Folds of different settings must not mix in one folder."""
    path = experiment.run_dir / "protocol.json"
    text = json.dumps({"protocol": name, "experiment": to_dict(experiment)}, indent=1, sort_keys=True)
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path}: the folder holds folds of other settings; choose another --name or remove it")
    write_atomically(path, text.encode())


def _run_fold(fold: Experiment, labels: tuple[str, ...], train_rows: Rows, test_rows: Rows, quiet: bool) -> Evaluation:
    done = fold.run_dir / "results.json"
    if done.exists():
        return _read_results(done, labels)
    check_split(train_rows, test_rows, labels, test_may_lack_classes=True)
    val_rows: Rows = ()
    if fold.data.val_fraction > 0:
        train_rows, val_rows = split_by_group(train_rows, fold.data.val_fraction, fold.seed + 1)
    splits = Splits(labels, tuple(train_rows), tuple(val_rows), tuple(test_rows))
    resume = (fold.run_dir / "checkpoints" / "last.ckpt").exists()  # this very fold, cut off
    result = train(fold, splits, resume=resume, quiet=quiet)
    evaluation = evaluate_model(result.model, splits.test, fold.data)
    rows = [asdict(video) for video in evaluation.results]
    write_atomically(done, json.dumps(rows, indent=1, ensure_ascii=False).encode())
    return evaluation


def _read_results(path: Path, labels: tuple[str, ...]) -> Evaluation:
    rows = json.loads(path.read_text())
    tuples = ("probabilities", "uncalibrated")
    results = [VideoResult(**row | {name: tuple(row.get(name, ())) for name in tuples}) for row in rows]
    return Evaluation(labels, tuple(results))
