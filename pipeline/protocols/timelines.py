"""A protocol for models of timelines: figures of whole videos, means over folds and seeds, beside the same model by
windows and beside a head that sees one grid frame at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint import ModelFile
from pipeline.config import DataConfig, Experiment, InferenceConfig, TimelineConfig
from pipeline.datasets.identities import Judgeable
from pipeline.files.writing import write_atomically
from pipeline.inference import Model
from pipeline.protocols.running import MODEL, Judging, run_folds
from pipeline.ranks import Ranks
from pipeline.report.tables import csv_text
from pipeline.schema import read_checked
from pipeline.timeline.metrics import Figure
from pipeline.timeline.metrics.figures import interval_of, resample_videos, weigh_figures
from pipeline.timeline_evaluation import evaluate_timelines
from pipeline.timeline_results import TimelineEvaluation, read_timeline_evaluation
from pipeline.unseen import whole_videos

FRAME_BY_FRAME = "frame_by_frame"
WINDOWS: Final = "windows"
_NUM_RESAMPLES = 1000
_NO_TIME = ("none",)
MAIN_FIGURES = {
    "f1_10_by_video": "F1@10",
    "f1_25_by_video": "F1@25",
    "f1_50_by_video": "F1@50",
    "edit": "edit",
    "frame_accuracy": "frame accuracy",
}
"""Figures of the table that is printed, and their names there."""
KIND_TITLES = {MODEL: "model", WINDOWS: "the same by windows", FRAME_BY_FRAME: "frame by frame, no time"}

_Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TimelineFold:
    """Answers of one model, trained on one fold with one seed, to the videos of its test rows."""

    kind: str
    """``model``, ``windows`` (the same model, asked by windows) or ``frame_by_frame``."""
    seed: int
    fold: int
    """From 1."""
    evaluation: TimelineEvaluation


def frame_by_frame(experiment: Experiment) -> Experiment:
    """The same experiment for a model without time: each grid frame alone, in its input, its head and its loss."""
    model = replace(
        experiment.model, heads=_NO_TIME, bidirectional=False, refinement_stages=0, rgb_diff_scale=1.0, scan="none"
    )
    sequence = replace(experiment.sequence, delay_frames=0, smoothing_weight=0.0)
    transform = replace(experiment.transform, input="rgb")
    return replace(experiment, model=model, sequence=sequence, transform=transform)


def run_timeline_protocol(
    experiment: Experiment,
    name: str,
    *,
    num_seeds: int = 1,
    baseline: bool = False,
    inference: Mapping[str, Any] | None = None,
    timeline: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Iterator[TimelineFold]:
    """Trains each fold of a protocol with each seed and judges it by whole videos, yielding each result as it is there.

    Args:
        experiment: all settings; its seed is the first.
        name: a key of ``PROTOCOLS``.
        num_seeds: repetitions, with seeds that follow each other.
        baseline: train a head that sees one frame at a time beside each.
        inference: settings of ``InferenceConfig`` in place of the mode that the model is trained for.
        timeline: settings of ``TimelineConfig``: how scores become segments.
        quiet: no progress on the terminal.

    Raises:
        UserError: as ``run_folds``.
    """
    given: dict[str, Any] = {"inference": dict(inference or {}), "timeline": dict(timeline or {})}

    def judge(file: ModelFile, judged: Judgeable, data: DataConfig, ranks: Ranks) -> dict[str, TimelineEvaluation]:
        return _judge(file, judged, given)

    kinds = {MODEL: experiment}
    if baseline and experiment.model.heads != _NO_TIME:
        kinds[FRAME_BY_FRAME] = frame_by_frame(experiment)
    judging = Judging(given, judge, _to_json, _from_json)
    for kind, seed, fold, found in run_folds(experiment, name, kinds, judging, num_seeds=num_seeds, quiet=quiet):
        for mode, evaluation in found.items():
            yield TimelineFold(WINDOWS if mode == WINDOWS else kind, seed, fold, evaluation)


def _judge(file: ModelFile, judged: Judgeable, given: Mapping[str, Any]) -> dict[str, TimelineEvaluation]:
    """Mode -> answers: ``own`` is the mode asked for, or that of the training."""
    judged, model = whole_videos(judged), Model(file)
    own = InferenceConfig(**given["inference"])
    modes = {"own": own}
    if model.mode(own) != WINDOWS and file.recognizer.config.heads != _NO_TIME:
        modes[WINDOWS] = replace(own, mode=WINDOWS)
    timeline = TimelineConfig(**{"background_label": file.sequence.background_label, **given["timeline"]})
    found = {}
    for mode, config in modes.items():
        evaluation = evaluate_timelines(model, judged.rows, inference=config, timeline=timeline)
        found[mode] = replace(evaluation, left_out=judged.left_out)
    return found


def _to_json(found: dict[str, TimelineEvaluation]) -> dict[str, Any]:
    return {mode: evaluation.to_json() for mode, evaluation in found.items()}


def _from_json(kept: Any, labels: tuple[str, ...], where: str) -> dict[str, TimelineEvaluation]:
    modes = read_checked(dict[str, Any], kept, where)
    return {mode: read_timeline_evaluation(value, f"{where}: {mode}") for mode, value in modes.items()}


@dataclass(frozen=True)
class TimelineProtocol:
    """Results of all folds, all seeds, of the model and what stands beside it."""

    folds: tuple[TimelineFold, ...]

    def of_kind(self, kind: str) -> list[TimelineFold]:
        """The folds of one kind, every seed's."""
        return [fold for fold in self.folds if fold.kind == kind]

    @property
    def kinds(self) -> list[str]:
        """Those that are there, the model first."""
        return [kind for kind in KIND_TITLES if self.of_kind(kind)]

    def whole(self) -> TimelineEvaluation:
        """The first seed's answers to the videos of all folds."""
        of_model = self.of_kind(MODEL)
        first = [fold.evaluation for fold in of_model if fold.seed == of_model[0].seed]
        return replace(
            first[0],
            results=tuple(result for evaluation in first for result in evaluation.results),
            left_out=tuple(left for evaluation in first for left in evaluation.left_out),
            frame_map_by_score=_mean_map(of_model),
        )

    @cached_property
    def _draws(self) -> dict[str, NDArray[np.float64]]:
        """Video -> how often it counts ``[1 + R]``: once, then in each resample of all videos. Every kind, seed and
        fold has the same draws, so that differences have intervals of their own."""
        names = dict.fromkeys(result.name for fold in self.folds for result in fold.evaluation.results)
        num_resamples = _NUM_RESAMPLES if len(names) > 1 else 0
        draws = np.vstack([np.ones((1, len(names))), resample_videos(len(names), num_resamples)])
        return dict(zip(names, draws.T, strict=True))

    def _means(self, kind: str, on_grid: bool) -> _Values:
        """Figures ``[1 + R]``: means over folds and seeds. In a resample a fold counts as often as its videos were
        drawn, by the share of them that it has."""
        totals: _Values = {}
        counts: _Values = {}
        for fold in self.of_kind(kind):
            pairs = fold.evaluation.pairs(on_grid=on_grid)
            if not pairs:
                continue
            weights = np.stack([self._draws[pair.name] for pair in pairs], axis=1)
            share = weights.mean(axis=1)
            for name, values in weigh_figures(pairs, weights).items():
                known = np.isfinite(values)
                totals[name] = totals.get(name, 0.0) + share * np.where(known, values, 0.0)
                counts[name] = counts.get(name, 0.0) + share * known
        return {
            name: np.where(counts[name] > 0, totals[name] / np.maximum(counts[name], 1e-12), np.nan) for name in totals
        }

    @cached_property
    def _all_means(self) -> dict[tuple[str, bool], _Values]:
        return {(kind, on_grid): self._means(kind, on_grid) for kind in self.kinds for on_grid in (False, True)}

    def figures(self, kind: str = MODEL, *, on_grid: bool = False) -> dict[str, Figure]:
        """Means over folds and seeds, with 95 % intervals over videos."""
        return {name: _figure(values) for name, values in self._all_means[kind, on_grid].items()}

    def gain(self, kind: str, *, on_grid: bool = False) -> dict[str, Figure]:
        """Main figures of the model less those of another kind."""
        ours, theirs = (self._all_means[each, on_grid] for each in (MODEL, kind))
        return {name: _figure(ours[name] - theirs[name]) for name in MAIN_FIGURES}

    def summary(self) -> dict[str, Any]:
        """All figures as plain values: the model's under their own names, the other kinds' below ``beside``."""
        of_model, whole = self.of_kind(MODEL), self.whole()
        seeds = sorted({fold.seed for fold in of_model})
        return {
            "num_folds": len({fold.fold for fold in of_model}),
            "num_seeds": len(seeds),
            "num_videos": len({result.name for fold in of_model for result in fold.evaluation.results}),
            "num_errors": sum(fold.evaluation.num_errors for fold in of_model),
            "num_left_out": len(dict.fromkeys(left for fold in of_model for left in fold.evaluation.left_out)),
            "num_true_segments": whole.figures.num_true_segments,
            "num_predicted_segments": whole.figures.num_predicted_segments,
            **self._kind_summary(MODEL),
            "labels": {label: dict(figures) for label, figures in whole.figures.labels.items()},
            "unknown_labels": list(whole.figures.unknown_labels),
            "deviation": self._deviation(of_model, seeds),
            "beside": {
                kind: self._kind_summary(kind)
                | {"gain": _plain(self.gain(kind)), "gain_on_grid": _plain(self.gain(kind, on_grid=True))}
                for kind in self.kinds[1:]
            },
        }

    def _kind_summary(self, kind: str) -> dict[str, Any]:
        by_time, on_grid = self.figures(kind), self.figures(kind, on_grid=True)
        return {
            **{name: figure.value for name, figure in by_time.items()},
            "interval_95": {name: [figure.low, figure.high] for name, figure in by_time.items()},
            "frame_map_by_score": _mean_map(self.of_kind(kind)),
            "on_grid": {name: figure.value for name, figure in on_grid.items()},
            "on_grid_interval_95": {name: [figure.low, figure.high] for name, figure in on_grid.items()},
        }

    def _deviation(self, folds: Sequence[TimelineFold], seeds: Sequence[int]) -> dict[str, dict[str, float]]:
        """Standard deviations of the main figures at the grid frames: over folds and seeds, and over the means of
        seeds."""
        values = {(fold.seed, fold.fold): figures_on_grid(fold) for fold in folds}
        found = {}
        for name in MAIN_FIGURES:
            by_seed = [mean(v[name] for (seed, _), v in values.items() if seed == each) for each in seeds]
            every = [v[name] for v in values.values()]
            found[name] = {
                "folds_and_seeds": stdev(every) if len(every) > 1 else 0.0,
                "seeds": stdev(by_seed) if len(by_seed) > 1 else 0.0,
            }
        return found

    def table(self) -> list[list[str]]:
        """Lines of texts, the first one the heading: each kind's main figures with their intervals, in percent, by
        time and by the labels at the grid frames alone."""
        lines = [["", *MAIN_FIGURES.values(), "frame mAP"]]
        for kind in self.kinds:
            frame_map = _mean_map(self.of_kind(kind))
            for on_grid, words in ((False, ""), (True, ", at the grid frames")):
                found = self.figures(kind, on_grid=on_grid)
                last = "" if on_grid or frame_map is None else f"{100 * frame_map:.1f}"
                lines.append([KIND_TITLES[kind] + words, *(_percent(found[name]) for name in MAIN_FIGURES), last])
        return lines


def _figure(values: NDArray[np.float64]) -> Figure:
    return Figure(float(values[0]), *interval_of(values[1:]))


def _plain(figures: Mapping[str, Figure]) -> dict[str, list[float]]:
    return {name: [figure.value, figure.low, figure.high] for name, figure in figures.items()}


def _percent(figure: Figure) -> str:
    """``67.4 (63.0 to 71.2)``"""
    interval = "" if figure.low != figure.low else f" ({100 * figure.low:.1f} to {100 * figure.high:.1f})"
    return f"{100 * figure.value:.1f}{interval}"


def _mean_map(folds: Sequence[TimelineFold]) -> float | None:
    maps = [fold.evaluation.frame_map_by_score for fold in folds if fold.evaluation.frame_map_by_score is not None]
    return mean(maps) if maps else None


def figures_on_grid(fold: TimelineFold) -> dict[str, float]:
    """Return all figures of one fold, by the labels at the grid frames alone."""
    pairs = fold.evaluation.pairs(on_grid=True)
    return {name: float(values[0]) for name, values in weigh_figures(pairs, np.ones((1, len(pairs)))).items()}


def write_timeline_folds(result: TimelineProtocol, folder: Path, command: str) -> list[Path]:
    """Writes ``folds.csv``, a row for each kind, seed and fold, and ``table.md``, which names the command. Returns
    their paths."""
    rows = []
    for fold in result.folds:
        figures, evaluation = figures_on_grid(fold), fold.evaluation
        row = {"kind": fold.kind, "seed": fold.seed, "fold": fold.fold, "num_videos": len(evaluation.results)}
        shown = {f"on_grid_{name}": f"{figures[name]:.4f}" for name in MAIN_FIGURES}
        rows.append(row | {"num_errors": evaluation.num_errors} | shown)
    heading, *lines = [f"| {' | '.join(line)} |" for line in result.table()]
    rule = "|---" * (len(MAIN_FIGURES) + 2) + "|"
    about = f"Written by\n\n    {command}\n\nMeans over folds and seeds in percent, with 95 % intervals over videos."
    texts = {"folds.csv": csv_text(rows), "table.md": "\n".join([about, "", heading, rule, *lines]) + "\n"}
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]
