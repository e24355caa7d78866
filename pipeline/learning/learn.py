"""``clipgru learn``: a folder of a few short videos a class in, a calibrated model file out."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from pipeline.calibration import UNCALIBRATED, Calibration, fit_calibration, reliability
from pipeline.checkpoint import ModelFile, provenance_of, save_model
from pipeline.config import DataConfig, Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.folders import read_folder
from pipeline.datasets.identities import Contents, join_copies
from pipeline.datasets.videos import BadVideo
from pipeline.errors import UserError
from pipeline.files.outputs import check_outputs
from pipeline.known_videos import KnownVideos
from pipeline.learning.candidates import CANDIDATES, MAX_FRAMES, MIN_FRAMES, shared_experiment
from pipeline.learning.choice import Choice, classes_of_one_source, cross_validate, num_folds_for
from pipeline.learning.features import VideoFeatures, embed_videos
from pipeline.learning.heads import fit_head
from pipeline.learning.processes import processes_for
from pipeline.options import LearnOptions
from pipeline.schema import check_labels
from pipeline.terminal import PlainConsole


@dataclass(frozen=True)
class _Learned:
    """Result of ``learn``."""

    model: ModelFile
    choice: Choice
    bad: tuple[BadVideo, ...]
    of_one_source: tuple[str, ...] = ()
    """Classes whose videos are all cut from one recording; with such, nobody knows what to expect of new ones."""


def learn(root: Path, options: LearnOptions, console: PlainConsole) -> _Learned:
    """Chooses a head by cross-validation, trains it on all videos, calibrates it by what the folds said of held-out
    ones, and writes the model file.

    Raises:
        UserError: no folder of classes, one class only, too few videos of one, or none that can be read.
    """
    start = time.perf_counter()
    labels, rows, notes = _rows_of(root)
    check_labels(labels, str(root))
    check_outputs({"--output": Path(options.output)}, [row.path for row in rows])
    contents = Contents(DataConfig(root=str(root)))
    contents.digest_all(rows)
    rows, copies = join_copies(rows, contents)
    for note in () if options.quiet else (*notes, *copies):
        console.print(f"note: {note}")
    with Progress(console=console, transient=True, disable=options.quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("reading each video once", total=len(rows))
        shared = shared_experiment(str(root), options, MAX_FRAMES, len(rows))
        videos, bad = embed_videos(shared, rows, labels, lambda: progress.advance(task))
        _report_bad(bad, console)
        _require_enough(videos, labels)
        of_one_source = classes_of_one_source(videos)
        if of_one_source:
            _warn_of_one_source(of_one_source, root, console)
            videos = _taken_apart(videos, of_one_source)
        num_folds = num_folds_for(videos, options.num_folds)
        experiments = _experiments(root, options, videos, 1 - 1 / num_folds)
        total = num_folds * options.num_seeds * len(experiments)
        task = progress.add_task(f"choosing a head by {num_folds} folds", total=total)
        choice = cross_validate(
            experiments,
            labels,
            videos,
            num_folds,
            options.num_seeds,
            lambda: progress.advance(task),
            processes_for(total, options.num_processes),
        )
    experiment = _experiments(root, options, videos, 1.0)[choice.best]
    best = choice.held_out[choice.best]
    calibration = fit_calibration(best.logits, best.truth)
    model = ModelFile(
        fit_head(experiment, labels, videos).recognizer.eval(),
        labels,
        experiment.sampling,
        experiment.transform,
        experiment.decode,
        provenance_of(experiment) | {"num_training_videos": len(videos), "chosen": choice.best},
        _metrics(choice, calibration, is_expectation_known=not of_one_source),
        calibration,
        KnownVideos(contents.known(video.row for video in videos)),
    )
    save_model(Path(options.output), model)
    if not options.quiet:
        _print(choice, model, len(videos), time.perf_counter() - start, console)
        console.print(f"written: {options.output}")
    return _Learned(model, choice, tuple(bad), of_one_source)


def _rows_of(root: Path) -> tuple[tuple[str, ...], list[VideoRow], tuple[str, ...]]:
    """Labels, videos and notes; of a folder with train/ and test/, what is not for testing."""
    annotations = read_folder(root)
    rows = [row for name, part in annotations.splits.items() if name != "test" for row in part]
    if len(annotations.labels) < 2:
        raise UserError(
            f"{root} has one class only, {', '.join(annotations.labels)}; a model tells classes apart: make a folder "
            "for each, for example one called background with videos in which nothing happens"
        )
    return annotations.labels, rows, annotations.notes


def _report_bad(bad: Sequence[BadVideo], console: PlainConsole) -> None:
    for video in bad:
        console.print(f"left out: {video.path}: {video.stage}: {video.cause}", style="red")


def _require_enough(videos: Sequence[VideoFeatures], labels: Sequence[str]) -> None:
    counts = Counter(video.row.label for video in videos)
    short = [f"{label} ({counts[label]})" for label in labels if counts[label] < 2]
    if short:
        raise UserError(
            f"every class needs 2 videos that can be read, better 10; too few of {', '.join(short)}. Add videos, or "
            "take the folder out"
        )


def _warn_of_one_source(labels: Sequence[str], root: Path, console: PlainConsole) -> None:
    console.print(
        f"all videos of {', '.join(labels)} are cut from one recording a class, by their names (..._g01_c02) or "
        "groups.csv. No recording can be held out of such a class; its videos are, one by one, so the figures flatter, "
        "and nobody knows what to expect of new recordings. Better record it again, at another time and place. If each "
        f"video is a recording of its own, write so into {root / 'groups.csv'}, with -1 as the source of each",
        style="yellow",
    )


def _taken_apart(videos: Sequence[VideoFeatures], labels: Sequence[str]) -> list[VideoFeatures]:
    """The same, but each video of these classes counts as a source of its own."""
    return [
        replace(video, row=replace(video.row, group=video.row.name)) if video.row.label in labels else video
        for video in videos
    ]


def _experiments(
    root: Path, options: LearnOptions, videos: Sequence[VideoFeatures], share: float
) -> dict[str, Experiment]:
    """The candidates, for trainings on that share of the videos. A clip is as long as most videos, within limits."""
    lengths = sorted(len(video.maps["rgb"]) for video in videos)
    num_frames = min(max(lengths[len(lengths) // 2], MIN_FRAMES), MAX_FRAMES)
    shared = shared_experiment(str(root), options, num_frames, int(share * len(videos)))
    return {name: build(shared) for name, build in CANDIDATES.items()}


def _metrics(choice: Choice, calibration: Calibration, is_expectation_known: bool) -> dict[str, float]:
    """Accuracy to expect on new videos, where that is known, and the calibration error of the held-out clips."""
    best = choice.held_out[choice.best]
    errors = {
        name: reliability(reading.probabilities(best.logits), best.truth).expected_error
        for name, reading in {"calibration_error_before": UNCALIBRATED, "calibration_error": calibration}.items()
    }
    if not is_expectation_known:
        return errors
    accuracy, low, high = choice.expected_accuracy()
    return {"expected_accuracy": accuracy, "expected_accuracy_low": low, "expected_accuracy_high": high} | errors


def _print(choice: Choice, model: ModelFile, num_videos: int, seconds: float, console: PlainConsole) -> None:
    table = Table("head", "held-out videos right", "loss")
    for name, found in choice.held_out.items():
        style = "bold" if name == choice.best else None
        table.add_row(name, f"{found.right.mean():.1%}", f"{found.loss.mean():.3f}", style=style)
    console.print(table, soft_wrap=False)
    trained = f"{choice.best}, trained on all {num_videos} videos in {seconds:.0f} s"
    console.print(f"{trained}; {_expectation(model.metrics)}")


def _expectation(metrics: Mapping[str, float]) -> str:
    """In words."""
    if "expected_accuracy" not in metrics:
        return "how often it is right on new recordings is not known"
    accuracy, low, high = (metrics[f"expected_accuracy{end}"] for end in ("", "_low", "_high"))
    return f"on new ones like these expect {accuracy:.0%} right (95 % interval {low:.0%} to {high:.0%})"
