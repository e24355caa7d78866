"""Folds one by one: trained without sight of their test rows, judged, kept on disk.

An interrupted protocol goes on where it stopped; a finished fold is read from the run folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pipeline.checkpoint import ModelFile
from pipeline.config import DataConfig, Experiment, to_dict
from pipeline.datasets.annotations import Annotations
from pipeline.datasets.identities import Contents, Judgeable, Unseen
from pipeline.datasets.sequences import timeline_labels
from pipeline.datasets.settled import Splits, require_classes
from pipeline.datasets.splits import check_split, split_by_group
from pipeline.errors import UserError, unknown_name
from pipeline.files.lock import locked_folder
from pipeline.files.writing import write_atomically
from pipeline.protocols.folds import PROTOCOLS, Fold, Rows, annotations_of, silent_labels
from pipeline.ranks import Ranks, join
from pipeline.schema import read_checked, read_json, to_json
from pipeline.training.fit import train

MODEL = "model"
T = TypeVar("T")


@dataclass(frozen=True)
class Judging(Generic[T]):
    """The way in which a fold's model is judged, and its judgement kept."""

    settings: dict[str, Any]
    """All that the judgement depends on: folds of other settings must not mix in one folder."""
    judge: Callable[[ModelFile, Judgeable, DataConfig, Ranks], T]
    """Asks a model about the rows that it may be judged by."""
    to_json: Callable[[T], Any]
    from_json: Callable[[Any, tuple[str, ...], str], T]
    """Plain values, labels of the data, and the file they are from."""


def run_folds(
    experiment: Experiment,
    name: str,
    kinds: Mapping[str, Experiment],
    judging: Judging[T],
    *,
    num_seeds: int = 1,
    quiet: bool = False,
) -> Iterator[tuple[str, int, int, T]]:
    """Trains and judges each fold of a protocol with each seed; gives kind, seed, number of the fold (from 1) and
    judgement, each as it is there.

    A fold that is finished in the run folder, with the same settings, is read from there instead.

    Args:
        experiment: all settings; its seed is the first.
        name: a key of ``PROTOCOLS``.
        kinds: what is trained on each fold, one after the other: the experiment, and the baseline beside it.
        judging: as it says.
        num_seeds: repetitions, with seeds that follow each other.
        quiet: no progress on the terminal.

    Raises:
        UserError: unknown protocol, a leaking fold, one whose training part lacks a class, or a run folder of other
            settings, or one that another process trains in.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    ranks = join(experiment.machine)
    with ExitStack() as held:
        with ranks.agreement():
            if ranks.is_first:
                held.enter_context(locked_folder(experiment.run_dir))
            with ranks.in_turn():
                folds, annotations = PROTOCOLS[name](experiment), annotations_of(experiment)
            require_classes(_answers_of(experiment, annotations), experiment.data.root)
            contents = Contents(experiment.data)
            if ranks.is_first:
                _claim(
                    experiment,
                    name,
                    judging.settings,
                    _digest_of(_claimed_rows(experiment, annotations, folds), contents),
                )
        unsaid = [annotations.notes]  # once is enough
        for seed in range(experiment.seed, experiment.seed + num_seeds):
            for number, fold in enumerate(folds, start=1):
                for kind, settings in kinds.items():
                    folder = experiment.run_dir / kind / f"seed_{seed}"
                    data = replace(settings.data, split=fold.split or settings.data.split)
                    run = replace(settings, output_dir=str(folder), name=f"fold_{number:02d}", seed=seed, data=data)
                    noted = replace(annotations, notes=unsaid.pop() if unsaid else ())
                    yield kind, seed, number, _run_fold(run, noted, fold, contents, judging, quiet, ranks)


def _answers_of(experiment: Experiment, annotations: Annotations) -> Sequence[str]:
    """Labels that the model answers with: of timelines the background is one."""
    labels = annotations.labels
    return timeline_labels(labels, experiment.sequence) if experiment.task == "timeline" else labels


def _claimed_rows(experiment: Experiment, annotations: Annotations, folds: Sequence[Fold]) -> Mapping[str, Rows]:
    """All rows by part; where each official split has files of its own, those of every fold."""
    if experiment.task == "clip":
        return annotations.splits
    return {
        f"{part} {number}": getattr(fold, part)
        for number, fold in enumerate(folds, start=1)
        for part in ("train", "val", "test")
    }


def _digest_of(parts: Mapping[str, Rows], contents: Contents) -> str:
    """Of rows and the sizes of their files."""
    rows = [
        [part, row.name, row.label, row.group, row.start_seconds, row.end_seconds or 0.0, contents.num_bytes(row)]
        for part, members in parts.items()
        for row in members
    ]
    return hashlib.sha256(to_json(sorted(rows)).encode()).hexdigest()


def _claim(experiment: Experiment, name: str, judged: dict[str, Any], rows_sha256: str) -> None:
    """Folds of different settings or videos must not mix in one folder."""
    path = experiment.run_dir / "protocol.json"
    settings = {"protocol": name, "evaluation": judged, "experiment": to_dict(experiment)}
    settings["rows_sha256"] = rows_sha256
    if path.exists():
        before = read_checked(dict[str, Any], read_json(path.read_text(encoding="utf-8"), str(path)), str(path))
        what = "videos" if before | {"rows_sha256": rows_sha256} == settings else "settings"
        if what == "settings" or before.get("rows_sha256", rows_sha256) != rows_sha256:  # earlier versions kept none
            raise UserError(f"{path}: the folder holds folds of other {what}; choose another --name or remove it")
    write_atomically(path, to_json(settings, indent=1, sort_keys=True))


def _run_fold(
    run: Experiment,
    annotations: Annotations,
    fold: Fold,
    contents: Contents,
    judging: Judging[T],
    quiet: bool,
    ranks: Ranks,
) -> T:
    labels, done = annotations.labels, run.run_dir / "results.json"
    if any(ranks.gather(done.exists())):
        return judging.from_json(read_json(done.read_text(encoding="utf-8"), str(done)), labels, str(done))
    shared = annotations.may_share_groups
    classes = [label for label in labels if label not in silent_labels(run)]
    check_split(fold.train, fold.test, classes, may_share_groups=shared, test_may_lack_classes=True)
    resume = (run.run_dir / "checkpoints" / "last.ckpt").exists()  # this very fold, cut off
    splits = _splits_of(run, annotations, fold)
    result = train(run, splits, resume=resume, quiet=quiet)
    assert result.model.videos is not None
    unseen = Unseen(result.model.videos, splits.test, contents, may_share_groups=shared)
    # Without copies of training videos.
    judgement = judging.judge(result.model, unseen.judgeable(splits.test), run.data, ranks)
    if ranks.is_first:
        write_atomically(done, to_json(judging.to_json(judgement), indent=1, ensure_ascii=False))
    return judgement


def _splits_of(run: Experiment, annotations: Annotations, fold: Fold) -> Splits:
    """The fold, with a share of its training groups to choose the epoch by, if the settings have one."""
    train_rows, val_rows = fold.train, fold.val
    if run.data.val_fraction > 0 and not val_rows:
        train_rows, val_rows = split_by_group(train_rows, run.data.val_fraction, run.seed + 1)
    return Splits(annotations.labels, tuple(train_rows), tuple(val_rows), tuple(fold.test), annotations.notes)
