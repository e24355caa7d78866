"""The rows that an experiment learns from and is judged by: the annotations read, the splits settled. Light, as
``formats``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import DataConfig, SequenceConfig
from pipeline.datasets.annotations import Annotations, VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.splits import check_split, split_by_group
from pipeline.errors import UserError
from pipeline.schema import check_labels


@dataclass(frozen=True)
class Splits:
    """The rows of one experiment."""

    labels: tuple[str, ...]
    train: tuple[VideoRow, ...]
    val: tuple[VideoRow, ...]
    test: tuple[VideoRow, ...]
    notes: tuple[str, ...] = ()
    """Texts to report: ``Annotations.notes``, and files that are listed and not there."""


def read_splits(config: DataConfig, seed: int, targets: SequenceConfig | None = None) -> Splits:
    """Return the rows of a training: the one way from data settings to rows, for ``train`` and ``check`` alike. Of
    timelines, which have ``targets``, one label is enough: there is the background beside it.

    Raises:
        UserError: as ``read_annotations`` and ``make_splits``, or one class only.
    """
    annotations = read_annotations(config, targets)
    try:
        require_classes(annotations.labels, config.root, least=1 if targets else 2)
        return make_splits(annotations, config, seed)
    except UserError as error:
        raise UserError(". Note: ".join([str(error), *annotations.notes])) from None


def require_classes(labels: Sequence[str], where: str, least: int = 2) -> None:
    """Refuse classes that no model can learn, or that no model file can hold.

    Raises:
        UserError: fewer than ``least`` classes, or as ``check_labels``.
    """
    if not labels:
        raise UserError(f"{where}: no row has a label, so that there is nothing to learn; label some stretches")
    if len(labels) < least:
        raise UserError(
            f"{where} has one class only, {', '.join(labels)}; a model tells classes apart: add a folder or rows of "
            f"another, for example one called background in which nothing happens{_inner_classes(labels, where)}"
        )
    check_labels(labels, where)


def _inner_classes(labels: Sequence[str], where: str) -> str:
    folders = [Path(where, label) for label in labels if Path(where, label).is_dir()]
    inner = [folder for folder in folders if any(path.is_dir() for path in folder.iterdir())]
    return f"; or set data.root to {inner[0]}, if the classes are the folders in it" if inner else ""


def make_splits(annotations: Annotations, config: DataConfig, seed: int) -> Splits:
    """Train, validation and test rows: the dataset's own splits where it has them, else drawn by group.

    Raises:
        UserError: a part is empty, a split shares a group or lacks a class, or ``data.test_fraction`` is 0. HMDB51's
            official splits share sources and are let through.
    """
    labels, given = annotations.labels, annotations.splits
    empty = [part for part, rows in given.items() if not rows]
    if empty:
        raise UserError(f"{config.root}: the part {', '.join(empty)} has no video; add some, or take the part out")
    if "all" in given:
        if not 0 < config.test_fraction < 1:
            raise UserError(
                f"data.test_fraction {config.test_fraction:g} leaves nothing to test on, or to learn from; set it to a "
                "share such as 0.2, or give the data a part test. A model that has learned from all videos of its "
                "data, as those of clipgru learn, is judged by others: --data.root NEW_VIDEOS --split all"
            )
        what = f"holding out a share for testing (data.test_fraction {config.test_fraction:g})"
        rest, test = split_by_group(given["all"], config.test_fraction, seed, what)
    else:
        rest, test = given.get("train", ()), given.get("test", ())
    if "val" in given:
        train, val = rest, given["val"]
    elif config.val_fraction > 0 and rest:
        if config.val_fraction == 1:
            raise UserError("data.val_fraction 1 leaves nothing to learn from; set it to a share such as 0.15, or to 0")
        what = f"holding out a share for validation (data.val_fraction {config.val_fraction:g}, which may be 0)"
        train, val = split_by_group(rest, config.val_fraction, seed + 1, what)
    else:
        train, val = rest, ()
    if not train:
        raise UserError(
            f"{config.root}: there are no training videos, only those of the part {', '.join(given)}; add a part train"
        )
    for part in filter(None, (val, test)):
        check_split(
            train,
            part,
            labels,
            may_share_groups=annotations.may_share_groups,
            # Downloads that are no longer to be had, or long videos.
            test_may_lack_classes=bool(annotations.absent) or annotations.may_lack_classes,
        )
    absent = annotations.absent
    gone = [f"{len(absent)} listed videos are not there and left out, the first: {absent[0]}"] if absent else []
    return Splits(labels, tuple(train), tuple(val), tuple(test), (*annotations.notes, *gone))
