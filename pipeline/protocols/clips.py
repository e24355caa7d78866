"""A protocol for models of clips: accuracy over all folds and seeds, beside the frame average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from pipeline.checkpoint import ModelFile
from pipeline.confidence import wilson_interval, with_unseen
from pipeline.config import DataConfig, Experiment
from pipeline.datasets.identities import Judgeable, LeftOut
from pipeline.evaluation import Evaluation, VideoResult, evaluate_model
from pipeline.files.writing import write_atomically
from pipeline.protocols.running import MODEL, Judging, run_folds
from pipeline.ranks import Ranks
from pipeline.report.tables import csv_text
from pipeline.schema import read_checked

BASELINE = "frame_average"
_NUM_RESAMPLES = 10_000


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

    Args:
        experiment: all settings; its seed is the first.
        name: a key of ``PROTOCOLS``.
        num_seeds: repetitions, with seeds that follow each other.
        baseline: train the frame average beside each: the same backbone on single pictures, without order.
        evaluation: how the models are asked.
        quiet: no progress on the terminal.

    Raises:
        UserError: as ``run_folds``.
    """
    asked = asdict(evaluation)

    def judge(model: ModelFile, judged: Judgeable, data: DataConfig, ranks: Ranks) -> Evaluation:
        return replace(evaluate_model(model, judged.rows, data, **asked, ranks=ranks), left_out=judged.left_out)

    kinds = {MODEL: experiment}
    if baseline and experiment.model.heads != ("mean",):
        kinds[BASELINE] = frame_average(experiment)
    judging = Judging(asked, judge, _to_json, _from_json)
    for found in run_folds(experiment, name, kinds, judging, num_seeds=num_seeds, quiet=quiet):
        yield FoldResult(*found)


def frame_average(experiment: Experiment) -> Experiment:
    """The same experiment for a model that cannot use time: each picture alone, features averaged."""
    model = replace(experiment.model, heads=("mean",), bidirectional=False, rgb_diff_scale=1.0)
    return replace(experiment, model=model, transform=replace(experiment.transform, input="rgb"))


@dataclass(frozen=True)
class _KeptFold:
    """The part of a fold that is kept."""

    results: tuple[VideoResult, ...]
    left_out: tuple[LeftOut, ...]


def _to_json(evaluation: Evaluation) -> dict[str, Any]:
    return {name: [asdict(item) for item in getattr(evaluation, name) or ()] for name in ("results", "left_out")}


def _from_json(kept: Any, labels: tuple[str, ...], where: str) -> Evaluation:
    if isinstance(kept, list):  # of an earlier version, which left out nothing
        kept = {"results": kept, "left_out": []}
    fold = read_checked(_KeptFold, kept, where)
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
