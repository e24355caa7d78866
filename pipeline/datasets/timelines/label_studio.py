"""Label Studio's tasks (JSON): timeline labels and the objects that are followed in a video.

Source: the tags TimelineLabels and VideoRectangle (labelstud.io/tags/timelinelabels): frames are counted from 1, and
the last one is in the range. Labels of the sound of a video have seconds (labelstud.io/tags/audio).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.datasets.delimited import composed
from pipeline.datasets.timelines.frames import Clock, ClockOf
from pipeline.datasets.timelines.spans import as_list, as_mapping, read_number, read_outer_json, read_span
from pipeline.errors import UserError
from pipeline.schema import to_json
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo, Span

_TIMELINE, _OBJECT, _SOUND = "timelinelabels", "videorectangle", "labels"
_UPLOADED = re.compile(r"[0-9a-f]{8}-")


def read_label_studio(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read exported tasks: the first annotation of each that was not cancelled, or else its first prediction. Times are
    frames of the video, or seconds of its sound. ``split`` does nothing.

    Raises:
        UserError: not such a file; names the file and the task.
    """
    content = read_outer_json(path)
    tasks = content if isinstance(content, list) else [content]
    return [
        _task(as_mapping(task, f"{path}: task {number}", "a task"), f"{path}: task {number}")
        for number, task in enumerate(tasks)
    ]


def _task(task: Mapping[str, Any], where: str) -> LabelledVideo:
    left_out: list[str] = []
    annotations = [as_mapping(each, where, "an annotation") for each in as_list(task.get("annotations", []), where)]
    made = [each for each in annotations if not each.get("was_cancelled")]
    drafts = [as_mapping(each, where, "a prediction") for each in as_list(task.get("predictions", []), where)]
    left_out += ["annotations of further people"] if len(made) > 1 else []
    chosen = (made or drafts or [{}])[0]
    spans: dict[str, list[LabelledSpan]] = {"frames": [], "seconds": []}
    for number, item in enumerate(as_list(chosen.get("result", []), where)):
        place = f"{where}: result {number}"
        region = as_mapping(item, place, "a region")
        kind, value = region.get("type"), as_mapping(region.get("value", {}), place, "an object")
        labels = value.get(str(_TIMELINE)) or value.get("labels") or []
        times = list(_ranges(kind, value, place))
        left_out += ["boxes"] if kind == _OBJECT else []
        left_out += [] if times or kind in (_TIMELINE, _OBJECT) else ["other regions"]
        unit = "seconds" if kind == _SOUND else "frames"
        score = region.get("score") if chosen in drafts else None
        spans[unit] += [
            read_span(place, start, end, label, 1.0 if score is None else score)
            for label in as_list(labels, place)
            for start, end in times
        ]
    if all(spans.values()):
        raise UserError(f"{where}: some regions have frames and others seconds; export them as tasks of their own")
    found = (*spans["frames"], *spans["seconds"])
    in_frames = not spans["seconds"]
    return LabelledVideo(_name(task, where), found, in_frames=in_frames, left_out=tuple(dict.fromkeys(left_out)))


def _ranges(kind: object, value: Mapping[str, Any], place: str) -> Iterator[tuple[float, float]]:
    """Frames from 0, the end excluded; of a stretch of the video's sound seconds."""
    if kind == _SOUND and {"start", "end"} <= value.keys():
        yield read_number(place, "start", value["start"]), read_number(place, "end", value["end"])
    if kind == _TIMELINE:
        for item in as_list(value.get("ranges", []), place):
            ends = as_mapping(item, place, "a range")
            yield read_number(place, "start", ends.get("start")) - 1, read_number(place, "end", ends.get("end"))
    elif kind == _OBJECT:
        begun: float | None = None
        frames = [as_mapping(each, place, "a keyframe") for each in as_list(value.get("sequence", []), place)]
        for keyframe in sorted(frames, key=lambda each: read_number(place, "frame", each.get("frame"))):
            frame = read_number(place, "frame", keyframe["frame"])
            if begun is None and keyframe.get("enabled", True):
                begun = frame - 1
            elif begun is not None and not keyframe.get("enabled", True):
                yield begun, frame
                begun = None
        if begun is not None:
            yield begun, read_number(place, "framesCount", value.get("framesCount", frame))


def _name(task: Mapping[str, Any], where: str) -> str:
    """The video of a task: an address, a local file of the server, or an upload, whose name has eight digits first."""
    data = task.get("data")
    values = [str(value) for value in data.values()] if isinstance(data, Mapping) else []
    source = str(data["video"]) if isinstance(data, Mapping) and "video" in data else (values or [""])[0]
    try:
        parts = urlsplit(source)
    except ValueError:  # its words repeat a part of the address
        raise UserError(f"{where}: the address of its video is none that can be read; mend data.video") from None
    given = parse_qs(parts.query).get("d")
    name = given[0] if given else unquote(parts.path) if parts.scheme or source.startswith("/data/") else source
    uploaded = str(task.get("file_upload") or "")
    last = PurePosixPath(name).name
    if _UPLOADED.match(last) and (uploaded or source.startswith("/data/upload/")):
        name = last[len("00000000-") :]
    return composed(name or uploaded or f"task {task.get('id', '')}")


def write_label_studio(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write tasks to import: annotations, or predictions where there are scores."""
    return {"": to_json([_written(video, clock_of(video)) for video in videos], indent=1, ensure_ascii=False) + "\n"}


def _written(video: LabelledVideo, clock: Clock) -> dict[str, Any]:
    spans = [span for span in video.spans if span.end_seconds > span.start_seconds]
    result = [_region(number, span, clock) for number, span in enumerate(spans)]
    if any(span.score != 1 for span in spans):
        scored = [region | {"score": span.score} for region, span in zip(result, spans, strict=True)]
        return {"data": {"video": video.name}, "predictions": [{"model_version": "clipgru", "result": scored}]}
    return {"data": {"video": video.name}, "annotations": [{"result": result}]}


def _region(number: int, span: Span, clock: Clock) -> dict[str, Any]:
    first, stop = clock.frame(span.start_seconds), clock.frame(span.end_seconds)
    return {
        "id": f"stretch{number}",
        "type": _TIMELINE,
        "from_name": "labels",
        "to_name": "video",
        "value": {"ranges": [{"start": first + 1, "end": max(stop, first + 1)}], _TIMELINE: [span.label]},
    }
