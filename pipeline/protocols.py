"""Whole evaluation protocols: train and test over folds and seeds from one experiment, each fold without sight of its
test rows, with the frame average trained beside it.

Folds are finished one by one and kept on disk, so that an interrupted protocol goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from pipeline.confidence import wilson_interval, with_unseen
from pipeline.config import Experiment, to_dict
from pipeline.datasets.annotations import Annotations, VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.identities import Contents, LeftOut, Unseen
from pipeline.datasets.official import NUM_OFFICIAL_SPLITS
from pipeline.datasets.settled import Splits, make_splits, require_classes
from pipeline.datasets.splits import check_split, group_folds, leave_one_group_out, split_by_group
from pipeline.errors import UserError, unknown_name
from pipeline.evaluation import Evaluation, VideoResult, evaluate_model
from pipeline.files.lock import locked_folder
from pipeline.files.writing import write_atomically
from pipeline.ranks import Ranks, join
from pipeline.report.tables import csv_text
from pipeline.schema import read_checked, read_json, to_json
from pipeline.training.fit import train

Rows = Sequence[VideoRow]
MODEL, BASELINE = "model", "frame_average"
_NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Fold:
    """Rows to learn from, rows to test on, and rows to choose the best epoch by, if the data names them."""

    train: Rows
    test: Rows
    val: Rows = ()


def _of_all_rows(fold: Callable[[Rows, int], Sequence[tuple[Rows, Rows]]]) -> Callable[[Experiment], list[Fold]]:
    """A protocol that divides every row of the data, whatever split they come in."""

    def folds(experiment: Experiment) -> list[Fold]:
        parts = read_annotations(experiment.data).splits.values()
        return [Fold(*pair) for pair in fold([row for part in parts for row in part], experiment.seed)]

    return folds


def _own_split(experiment: Experiment) -> list[Fold]:
    splits = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed)
    return [Fold(splits.train, splits.test, splits.val)]


def _official_splits(experiment: Experiment) -> list[Fold]:
    folds = []
    for number in range(1, NUM_OFFICIAL_SPLITS + 1):
        given = read_annotations(replace(experiment.data, split=number)).splits
        if not {"train", "test"} <= given.keys():
            raise UserError(
                f"data.format {experiment.data.format} has no official splits; use the protocol own_split or folds"
            )
        folds.append(Fold(given["train"], given["test"]))
    return folds


# name -> folds of an experiment. Folds do not depend on the seed of a repetition: like is compared with like.
PROTOCOLS: dict[str, Callable[[Experiment], list[Fold]]] = {
    "own_split": _own_split,
    "official_splits": _official_splits,
    "leave_one_group_out": _of_all_rows(lambda rows, seed: leave_one_group_out(rows)),
    "group_5_fold": _of_all_rows(lambda rows, seed: group_folds(rows, 5, seed)),
    "group_10_fold": _of_all_rows(lambda rows, seed: group_folds(rows, 10, seed)),
}


@dataclass(frozen=True)
class FoldResult:
    """One model, trained on one fold with one seed, and what it said of the fold's test rows."""

    kind: str
    """``model`` or ``frame_average``."""
    seed: int
    fold: int
    """From 1."""
    evaluation: Evaluation


@dataclass(frozen=True)
class ProtocolResult:
    """Results of all folds, all seeds, with or without the baseline."""

    folds: tuple[FoldResult, ...]

    def whole(self, kind: str = MODEL) -> Evaluation:
        """All folds and seeds of a kind as one evaluation: each answer counts once."""
        evaluations = [fold.evaluation for fold in self.folds if fold.kind == kind]
        results = tuple(result for evaluation in evaluations for result in evaluation.results)
        left_out = tuple(dict.fromkeys(left for evaluation in evaluations for left in evaluation.left_out or ()))
        return Evaluation(evaluations[0].labels if evaluations else (), results, left_out)

    def summary(self) -> dict[str, float]:
        """Accuracy over all answers with its 95 % interval, the spread over folds and seeds, and the baseline's.

        The interval is Wilson's where each video was tested once, else a bootstrap over videos. The accuracy of several
        official splits is their mean.
        """
        whole, of_model = self.whole(), [fold for fold in self.folds if fold.kind == MODEL]
        by_fold = [fold.evaluation.top1 for fold in of_model]
        seeds = sorted({fold.seed for fold in of_model})
        by_seed = [mean(fold.evaluation.top1 for fold in of_model if fold.seed == seed) for seed in seeds]
        low, high = self._interval()
        summary = whole.summary() | {
            "top1_low": low,
            "top1_high": high,
            "mean_fold": mean(by_fold),
            "worst_fold": min(by_fold),
            "best_fold": max(by_fold),
            "num_folds": len(of_model) // len(seeds),
            "num_seeds": len(seeds),
        }
        if len(seeds) > 1:
            summary["seed_deviation"] = stdev(by_seed)
        return summary | self._against_baseline()

    def _interval(self) -> tuple[float, float]:
        rights = self._rights(MODEL)
        if all(len(answers) == 1 for answers in rights.values()):
            return wilson_interval(sum(sum(answers) for answers in rights.values()), len(rights))
        return _bootstrap([mean(answers) for answers in rights.values()])

    def _against_baseline(self) -> dict[str, float]:
        baseline, ours = self._rights(BASELINE), self._rights(MODEL)
        shared = [path for path in ours if path in baseline]
        if not shared:
            return {}
        gains = [mean(ours[path]) - mean(baseline[path]) for path in shared]
        low, high = _bootstrap(gains, lowest=-1.0)
        top1 = self.whole(BASELINE).top1
        return {"frame_average_top1": top1, "gain": mean(gains), "gain_low": low, "gain_high": high}

    def _rights(self, kind: str) -> dict[str, list[bool]]:
        """Path -> whether each of its answers is right."""
        rights: dict[str, list[bool]] = {}
        for result in self.whole(kind).results:
            rights.setdefault(result.path, []).append(result.predicted == result.label)
        return rights


def _bootstrap(values: Sequence[float], lowest: float = 0.0) -> tuple[float, float]:
    """95 % percentile interval of the mean of values from ``lowest`` to 1, over resampled videos (Efron, "Bootstrap
    methods", 1979); seeded."""
    array, generator = np.asarray(values, dtype=np.float64), np.random.default_rng(0)
    counts = generator.multinomial(len(array), np.full(len(array), 1 / len(array)), size=_NUM_RESAMPLES)
    low, high = np.percentile(counts @ array / len(array), [2.5, 97.5])
    return with_unseen((float(low), float(high)), float(array.mean()), len(array), lowest)


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of ``evaluate_model`` for each fold's model."""

    num_clips: int | None = None
    """Clips a video whose scores are averaged; None: as the experiment says."""
    mirror: bool = False
    """Each clip's mirror image counts as one more clip."""


def run_protocol(
    experiment: Experiment,
    name: str,
    *,
    num_seeds: int = 1,
    baseline: bool = False,
    evaluation: EvaluationSettings = EvaluationSettings(),
    quiet: bool = False,
) -> Iterator[FoldResult]:
    """Trains and tests each fold of a protocol with each seed, yielding each result as it is there.

    A fold that is finished in the run folder, with the same settings, is read from there instead.

    Args:
        experiment: all settings; its seed is the first.
        name: a key of ``PROTOCOLS``.
        num_seeds: repetitions, with seeds that follow each other.
        baseline: train the frame average beside each: the same backbone on single pictures, without order.
        evaluation: how the models are asked.
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
                folds, annotations = PROTOCOLS[name](experiment), read_annotations(experiment.data)
            require_classes(annotations.labels, experiment.data.root)
            contents = Contents(experiment.data)
            if ranks.is_first:
                _claim(experiment, name, evaluation, _digest_of(annotations, contents))
        unsaid = [annotations.notes]  # once is enough
        kinds = {MODEL: experiment}
        if baseline and experiment.model.heads != ("mean",):
            kinds[BASELINE] = frame_average(experiment)
        for seed in range(experiment.seed, experiment.seed + num_seeds):
            for number, fold in enumerate(folds, start=1):
                for kind, settings in kinds.items():
                    folder = experiment.run_dir / kind / f"seed_{seed}"
                    run = replace(settings, output_dir=str(folder), name=f"fold_{number:02d}", seed=seed)
                    noted = replace(annotations, notes=unsaid.pop() if unsaid else ())
                    found = _run_fold(run, noted, fold, contents, evaluation, quiet, ranks)
                    yield FoldResult(kind, seed, number, found)


def frame_average(experiment: Experiment) -> Experiment:
    """The same experiment for a model that cannot use time: each picture alone, features averaged."""
    model = replace(experiment.model, heads=("mean",), bidirectional=False, rgb_diff_scale=1.0)
    return replace(experiment, model=model, transform=replace(experiment.transform, input="rgb"))


def _digest_of(annotations: Annotations, contents: Contents) -> str:
    """Of all rows and the sizes of their files."""
    rows = [
        [part, row.name, row.label, row.group, row.start_seconds, row.end_seconds or 0.0, contents.num_bytes(row)]
        for part, members in annotations.splits.items()
        for row in members
    ]
    return hashlib.sha256(to_json(sorted(rows)).encode()).hexdigest()


def _claim(experiment: Experiment, name: str, evaluation: EvaluationSettings, rows_sha256: str) -> None:
    """Folds of different settings or videos must not mix in one folder."""
    path = experiment.run_dir / "protocol.json"
    settings = {"protocol": name, "evaluation": asdict(evaluation), "experiment": to_dict(experiment)}
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
    asked: EvaluationSettings,
    quiet: bool,
    ranks: Ranks,
) -> Evaluation:
    labels, done = annotations.labels, run.run_dir / "results.json"
    if any(ranks.gather(done.exists())):
        return _read_results(done, labels)
    shared = annotations.may_share_groups
    check_split(fold.train, fold.test, labels, may_share_groups=shared, test_may_lack_classes=True)
    train_rows, val_rows = fold.train, fold.val
    if run.data.val_fraction > 0 and not val_rows:
        train_rows, val_rows = split_by_group(train_rows, run.data.val_fraction, run.seed + 1)
    splits = Splits(labels, tuple(train_rows), tuple(val_rows), tuple(fold.test), annotations.notes)
    resume = (run.run_dir / "checkpoints" / "last.ckpt").exists()  # this very fold, cut off
    result = train(run, splits, resume=resume, quiet=quiet)
    assert result.model.videos is not None
    unseen = Unseen(result.model.videos, splits.test, contents, may_share_groups=shared)
    judged = unseen.judgeable(splits.test)  # copies of training videos
    evaluation = evaluate_model(result.model, judged.rows, run.data, **asdict(asked), ranks=ranks)
    evaluation = replace(evaluation, left_out=judged.left_out)
    if ranks.is_first:
        kept = {name: [asdict(item) for item in getattr(evaluation, name)] for name in ("results", "left_out")}
        write_atomically(done, to_json(kept, indent=1, ensure_ascii=False))
    return evaluation


@dataclass(frozen=True)
class _Fold:
    """The part of a fold that is kept."""

    results: tuple[VideoResult, ...]
    left_out: tuple[LeftOut, ...]


def _read_results(path: Path, labels: tuple[str, ...]) -> Evaluation:
    kept = read_json(path.read_text(encoding="utf-8"), str(path))
    if isinstance(kept, list):  # of an earlier version, which left out nothing
        kept = {"results": kept, "left_out": []}
    fold = read_checked(_Fold, kept, str(path))
    return Evaluation(labels, fold.results, fold.left_out)


def write_folds(result: ProtocolResult, folder: Path) -> Path:
    """``folds.csv``: a row for each kind, seed and fold. Returns its path."""
    rows = [
        {"kind": fold.kind, "seed": fold.seed, "fold": fold.fold, "num_videos": fold.evaluation.num_videos}
        | {"top1": f"{fold.evaluation.top1:.4f}", "num_errors": fold.evaluation.num_errors}
        for fold in result.folds
    ]
    path = folder / "folds.csv"
    write_atomically(path, csv_text(rows))
    return path
