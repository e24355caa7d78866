"""The formats of labelled stretches by name, and telling them by their content."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets.timelines.json_files import (
    read_activitynet,
    read_predicted_json,
    read_predicted_lines,
    read_segments,
)
from pipeline.datasets.timelines.tables import read_epic, read_manifest_spans, read_predicted_rows
from pipeline.datasets.timelines.text_files import MS_TCN_HEADING, read_ms_tcn, read_thumos
from pipeline.errors import UserError, unknown_name
from pipeline.timeline.labelled import LabelledVideo

_HEAD_BYTES = 65_536


def _read_predicted(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read what ``clipgru predict`` writes with ``--json``, ``--jsonl`` or ``--csv``; ``split`` does nothing.

    Raises:
        UserError: the file is none of these, or malformed.
    """
    head = _head(path)
    if '"event"' in head.partition("\n")[0]:
        return read_predicted_lines(path)
    return read_predicted_json(path) if head.startswith(("{", "[")) else read_predicted_rows(path)


@dataclass(frozen=True)
class TimelineFormat:
    """A way to write down labelled stretches."""

    read: Callable[[Path, str | None], list[LabelledVideo]]
    """Reads a file or folder; a split takes a part of it. Raises ``UserError``."""
    suffixes: tuple[str, ...] = ()
    """Of its files; none: it is a folder."""


TIMELINE_FORMATS: dict[str, TimelineFormat] = {
    "activitynet": TimelineFormat(read_activitynet, (".json",)),
    "epic": TimelineFormat(read_epic, (".csv",)),
    "manifest": TimelineFormat(read_manifest_spans, (".csv", ".jsonl", ".ndjson", ".json")),
    "ms_tcn": TimelineFormat(read_ms_tcn),
    "predict": TimelineFormat(_read_predicted, (".json", ".jsonl", ".csv")),
    "segments": TimelineFormat(read_segments, (".json",)),
    "thumos": TimelineFormat(read_thumos),
}
"""By name; data/README.md shows each."""


def read_timelines(path: Path, format: str | None = None, split: str | None = None) -> list[LabelledVideo]:
    """Return the labelled videos of a file or folder.

    Args:
        path: the file or folder.
        format: a key of ``TIMELINE_FORMATS``; None: told by the content.
        split: part of the data to take, where the format has parts.

    Raises:
        UserError: nothing is there, the format is unknown or not to be told, or what the reader finds wrong.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    name = format or _format_of(path)
    if name not in TIMELINE_FORMATS:
        raise unknown_name("timeline format", name, TIMELINE_FORMATS)
    if path.is_dir() and TIMELINE_FORMATS[name].suffixes:
        raise UserError(f"{path} is a folder, and {name} is a file: name the file")
    return TIMELINE_FORMATS[name].read(path, split)


def _format_of(path: Path) -> str:
    """The format that the content of a file or folder shows."""
    found = _format_of_folder(path) if path.is_dir() else format_of_file(path)
    if found is None:
        raise UserError(
            f"{path}: its content does not tell its format; say it with --format (one of {', '.join(TIMELINE_FORMATS)})"
        )
    return found


def _format_of_folder(folder: Path) -> str | None:
    if (folder / "groundTruth").is_dir():
        return "ms_tcn"
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    found = {format_of_file(path) for path in files if path.suffix in (".txt", "") and path.stem != "README"}
    return found.pop() if len(found) == 1 else None


def format_of_file(path: Path) -> str | None:
    """Return the format that a file's content shows; None if it shows none."""
    head = _head(path)
    first = head.partition("\n")[0].strip()
    if path.suffix == ".bundle" or first == MS_TCN_HEADING:
        return "ms_tcn"
    if head.startswith("{"):
        return _format_of_json(path, first)
    if path.suffix.lower() in (".txt", ""):
        return _format_of_text(path, first)
    columns = {word.strip(' "').lower() for separator in ",;\t" for word in first.split(separator)}
    if {"path", "kind"} <= columns:
        return "predict"
    if "start_timestamp" in columns:
        return "epic"
    return "manifest" if {"path", "label"} <= columns else None


def _format_of_text(path: Path, first: str) -> str | None:
    words = first.split()
    if len(words) in (3, 4) and all(_is_number(word) for word in words[1:]):
        return "thumos"
    return "ms_tcn" if path.suffix == ".txt" and len(words) <= 1 else None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _format_of_json(path: Path, first: str) -> str | None:
    """The format of the first line, or else of the whole."""
    for text in (first, None):
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig") if text is None else text)
        except (ValueError, RecursionError):
            continue
        return _format_of_keys(content)
    return None


def _format_of_keys(content: Mapping[str, Any]) -> str | None:
    for format, keys in {"predict": {"event", "videos"}, "activitynet": {"database", "results"}}.items():
        if keys & content.keys():
            return format
    if "path" in content:
        return "manifest"
    values = content.values()
    is_by_video = all(isinstance(value, list) or (isinstance(value, dict) and "segments" in value) for value in values)
    return "segments" if content and is_by_video else None


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES).decode("utf-8-sig", "replace").lstrip()
