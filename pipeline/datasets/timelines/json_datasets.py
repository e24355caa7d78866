"""Labelled stretches as JSON of other tools: FiftyOne's temporal detections, and Create ML's annotated videos.

Sources: docs.voxel51.com, FiftyOneTemporalDetectionDataset; developer.apple.com, "Building an Action Classifier Data
Source" (a list of objects with a video, a label, and perhaps a start and an end in seconds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.delimited import composed
from pipeline.datasets.timelines.frames import ClockOf, PathOf
from pipeline.datasets.timelines.names import flat_names
from pipeline.datasets.timelines.spans import as_list, as_mapping, join_spans, read_number, read_outer_json, read_span
from pipeline.errors import UserError
from pipeline.schema import to_json
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

_LABELS_FILE, _PATHS_FILE = "labels.json", "data.json"
CREATEML_KEYS: dict[str, tuple[str, ...]] = {
    "video": ("videoPath", "video", "file", "fileName", "filename", "file_name", "path"),
    "label": ("label", "annotation"),
    "start": ("startTime", "start", "start_time"),
    "end": ("endTime", "end", "end_time"),
}
"""Names that a column may have, the first as Create ML calls it by itself."""


def read_fiftyone(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read a FiftyOneTemporalDetectionDataset: its folder or ``labels.json``. A detection has ``timestamps`` in
    seconds, or ``support``, its first and last frame, counted from 1. ``split`` does nothing.

    Raises:
        UserError: not such a file, or both kinds of times in one video; names the file and the key.
    """
    file = path / _LABELS_FILE if path.is_dir() else path
    content = as_mapping(read_outer_json(file), str(file), "an object")
    classes = content.get("classes") or []
    videos = as_mapping(content.get("labels", {}), f"{file}: labels", "videos by name")
    return [
        _detections(name, items, f"{file}: labels.{name}", as_list(classes, str(file)))
        for name, items in videos.items()
    ]


def _detections(name: str, items: object, where: str, classes: Sequence[object]) -> LabelledVideo:
    spans: list[LabelledSpan] = []
    kinds, left_out = set(), []
    for number, item in enumerate(as_list(items or [], where)):
        place = f"{where}[{number}]"
        values = as_mapping(item, place, "a detection")
        kind = "support" if "support" in values else "timestamps"
        start, end = as_list(values.get(kind), place, length=2)
        label = values.get("label")
        if isinstance(label, int) and 0 <= label < len(classes):
            label = str(classes[label])
        confidence = values.get("confidence")
        span = read_span(place, start, end, label, 1.0 if confidence is None else confidence)
        spans.append(
            span
            if kind == "timestamps"
            else LabelledSpan(span.start_seconds - 1, span.end_seconds, span.label, span.score)
        )
        kinds.add(kind)
        left_out += ["attributes"] if values.get("attributes") else []
    if len(kinds) > 1:
        raise UserError(f"{where}: some detections have support and others timestamps; give all one of them")
    return LabelledVideo(
        composed(name), tuple(spans), in_frames=kinds == {"support"}, left_out=tuple(dict.fromkeys(left_out))
    )


def write_fiftyone(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write the labels of a folder that ``fo.Dataset.from_dir`` reads."""
    classes = sorted({span.label for video in videos for span in video.spans})
    labels = {
        name: [
            {"label": classes.index(span.label), "timestamps": [span.start_seconds, span.end_seconds]}
            | ({} if span.score == 1 else {"confidence": span.score})
            for span in video.spans
        ]
        for name, video in flat_names(videos).items()
    }
    return {_LABELS_FILE: to_json({"classes": classes, "labels": labels}, indent=1, ensure_ascii=False) + "\n"}


def write_fiftyone_paths(videos: Sequence[LabelledVideo], path_of: PathOf) -> dict[str, str]:
    """Write where the videos are; of none that is at hand, nothing: they are to be put into ``data/``."""
    paths = {name: path_of(video) for name, video in flat_names(videos).items()}
    # FiftyOne takes what follows the last dot of a name away.
    found = {f"{name}{path.suffix or '.'}": str(path.resolve()) for name, path in paths.items() if path}
    return {_PATHS_FILE: to_json(found, indent=1, ensure_ascii=False) + "\n"} if found else {}


def read_createml(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read a list of annotated videos: ``[{"videoPath", "label", "startTime", "endTime"}, ...]``; other usual names of
    these are read too. ``split`` does nothing.

    Raises:
        UserError: not such a file, or an entry without times; names the file and the entry.
    """
    rows: list[tuple[str, LabelledSpan | None]] = []
    for number, item in enumerate(as_list(read_outer_json(path), str(path))):
        place = f"{path}: entry {number}"
        values = as_mapping(item, place, "an object")
        found = {name: _first(values, keys) for name, keys in CREATEML_KEYS.items()}
        if not found["video"]:
            raise UserError(f"{place}: names no video, as {' or '.join(CREATEML_KEYS['video'][:3])}")
        if found["end"] is None:
            raise UserError(f"{place}: has no {CREATEML_KEYS['end'][0]}; a stretch needs its end in seconds")
        start = 0.0 if found["start"] is None else read_number(place, "the start", found["start"])
        rows.append((composed(str(found["video"])), read_span(place, start, found["end"], found["label"])))
    return join_spans(rows)


def _first(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((values[key] for key in keys if key in values), None)


def write_createml(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write a list of annotated videos, an entry a stretch."""
    video_key, label_key, start_key, end_key = (keys[0] for keys in CREATEML_KEYS.values())
    entries = [
        {video_key: video.name, label_key: span.label, start_key: span.start_seconds, end_key: span.end_seconds}
        for video in videos
        for span in video.spans
    ]
    return {"": to_json(entries, indent=1, ensure_ascii=False) + "\n"}
