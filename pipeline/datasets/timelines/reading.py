"""Reading labelled stretches in any format, which the content tells if it is not said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.datasets.tables import manifest_in
from pipeline.datasets.timelines.ethograms import VTRACE_COLUMNS
from pipeline.datasets.timelines.formats import TIMELINE_FORMATS
from pipeline.datasets.timelines.json_datasets import CREATEML_KEYS
from pipeline.datasets.timelines.spans import head_of, read_outer_json
from pipeline.datasets.timelines.text_files import MS_TCN_HEADING
from pipeline.datasets.timelines.via import VIA_HEADER
from pipeline.datasets.timelines.xml_files import XML_ROOTS
from pipeline.errors import UserError, unknown_name
from pipeline.timeline.labelled import LabelledVideo

_HEAD_LINES = 40


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
    if not (path.is_file() or path.is_dir()):  # it is looked at before it is read
        raise UserError(f"{path}: a pipe or a device, which cannot be read twice; save it as a file and name that")
    if format in (None, "manifest"):  # a folder as clipgru label leaves it
        path = manifest_in(path) or path
    name = format or _format_of(path)
    if name not in TIMELINE_FORMATS:
        raise unknown_name("timeline format", name, TIMELINE_FORMATS)
    found = TIMELINE_FORMATS[name]
    if not path.is_dir() or not found.suffixes:
        return found.read(path, split)
    if not found.is_per_video:
        raise UserError(f"{path} is a folder, and {name} is a file: name the file")
    return [video for file in _files_of(path, name) for video in _read_named(file, path, name, split)]


def _files_of(folder: Path, name: str) -> list[Path]:
    """The files of a format with a file a video, in a folder and below."""
    suffixes = TIMELINE_FORMATS[name].suffixes
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()]
    found = [path for path in files if format_of_file(path) == name]
    if not found:
        raise UserError(f"{folder}: no file of the format {name}, whose names end in {' or '.join(suffixes)}")
    return found


def _read_named(file: Path, folder: Path, name: str, split: str | None) -> list[LabelledVideo]:
    """The video of a file; one that has its name from the file has also the folders that lead there."""
    below = file.relative_to(folder).parent
    videos = TIMELINE_FORMATS[name].read(file, split)
    return [
        replace(video, name=(below / video.name).as_posix()) if file.stem.startswith(video.name) else video
        for video in videos
    ]


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
    if (folder / "labels.json").is_file():
        return "fiftyone"
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    texts = [path for path in files if path.suffix in (".txt", "") and path.stem != "README"]
    found = {format_of_file(path) for path in texts} or {
        name
        for path in files
        if (name := _told_by_suffix(path) or format_of_file(path)) and TIMELINE_FORMATS[name].is_per_video
    }
    return found.pop() if len(found) == 1 else None


def _told_by_suffix(path: Path) -> str | None:
    return {".boris": "boris", ".eaf": "elan", ".srt": "srt", ".vtt": "vtt"}.get(path.suffix.lower())


def format_of_file(path: Path) -> str | None:
    """Return the format that a file's content shows; None if it shows none."""
    if told := _told_by_suffix(path):
        return told
    head = head_of(path)
    first = head.partition("\n")[0].strip()
    if path.suffix == ".bundle" or first == MS_TCN_HEADING:
        return "ms_tcn"
    if head.startswith(("{", "[")):
        return _format_of_json(path, first)
    if path.suffix.lower() == ".xml":
        return next((name for root, name in XML_ROOTS.items() if f"<{root}" in head), None)
    if path.suffix.lower() in (".txt", ""):
        return _format_of_text(path, first)
    return _format_of_table(head)


def other_format_of(path: Path) -> str | None:
    """Return the format of a file of labelled stretches that is no manifest; None of any other file."""
    suffixes = {suffix for found in TIMELINE_FORMATS.values() for suffix in found.suffixes}
    found = format_of_file(path) if path.suffix.lower() in suffixes and path.is_file() else None
    return None if found == "manifest" else found


_TABLES: dict[str, frozenset[str]] = {
    "predict": frozenset({"path", "kind"}),
    "epic": frozenset({"video_id", "start_timestamp"}),
    "manifest": frozenset({"path", "label"}),
    "vtrace": frozenset(VTRACE_COLUMNS),
    "boris": frozenset({"subject", "behavior"}),
}
"""Format -> columns of its header, which may stand after other lines."""


def _format_of_table(head: str) -> str | None:
    if VIA_HEADER in head:
        return "via"
    lines = [line.strip() for line in head.splitlines() if line.strip()]
    for line in lines[:_HEAD_LINES]:
        columns = {word.strip(' "').lower() for separator in ",;\t" for word in line.split(separator)}
        for name, wanted in _TABLES.items():
            if wanted <= columns:
                return name
    first = lines[0].split(",") if lines else []
    values = lines[1].split(",")[1:] if len(lines) > 1 else []
    is_ethogram = len(first) > 1 and first[0].strip() == "" and {value.strip() for value in values} <= {"0", "1", "-1"}
    return "deepethogram" if is_ethogram and values else None


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
    for is_whole in (False, True):
        try:
            content = read_outer_json(path) if is_whole else json.loads(first)
        except (ValueError, RecursionError, UserError):
            continue
        if isinstance(content, list):
            return _format_of_list(content)
        if isinstance(content, dict) and (found := _format_of_keys(content)):
            return found
    return None


def _format_of_list(content: Sequence[Any]) -> str | None:
    items = [item for item in content if isinstance(item, dict)]
    if not items or len(items) < len(content):
        return None
    if any({"annotations", "predictions"} & item.keys() for item in items):
        return "label_studio"
    return "createml" if all({*CREATEML_KEYS["video"]} & item.keys() for item in items) else None


_KEYS: dict[str, frozenset[str]] = {
    "boris": frozenset({"observations", "behaviors_conf"}),
    "via": frozenset({"attribute", "metadata", "view"}),
    "fiftyone": frozenset({"classes", "labels"}),
    "label_studio": frozenset({"data", "annotations"}),
}


def _format_of_keys(content: Mapping[str, Any]) -> str | None:
    for name, wanted in _KEYS.items():
        if wanted <= content.keys():
            return name
    for name, keys in {"predict": {"event", "videos"}, "activitynet": {"database", "results"}}.items():
        if keys & content.keys():
            return name
    if "path" in content:
        return "manifest"
    values = content.values()
    is_by_video = all(isinstance(value, list) or (isinstance(value, dict) and "segments" in value) for value in values)
    return "segments" if content and is_by_video else None
