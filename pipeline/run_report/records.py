"""Contents of a run's folder: settings, curves, answers of evaluations, diagnosis, data, commands.

A run that was only evaluated, or only trained, leaves some of it; what is not there is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from pipeline.checkpoint import read_description
from pipeline.config import read_yaml
from pipeline.errors import UserError
from pipeline.run_report.journal import JOURNAL
from pipeline.schema import read_checked, read_json
from pipeline.timeline_results import TimelineEvaluation, load_timeline_evaluation

_Curve = tuple[tuple[float, float], ...]
"""(epochs since the start, value), in order."""

_VideoKey = tuple[str, str, float, float | None]
"""Name below the data's root, true label, and the labelled stretch."""

_CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_f1_25", "clips_per_second", "waiting_share")
"""Columns of the logs; of several values of an epoch the last one is the epoch's."""
_MAX_STEPS = 200


@dataclass(frozen=True)
class Answer:
    """A video, the truth and what the model said; scores are 0 to 1, None where the video could not be read."""

    name: str
    path: str
    label: str
    predicted: str | None
    score: float | None
    label_score: float | None
    error: str
    start_seconds: float
    end_seconds: float | None

    @property
    def right(self) -> bool:
        """An unreadable video is a wrong answer."""
        return self.predicted == self.label

    @property
    def key(self) -> _VideoKey:
        """By which two runs know the same video."""
        return self.name, self.label, self.start_seconds, self.end_seconds


def first_of_each(answers: Iterable[Answer]) -> dict[_VideoKey, Answer]:
    """The first answer to each video, in order: models of several seeds answer more than once."""
    firsts: dict[_VideoKey, Answer] = {}
    for answer in answers:
        firsts.setdefault(answer.key, answer)
    return firsts


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation: its name (the split's, or ``folds``), the model's labels, and an answer a video; several where a
    protocol has several seeds."""

    name: str
    labels: tuple[str, ...]
    answers: tuple[Answer, ...]
    summary: dict[str, Any]
    folder: Path

    @property
    def num_right(self) -> int:
        """Videos answered rightly."""
        return sum(answer.right for answer in self.answers)

    @property
    def read(self) -> list[Answer]:
        """Answers to videos that could be read."""
        return [answer for answer in self.answers if not answer.error]

    @cached_property
    def by_class(self) -> dict[str, list[Answer]]:
        """The answers to each class's videos; every label is there."""
        classes: dict[str, list[Answer]] = {label: [] for label in self.labels}
        for answer in self.answers:
            classes.setdefault(answer.label, []).append(answer)
        return classes


@dataclass(frozen=True)
class TimelineRecord:
    """One evaluation of a model of timelines: its name (the split's, or ``folds``), the answers, and the figures."""

    name: str
    evaluation: TimelineEvaluation
    summary: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class RunRecord:
    """All that a run left."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    settings_text: str = ""
    curves: dict[str, _Curve] = field(default_factory=dict)
    folds: dict[str, dict[str, _Curve]] = field(default_factory=dict)
    """Curves of each fold of a protocol."""
    evaluations: tuple[EvaluationRecord, ...] = ()
    timelines: tuple[TimelineRecord, ...] = ()
    diagnosis: dict[str, Any] = field(default_factory=dict)
    diagnosis_file: Path | None = None
    """The place of it, or where it would be."""
    data: dict[str, Any] = field(default_factory=dict)
    bad_videos: tuple[dict[str, str], ...] = ()
    """Rows of ``bad_videos.csv``: path, stage, cause, times."""
    commands: tuple[dict[str, Any], ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    """Description in the model file."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name


def unit_of(run: RunRecord) -> str:
    """Return the word for a row of the run's data, in the plural."""
    return "labelled stretches" if run.settings.get("task") == "timeline" else "videos"


def read_run(folder: Path) -> RunRecord:
    """Reads whatever a run left.

    Raises:
        UserError: the folder is not there or holds nothing of a run, or a file in it is not as clipgru writes it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a run's, such as runs/mine")
    with as_written(folder):
        run = _read(folder)
    if not (run.curves or run.folds or run.evaluations or run.timelines or run.diagnosis or run.model):
        raise UserError(
            f"{folder}: nothing of a run is there (logs_*, evaluation_*, model.safetensors); name the folder that "
            "clipgru train or evaluate wrote to"
        )
    return run


@contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """Raise errors from files that clipgru did not write like this as a ``UserError`` of one line."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UndefinedError) as error:
        raise UserError(
            f"{folder}: a file in it is not as clipgru writes it ({type(error).__name__}: {error}); "
            "evaluate the model again, or remove the file"
        ) from error


def _read(folder: Path) -> RunRecord:
    config, model = folder / "config.yaml", folder / "model.safetensors"
    settings_text = config.read_text(encoding="utf-8") if config.exists() else ""
    description = read_description(model) if model.exists() else {}
    diagnosis = folder / "diagnosis" / "diagnosis.json"
    diagnosis = diagnosis if diagnosis.exists() else folder / "diagnosis.json"
    folds = {_fold_name(path.parent): path.parent for path in sorted(folder.glob("model/seed_*/fold_*/config.yaml"))}
    first = next(iter(folds.values()), folder)
    return RunRecord(
        folder,
        settings=read_checked(dict[str, Any], read_yaml(settings_text, str(config)), str(config))
        or description.get("provenance", {}).get("experiment", {})
        or _json(folder / "protocol.json").get("experiment", {}),
        settings_text=settings_text,
        curves=read_curves(folder),
        folds={name: read_curves(path) for name, path in folds.items()},
        evaluations=tuple(_evaluation(name, place) for name, place in _places(folder, "videos.csv")),
        timelines=tuple(_timelines(name, place) for name, place in _places(folder, "timelines.json")),
        diagnosis=_json(diagnosis),
        diagnosis_file=diagnosis,
        data=_json(folder / "data.json") or _json(first / "data.json"),
        bad_videos=tuple(row for part in (folder, *folds.values()) for row in _rows(part / "bad_videos.csv")),
        commands=tuple(_json_lines(folder / JOURNAL)),
        model=description,
    )


def _fold_name(folder: Path) -> str:
    """``model/seed_0/fold_01`` -> ``seed 0, fold 1``"""
    seed, fold = (int(part.rpartition("_")[2]) for part in (folder.parent.name, folder.name))
    return f"seed {seed}, fold {fold}"


def read_curves(folder: Path) -> dict[str, _Curve]:
    """Curves in the CSV logs of a run, those of resumed parts together: by epoch, and the loss of each step in at most
    200 stretches as ``step_loss``."""
    logs = sorted(folder.glob("logs_*/metrics.csv"), key=lambda log: int(log.parent.name.removeprefix("logs_")))
    rows = [row for log in logs for row in _rows(log)]
    found: dict[str, _Curve] = {}
    for name in _CURVES:
        column = "train_loss_epoch" if name == "train_loss" else name
        points = {int(row["epoch"]) + 1: float(row[column]) for row in rows if row.get(column)}
        found |= {name: tuple(sorted(points.items()))} if points else {}
    steps = {int(row["step"]): float(row["train_loss_step"]) for row in rows if row.get("train_loss_step")}
    num_epochs = max((int(row["epoch"]) + 1 for row in rows), default=0)
    return found | ({"step_loss": _thinned(steps, num_epochs)} if steps else {})


def _thinned(steps: dict[int, float], num_epochs: int) -> _Curve:
    """Means over equal stretches of steps, at the stretches' ends in epochs. Steps count from 0."""
    num_steps = max(steps) + 1
    size = -(-num_steps // _MAX_STEPS)
    stretches: dict[int, list[float]] = {}
    for step, loss in steps.items():
        stretches.setdefault(step // size, []).append(loss)
    return tuple(
        (min((place + 1) * size, num_steps) * num_epochs / num_steps, sum(losses) / len(losses))
        for place, losses in sorted(stretches.items())
    )


def _places(folder: Path, file_name: str) -> list[tuple[str, Path]]:
    """Names and folders of the evaluations that left a file, test first; the folder itself may be an evaluation's
    (``clipgru evaluate --output``)."""
    places = {"evaluation": folder, "folds": folder / "evaluation"}
    places |= {split: folder / f"evaluation_{split}" for split in ("test", "val", "all", "train")}
    return [(name, place) for name, place in places.items() if (place / file_name).exists()]


def _timelines(name: str, folder: Path) -> TimelineRecord:
    evaluation = load_timeline_evaluation(folder / "timelines.json")
    return TimelineRecord(name, evaluation, _json(folder / "summary.json"), folder)


def _evaluation(name: str, folder: Path) -> EvaluationRecord:
    summary = _json(folder / "summary.json")
    answers = tuple(_answer(row) for row in _rows(folder / "videos.csv"))
    labels = tuple(summary.get("class_recall", ())) or tuple(sorted({answer.label for answer in answers}))
    return EvaluationRecord(name, labels, answers, summary, folder)


def _answer(row: dict[str, str]) -> Answer:
    texts: dict[str, Any] = {name: row[name] for name in ("name", "path", "label", "error")}
    scores: dict[str, Any] = {
        name: float(row[name]) if row[name] else None for name in ("score", "label_score", "end_seconds")
    }
    return Answer(**texts, predicted=row["predicted"] or None, start_seconds=float(row["start_seconds"]), **scores)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _json(path: Path) -> dict[str, Any]:
    return _mapping(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [_mapping(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _mapping(text: str, where: str) -> dict[str, Any]:
    return read_checked(dict[str, Any], read_json(text, where), where)
