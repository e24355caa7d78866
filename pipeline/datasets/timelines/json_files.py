"""Labelled stretches as JSON: ActivityNet's files, and what ``clipgru predict`` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.annotations import read_lines
from pipeline.datasets.delimited import composed
from pipeline.datasets.parts import part_of
from pipeline.datasets.timelines.frames import ClockOf
from pipeline.datasets.timelines.spans import (
    as_mapping,
    is_of_split,
    join_spans,
    read_number,
    read_outer_json,
    read_span,
)
from pipeline.errors import UserError
from pipeline.schema import read_json, to_json
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo, Span


def read_activitynet(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read ActivityNet JSON: the truth under ``database`` (``annotations``, ``duration``, ``subset``) or predictions
    under ``results``. A label may be called ``action``, as EPIC-KITCHENS' detections have it. Other keys are left
    alone.

    Raises:
        UserError: the file is not of that form; names the file and the key.
    """
    content = as_mapping(read_outer_json(path), str(path), "one object")
    if "database" in content:
        return list(_database(as_mapping(content["database"], f"{path}: database", "videos by name"), path, split))
    if "results" in content:
        results = as_mapping(content["results"], f"{path}: results", "videos by name")
        return [
            LabelledVideo(composed(name), _segments(items, f"{path}: results.{name}", needs_score=True))
            for name, items in results.items()
        ]
    raise UserError(f"{path}: neither database nor results, one of which ActivityNet's files have")


def _database(videos: Mapping[str, Any], path: Path, split: str | None) -> Iterator[LabelledVideo]:
    for name, value in videos.items():
        where = f"{path}: database.{name}"
        video = as_mapping(value, where, "an object")
        if is_of_split(split, str(video.get("subset", ""))):
            duration = video.get("duration")
            seconds = None if duration is None else read_number(where, "duration", duration)
            spans = _segments(video.get("annotations", []), f"{where}.annotations", needs_score=False)
            yield LabelledVideo(composed(name), spans, seconds, split=str(video.get("subset", "")))


def _segments(items: object, where: str, *, needs_score: bool) -> tuple[LabelledSpan, ...]:
    if not isinstance(items, list):
        raise UserError(f"{where}: must be a list of segments")
    return tuple(_segment(item, f"{where}[{index}]", needs_score) for index, item in enumerate(items))


def _segment(item: object, where: str, needs_score: bool) -> LabelledSpan:
    values = as_mapping(item, where, "an object with segment and label")
    times = values.get("segment")
    if not isinstance(times, list) or len(times) != 2:
        raise UserError(f"{where}: segment must be [start, end] in seconds")
    score = values.get("score", "" if needs_score else 1.0)
    start, end = times
    return read_span(where, start, end, values.get("label", values.get("action")), score)


_SUBSETS = {"train": "training", "val": "validation", "test": "testing"}


def write_activitynet(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write ActivityNet JSON: the truth, or predictions where there are scores."""
    if any(span.score != 1 for video in videos for span in video.spans):
        results = {video.name: [_segment_of(span) | {"score": span.score} for span in video.spans] for video in videos}
        content: dict[str, Any] = {"version": "VERSION 1.3", "results": results, "external_data": {}}
    else:
        database = {video.name: _database_entry(video) for video in videos}
        content = {"version": "VERSION 1.3", "database": database, "taxonomy": []}
    return {"": to_json(content, indent=1, ensure_ascii=False) + "\n"}


def _segment_of(span: Span) -> dict[str, Any]:
    return {"segment": [span.start_seconds, span.end_seconds], "label": span.label}


def _database_entry(video: LabelledVideo) -> dict[str, Any]:
    duration = {} if video.duration_seconds is None else {"duration": video.duration_seconds}
    subset = {"subset": _SUBSETS.get(part_of(video.split) or "", video.split)} if video.split else {}
    return duration | subset | {"annotations": [_segment_of(span) for span in video.spans]}


def read_segments(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read JSON of segments by video, as the motion set's truth: ``{"a.mp4": [{"start_seconds", "end_seconds", "label",
    "score"}, ...]}``, or ``{"a.mp4": {"duration_seconds", "segments": [...]}}``. ``split`` does nothing.

    Raises:
        UserError: the file is not of that form; names the file and the key.
    """
    content = as_mapping(read_outer_json(path), str(path), "videos by name")
    return [_video(name, value, f"{path}: {name}") for name, value in content.items()]


def _video(name: str, value: object, where: str) -> LabelledVideo:
    video: Mapping[str, Any] = (
        {"segments": value} if isinstance(value, list) else as_mapping(value, where, "a list, or")
    )
    items, duration = video.get("segments"), video.get("duration_seconds")
    if not isinstance(items, list):
        raise UserError(f"{where}: needs a list of segments")
    spans = tuple(
        _span({"score": 1.0} | dict(as_mapping(each, where, "segments")), f"{where}[{k}]")
        for k, each in enumerate(items)
    )
    seconds = None if duration is None else read_number(where, "duration_seconds", duration)
    return LabelledVideo(composed(name), spans, seconds)


def write_segments(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write JSON of segments by video, with its duration where that is known."""
    content: dict[str, Any] = {}
    for video in videos:
        names = ("start_seconds", "end_seconds", "label", "score")
        segments = [{name: getattr(span, name) for name in names} for span in video.spans]
        about = {"duration_seconds": video.duration_seconds, "segments": segments}
        content[video.name] = segments if video.duration_seconds is None else about
    return {"": to_json(content, indent=1, ensure_ascii=False) + "\n"}


def read_predicted_json(path: Path) -> list[LabelledVideo]:
    """Read what ``clipgru predict --json`` writes: the segments of each video, and its duration. Videos that could not
    be opened, which have none, are passed over.

    Raises:
        UserError: the file is not of that form; names the file and the key.
    """
    content = as_mapping(read_outer_json(path), str(path), "one object")
    videos = content.get("videos")
    if not isinstance(videos, list):
        raise UserError(f"{path}: no list of videos, which clipgru predict --json writes")
    found = [_predicted_video(video, f"{path}: videos[{index}]") for index, video in enumerate(videos)]
    return [video for video in found if video.duration_seconds]


def _predicted_video(item: object, where: str) -> LabelledVideo:
    video = as_mapping(item, where, "an object")
    segments = video.get("segments")
    if not isinstance(segments, list) or not isinstance(video.get("path"), str):
        raise UserError(f"{where}: needs path and segments, as clipgru predict --json writes them")
    spans = tuple(_span(each, f"{where}.segments[{index}]") for index, each in enumerate(segments))
    seconds = read_number(where, "duration_seconds", video.get("duration_seconds", 0))
    return LabelledVideo(composed(video["path"]), spans, seconds or None)


def _span(item: object, where: str) -> LabelledSpan:
    values = as_mapping(item, where, "an object")
    return read_span(where, *(values.get(key, "") for key in ("start_seconds", "end_seconds", "label", "score")))


def read_predicted_lines(path: Path) -> list[LabelledVideo]:
    """Read what ``clipgru predict --jsonl`` writes, an event a line; windows are passed over, and videos that could not
    be opened.

    Raises:
        UserError: a malformed line, named ``file:line``.
    """
    rows: list[tuple[str, LabelledSpan | None]] = []
    durations: dict[str, float] = {}
    for place, line in read_lines(path):
        event = as_mapping(read_json(line, place), place, "one object")
        if "event" not in event:
            raise UserError(f"{place}: no event, which each line of clipgru predict --jsonl has")
        name = composed(str(event.get("path", "")))
        if event["event"] == "segment":
            rows.append((name, _span(event, place)))
        elif event["event"] == "video" and event.get("duration_seconds"):
            rows.append((name, None))
            durations[name] = read_number(place, "duration_seconds", event["duration_seconds"])
    return join_spans(rows, durations)
