"""The card of a model on the hub: README.md with the front matter that the hub reads.

It says what the model file and the run folder beside it hold. What they do not hold, it says is not known.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from pipeline.checkpoint import ModelFile
from pipeline.hub import DIGEST_FILE, MODEL_FILE, HubModel
from pipeline.run_report.records import EvaluationRecord, RunRecord, TimelineRecord, as_written, read_run
from pipeline.version import __version__

_MAX_LABELS = 100
_FIGURES = {
    "top1": "accuracy",
    "val_accuracy": "accuracy",
    "expected_accuracy": "accuracy to expect, cross-validated",
    "val_f1_25": "F1@25",
    "f1_25_by_video": "F1@25",
    "f1_50_by_video": "F1@50",
    "edit": "edit",
    "frame_accuracy": "frame accuracy",
}
_SPLITS = {
    "test": "test videos",
    "val": "held-out videos that chose the model: it flatters",
    "train": "training videos: says nothing of others",
    "all": "videos of other data, all of it",
    "folds": "the folds of a protocol, each by a model of its own with these settings",
    "evaluation": "videos given to clipgru evaluate",
}
_OTHER_DATA = ("--data.root", "--data.annotations", "--data.format", "--config")


@dataclass(frozen=True)
class ModelCard:
    """Text of a model card, and notes on what it leaves out."""

    text: str
    notes: tuple[str, ...]


def make_card(path: Path, file: ModelFile, target: HubModel, sha256: str, licence: str | None) -> ModelCard:
    """Return the card of a model file.

    Args:
        path: where it is; of one called ``model.safetensors`` the folder is looked at for what a run left.
        file: its content.
        target: the repository.
        sha256: hex digest of its bytes.
        licence: an identifier of the hub's; None: none is stated.

    Raises:
        UserError: a file of the run is not as clipgru writes it.
    """
    run = read_run(path.parent) if path.name == MODEL_FILE else RunRecord(path.parent)
    notes: list[str] = []
    with as_written(path.parent):
        text = _text(path, file, run, notes, target, sha256, licence)
    return ModelCard(text, tuple(notes))


def _text(
    path: Path, file: ModelFile, run: RunRecord, notes: list[str], target: HubModel, sha256: str, licence: str | None
) -> str:
    front = {
        "library_name": "clipgru",
        "pipeline_tag": "video-classification",
        "tags": ["video", "action-recognition", "clipgru", f"task-{file.task}"],
        **({"license": licence} if licence else {}),
    }
    version = _plain(file.provenance.get("clipgru", "unknown"))
    parts = {
        "Use": _use(target),
        "Data": _data(file, run),
        "Figures": _figures(path, file, run, notes),
        "Does it use time?": _time(path, file, run, notes),
        "Limits": _limits(file),
        "Licence": _licence(licence),
        "File": [
            f"`{MODEL_FILE}`, made by clipgru {version}, pushed by {__version__}. Its SHA-256 is `{sha256}`, as "
            f"`{DIGEST_FILE}` has it, and is compared at each opening."
        ],
    }
    lines = [f"# {_plain(target.name)}", "", *_about(file)]
    for title, content in parts.items():
        lines += ["", f"## {title}", "", *content]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _plain(text: object) -> str:
    """A text from a file, on one line, that is no markup."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$-])", r"\\\1", " ".join(str(text).split()))


def _about(file: ModelFile) -> list[str]:
    sampling, size_px = file.sampling, file.transform.input_size_px
    if file.task == "clip":
        answers = f"answers once for a clip of {sampling.num_frames} frames, {sampling.sample_fps:g} a second"
    else:
        late = file.sequence.delay_frames / sampling.sample_fps
        many = "any number of labels" if file.may_overlap else "one label"
        answers = f"gives {many} at each moment of a long video, {sampling.sample_fps:g} a second"
        answers += f", {late:.1f} s late" if late else ""
    shown = [_plain(label) for label in file.labels[:_MAX_LABELS]]
    more = len(file.labels) - len(shown)
    config = file.recognizer.config
    return [
        f"A model of actions in video, for clipgru. It {answers}; pictures are {size_px} px a side.",
        "",
        f"Labels ({len(file.labels)}): {', '.join(shown)}" + (f" and {more} more" if more else "") + ".",
        "",
        f"Backbone {_plain(config.backbone)} (weights it began with: {_plain(Path(config.weights).name)}), heads "
        f"{_plain(', '.join(config.heads))}, {sum(p.numel() for p in file.recognizer.parameters()):,} parameters.",
    ]


def _use(target: HubModel) -> list[str]:
    return [
        "    pip install 'clipgru[hub]'",
        f"    clipgru predict {target} video.mp4",
        "",
        f'or in Python `from pipeline import load_model` and `load_model("{target}")`. An address with `@` and a '
        "commit names these very bytes.",
    ]


def _data(file: ModelFile, run: RunRecord) -> list[str]:
    experiment = file.provenance.get("experiment") or {}
    data = experiment.get("data", {})
    lines = []
    if data:
        root = re.split(r"[/\\]", str(data.get("root", "")).rstrip("/\\"))[-1]
        lines.append(f"- `data.format` {_plain(data.get('format'))}, folder {_plain(root) or 'not named'}")
        splits = ", ".join(
            f"`data.{name}` {_plain(data.get(name))}" for name in ("split", "val_fraction", "test_fraction")
        )
        lines.append(
            f"- protocol: one split, that of the data set or else by groups of one source: {splits}, seed "
            f"{_plain(experiment.get('seed'))}"
        )
    if number := file.provenance.get("num_training_videos"):
        lines.append(f"- learned from {number:,} {'labelled stretches' if file.task == 'timeline' else 'videos'}")
    for split, content in run.data.get("splits", {}).items():
        counts, sources = content["class_counts"], content["num_sources"]
        lines.append(f"- {_plain(split)}: {sum(counts.values()):,} in {len(counts)} classes, from {sources:,} sources")
    if file.videos is not None:
        lines.append(
            "- the file lists the videos that it has seen, by name and digest; `clipgru evaluate` leaves them out"
        )
    return lines or ["Not known: the model file does not say."]


def _figures(path: Path, file: ModelFile, run: RunRecord, notes: list[str]) -> list[str]:
    rows = list(_rows(_SPLITS["val"], file.metrics))
    records: list[EvaluationRecord | TimelineRecord] = [*run.evaluations, *run.timelines]
    for record in records:
        if _is_of_this_file(record.folder / "summary.json", path, notes):
            other = ", of other data than it was trained with" if _was_of_other_data(run, record.name) else ""
            rows += _rows(_SPLITS[record.name] + other, record.summary)
    if not rows:
        return ["None came with the model: how good it is, is not known."]
    head = ["| judged on | figure | value | 95 % interval | videos |", "|---|---|---|---|---|"]
    return (
        head + rows + ["", "Unreadable videos count as wrong. The intervals are of these videos, not of other places."]
    )


def _rows(where: str, figures: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the table, of the figures that have a name for people."""
    intervals = figures.get("interval_95", {})
    for name, title in _FIGURES.items():
        value = figures.get(name)
        if _is_number(value):
            low, high = intervals.get(name, (figures.get(f"{name}_low"), figures.get(f"{name}_high")))
            known = f"{100 * low:.1f} to {100 * high:.1f} %" if _is_number(low) and _is_number(high) else "not known"
            yield f"| {where} | {title} | {100 * value:.1f} % | {known} | {figures.get('num_videos', '')} |"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_of_this_file(record: Path, model: Path, notes: list[str]) -> bool:
    """True if a record is not older than the model file, and so not of one that was there before."""
    if record.exists() and record.stat().st_mtime >= model.stat().st_mtime:
        return True
    notes.append(f"{record} is older than the model file, and left out; make it anew, and push again")
    return False


def _was_of_other_data(run: RunRecord, split: str) -> bool:
    """True if the last evaluation of that part was given data; the journal has its words."""
    for line in reversed(run.commands):
        words = shlex.split(str(line.get("command", "")))
        if words[:2] == ["clipgru", "evaluate"] and line.get("outcome") == "done":
            given = dict(zip(words, [*words[1:], ""], strict=True))
            if given.get("--split", "test") == split:
                return any(word.split("=")[0] in _OTHER_DATA for word in words)
    return False


def _time(path: Path, file: ModelFile, run: RunRecord, notes: list[str]) -> list[str]:
    place = run.diagnosis_file
    said = run.diagnosis
    if not said or place is None or not _is_of_this_file(place, path, notes):
        how = "tells" if file.task == "clip" else "knows models of clips alone"
        return [f"Not known: nobody measured it (`clipgru diagnose` {how})."]
    answer = (
        "Yes: the order of frames helps it, beyond chance" if said["uses_time"] else "No use of their order was found"
    )
    shares = [
        f"- {order}: {100 * share['accuracy']:.1f} % right ({100 * share['low']:.1f} to {100 * share['high']:.1f})"
        for order, share in said["accuracy_by_order"].items()
    ]
    return [f"{answer}, in {said['num_videos']} videos with their frames", "", *shares]


def _limits(file: ModelFile) -> list[str]:
    step_seconds, size_px = 1 / file.sampling.sample_fps, file.transform.input_size_px
    knows_unknown = file.calibration.unknown_threshold is not None
    return [
        "- It knows its labels alone. What is none of them "
        + ("it may call unknown, not always." if knows_unknown else "gets one of them all the same."),
        f"- It does not see what passes between pictures {step_seconds:.2g} s apart, or is small for {size_px} px.",
        "- It does not say where in the picture something happens.",
        "- With other cameras, places and people its figures may be others: judge it on your own videos first.",
    ]


def _licence(licence: str | None) -> list[str]:
    if licence:
        return [f"`{licence}`, as the publisher states."]
    return ["The publisher states none. The weights it began with and its videos may have terms of their own."]
