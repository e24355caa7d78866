"""The folds of a protocol: rows to learn from and rows to test on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import DataConfig, Experiment
from pipeline.datasets.annotations import Annotations, VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.ms_tcn import count_ms_tcn_splits
from pipeline.datasets.official import NUM_OFFICIAL_SPLITS
from pipeline.datasets.settled import make_splits
from pipeline.datasets.splits import group_folds, leave_one_group_out
from pipeline.errors import UserError

Rows = Sequence[VideoRow]


@dataclass(frozen=True)
class Fold:
    """Rows to learn from, rows to test on, and rows to choose the best epoch by, if the data names them."""

    train: Rows
    test: Rows
    val: Rows = ()
    split: int | None = None
    """Number of the official split that it is."""


def annotations_of(experiment: Experiment, split: int | None = None) -> Annotations:
    """Return the labels and rows of an experiment, of its official split or another."""
    targets = experiment.sequence if experiment.task == "timeline" else None
    return read_annotations(replace(experiment.data, split=split or experiment.data.split), targets)


def silent_labels(experiment: Experiment) -> frozenset[str]:
    """Return the labels of rows that are no class of a model of timelines: none, background, and what nobody has looked
    at; nothing for clips."""
    config = experiment.sequence
    silent = frozenset(("", config.background_label, config.unlabelled_label))
    return silent if experiment.task == "timeline" else frozenset()


def _of_all_rows(fold: Callable[[Rows, int], Sequence[tuple[Rows, Rows]]]) -> Callable[[Experiment], list[Fold]]:
    """A protocol that divides every row of the data, whatever split they come in."""

    def folds(experiment: Experiment) -> list[Fold]:
        rows = [row for part in annotations_of(experiment).splits.values() for row in part]
        silent = silent_labels(experiment)
        pairs = fold([row for row in rows if row.label not in silent], experiment.seed)
        return _with_silent(pairs, [row for row in rows if row.label in silent])

    return folds


def _with_silent(pairs: Sequence[tuple[Rows, Rows]], silent: Rows) -> list[Fold]:
    """The folds with rows that no class can deal out, such as long videos in which nothing happens: each is tested with
    its group, or the groups by turns."""
    place = {row.group: number for number, (_, test) in enumerate(pairs) for row in test}
    others = sorted({row.group for row in silent} - place.keys())
    place |= {group: number % len(pairs) for number, group in enumerate(others)}
    return [
        Fold(
            (*train, *(row for row in silent if place[row.group] != number)),
            (*test, *(row for row in silent if place[row.group] == number)),
        )
        for number, (train, test) in enumerate(pairs)
    ]


def _own_split(experiment: Experiment) -> list[Fold]:
    splits = make_splits(annotations_of(experiment), experiment.data, experiment.seed)
    return [Fold(splits.train, splits.test, splits.val)]


# format -> number of its official splits
_NUM_SPLITS: dict[str, Callable[[DataConfig], int]] = {
    "ucf101": lambda data: NUM_OFFICIAL_SPLITS,
    "hmdb51": lambda data: NUM_OFFICIAL_SPLITS,
    "ms_tcn": lambda data: count_ms_tcn_splits(Path(data.root)),
}


def _official_splits(experiment: Experiment) -> list[Fold]:
    data = experiment.data
    if data.format not in _NUM_SPLITS:
        raise UserError(f"data.format {data.format} has no official splits; use the protocol own_split or folds")
    num_splits = _NUM_SPLITS[data.format](data)
    if not num_splits:
        raise UserError(
            f"{data.root}: there are no numbered splits (splits/train.split1.bundle, or folders where the root has "
            "{split} in its name); use the protocol own_split"
        )
    folds = []
    for number in range(1, num_splits + 1):
        given = annotations_of(experiment, number).splits
        folds.append(Fold(given["train"], given["test"], given.get("val", ()), number))
    return folds


# name -> folds of an experiment. Folds do not depend on the seed of a repetition: like is compared with like.
PROTOCOLS: dict[str, Callable[[Experiment], list[Fold]]] = {
    "own_split": _own_split,
    "official_splits": _official_splits,
    "leave_one_group_out": _of_all_rows(lambda rows, seed: leave_one_group_out(rows)),
    "group_5_fold": _of_all_rows(lambda rows, seed: group_folds(rows, 5, seed)),
    "group_10_fold": _of_all_rows(lambda rows, seed: group_folds(rows, 10, seed)),
}
