"""Labelled stretches as BORIS writes them: a project (.boris), and its tables of events.

Source: the user guide and the project format 7.0 of BORIS (Friard and Gamba, Methods in Ecology and Evolution, 2016;
www.boris.unito.it). A state event begins and ends with an event of its code; a point event is a moment.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from pipeline.datasets.annotations import read_text
from pipeline.datasets.delimited import composed, read_table
from pipeline.datasets.timelines.frames import ClockOf
from pipeline.datasets.timelines.spans import (
    as_list,
    as_mapping,
    csv_lines,
    is_json,
    join_spans,
    read_number,
    read_outer_json,
    read_span,
)
from pipeline.errors import UserError
from pipeline.schema import to_json
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo, Span

_STATE, _POINT = "State event", "Point event"
_COLUMNS = ("behavior", "subject")
_NAMES = ("media file name", "media file path", "observation id")
_OFFSET_ABOVE = re.compile(r'^"?Time offset \(s\)"?[\t,;]"?(-?\d+(?:\.\d+)?)', flags=re.MULTILINE)
"""In the lines above a table of one observation."""


def read_boris(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read a BORIS project, or a CSV or TSV of its events (tabular or aggregated). An observation is of the videos of
    its first player, one after the other. ``split`` does nothing.

    Raises:
        UserError: not such a file; names the file and the observation, or the line.
    """
    if not is_json(path):
        return _read_table(path)
    project = as_mapping(read_outer_json(path), str(path), "a BORIS project")
    behaviours = as_mapping(project.get("behaviors_conf", {}), f"{path}: behaviors_conf", "behaviours")
    points = {
        str(each.get("code"))
        for each in behaviours.values()
        if isinstance(each, Mapping) and str(each.get("type", "")).lower().startswith("point")
    }
    found: dict[str, LabelledVideo] = {}
    for name, observation in as_mapping(project.get("observations", {}), f"{path}: observations", "each").items():
        where = f"{path}: observation {name}"
        for video in _Observation.read(as_mapping(observation, where, "an object"), where).videos(points):
            other = found.setdefault(video.name, video)
            if other is not video:  # the same video, observed again
                left_out = (*other.left_out, *video.left_out)
                found[video.name] = replace(
                    other, spans=(*other.spans, *video.spans), left_out=tuple(dict.fromkeys(left_out))
                )
    return list(found.values())


@dataclass(frozen=True)
class _Part:
    """A file of an observation."""

    name: str
    start: float
    """Of the file, on the observation's clock."""
    seconds: float | None


def _one_after_the_other(names: Sequence[str], seconds: Sequence[float | None], start: float) -> list[_Part]:
    """The files of a player; the first begins at the observation's time offset, which BORIS adds to all its times."""
    parts = list[_Part]()
    for name, length in zip(names, seconds, strict=True):
        parts.append(_Part(name, start, length))
        start = inf if length is None else start + length
    return parts


def _placed(span: LabelledSpan, media: Sequence[_Part]) -> Iterator[tuple[str, LabelledSpan]]:
    """A span on the observation's clock, cut where a file follows another: each piece with its file and on its clock.
    What is before the first file, or after the last, stays there: a time outside of its file is seen, a lost one not.
    """
    borders = [-inf, *(part.start for part in media[1:]), inf]
    for part, (first, last) in zip(media, pairwise(borders), strict=False):  # no media: live
        start, end = max(span.start_seconds, first), min(span.end_seconds, last)
        if end < span.end_seconds and part.seconds is not None:
            end = min(end, part.start + part.seconds)
        if start < end or first <= span.start_seconds == span.end_seconds < last:
            yield part.name, replace(span, start_seconds=start - part.start, end_seconds=end - part.start)


@dataclass
class _Observation:
    """One observation of a project."""

    where: str
    media: list[_Part]
    """Files of the first player."""
    events: list[tuple[float, tuple[str, str, str]]]
    """Time on the observation's clock, as BORIS shows it; subject, code and modifier."""
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> _Observation:
        files, info = values.get("file"), values.get("media_info")
        players: Mapping[str, Any] = files if isinstance(files, Mapping) else {}
        facts: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
        lengths = as_mapping(facts.get("length") or {}, f"{where}: media_info.length", "the seconds of each file")
        names = [str(name) for name in as_list(players.get("1") or [], f"{where}: file.1")]
        seconds = [read_number(where, "a length", lengths[name]) if name in lengths else None for name in names]
        media = _one_after_the_other(
            names, seconds, read_number(where, "the time offset", values.get("time offset") or 0)
        )
        if media and values.get("media_creation_date_as_offset"):
            place = f"{where}: media_info.media_creation_time"
            times = as_mapping(facts.get("media_creation_time"), place, "the time at which each file was recorded")
            starts = [read_number(place, f"that of {part.name}", times.get(part.name)) for part in media]
            dated = (replace(part, start=at + media[0].start) for part, at in zip(media, starts, strict=True))
            media = sorted(dated, key=lambda part: part.start)
        elif media and media[-1].start == inf:
            raise UserError(
                f"{where}: media_info.length: that of {names[seconds.index(None)]} is missing, and another file "
                "follows; write its seconds there"
            )
        others = any(some for player, some in players.items() if player != "1")
        found = cls(where, media, [], ["videos of further players"] if others else [])
        for number, event in enumerate(as_list(values.get("events") or [], f"{where}: events")):
            if not isinstance(event, list) or len(event) < 3:
                raise UserError(f"{where}: event {number}: must be a list of a time, a subject and a code")
            time = read_number(f"{where}: event {number}", "the time", event[0])
            found.events.append((time, (str(event[1]), str(event[2]), str(event[3]) if len(event) > 3 else "")))
            found.left_out += ["subjects"] if event[1] else []
            found.left_out += ["modifiers"] if len(event) > 3 and event[3] not in ("", "None") else []
            found.left_out += ["comments"] if len(event) > 4 and event[4] else []
        return found

    def videos(self, points: set[str]) -> Iterator[LabelledVideo]:
        """Each file with what happens in it; nothing if there is no file, as in live observations."""
        placed: dict[str, list[LabelledSpan]] = {part.name: [] for part in self.media}
        for span in self._spans(points):
            for name, piece in _placed(span, self.media):
                placed[name].append(piece)
        left_out = tuple(dict.fromkeys(self.left_out))
        seconds = {part.name: part.seconds for part in self.media}
        for name, spans in placed.items():
            yield LabelledVideo(composed(name), tuple(spans), seconds[name], left_out=left_out)

    def _spans(self, points: set[str]) -> Iterator[LabelledSpan]:
        begun: dict[tuple[str, str, str], float] = {}
        for time, key in sorted(self.events):
            code = composed(key[1])
            if key[1] in points:
                yield LabelledSpan(time, time, code)
            elif key in begun:
                yield read_span(self.where, begun.pop(key), time, code)
            else:
                begun[key] = time
        if begun:
            self.left_out.append("state events without an end")


def write_boris(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write a BORIS project, an observation a video. Labels that are moments everywhere are point events."""
    spans = [span for video in videos for span in video.spans]
    labels = sorted({span.label for span in spans})
    states = {span.label for span in spans if span.end_seconds > span.start_seconds}
    behaviours = {
        str(number): {
            "type": _STATE if label in states else _POINT,
            "key": "",
            "code": label,
            "description": "",
            "category": "",
            "modifiers": "",
            "excluded": "",
            "coding map": "",
        }
        for number, label in enumerate(labels)
    }
    project = {
        "time_format": "hh:mm:ss",
        "project_date": "1970-01-01T00:00:00",
        "project_name": "",
        "project_description": "",
        "project_format_version": "7.0",
        "subjects_conf": {},
        "behaviors_conf": behaviours,
        "observations": {video.name: _observation(video, states) for video in videos},
        "behavioral_categories": [],
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }
    return {"": to_json(project, indent=1, ensure_ascii=False) + "\n"}


def _observation(video: LabelledVideo, states: set[str]) -> dict[str, Any]:
    lengths = {} if video.duration_seconds is None else {video.name: video.duration_seconds}
    return {
        "file": {"1": [video.name]},
        "type": "MEDIA",
        "date": "1970-01-01T00:00:00",
        "description": "",
        "time offset": 0.0,
        "events": sorted(_events(video, states)),
        "observation time interval": [0, 0],
        "independent_variables": {},
        "visualize_spectrogram": False,
        "visualize_waveform": False,
        "close_behaviors_between_videos": False,
        "scan_sampling_time": 0,
        "media_info": {
            "length": lengths,
            "fps": {},
            "hasVideo": {video.name: True},
            "hasAudio": {},
            "offset": {"1": 0.0},
        },
    }


def _events(video: LabelledVideo, states: set[str]) -> Iterator[list[Any]]:
    for label in dict.fromkeys(span.label for span in video.spans):
        for start, end in _covered(span for span in video.spans if span.label == label):
            yield [start, "", label, "", ""]
            if label in states:
                yield [end, "", label, "", ""]


def _covered(spans: Iterable[Span]) -> list[tuple[float, float]]:
    """Return the stretches that spans cover: those that overlap become one, those that touch stay apart."""
    found: list[tuple[float, float]] = []
    for start, end in sorted((span.start_seconds, span.end_seconds) for span in spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _read_table(path: Path) -> list[LabelledVideo]:
    above = _OFFSET_ABOVE.search(read_text(path))
    events = _Events(path.stem, float(above[1]) if above else 0.0)
    for place, values in read_table(path, _COLUMNS, skip_to="behavior"):
        events.add(place, values)
    return events.videos()


@dataclass
class _Events:
    """Events of a table: with a start and a stop a line, or START and STOP in lines of their own."""

    default_name: str
    offset: float
    """Time offset of an observation that has no column for it."""
    files: dict[str, str] = field(default_factory=dict)
    """Of an observation, if the lengths of its files are not told."""
    rows: list[tuple[str, LabelledSpan]] = field(default_factory=list)
    durations: dict[str, float] = field(default_factory=dict)
    begun: dict[tuple[str, ...], tuple[str, float]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, place: str, values: Mapping[str, str]) -> None:
        """Note a line. Raises ``UserError`` for one that is no event."""
        name = next(filter(None, map(values.get, _NAMES)), self.default_name)
        observation = values.get("observation id") or self.default_name
        media = self._media(place, values, name, observation)
        modifiers, comments = ([v for k, v in values.items() if k.startswith(kind)] for kind in ("modifier", "comment"))
        has = {"subjects": values["subject"] not in ("", "No focal subject"), "modifiers": any(modifiers)}
        self.left_out[name] += [thing for thing, there in (has | {"comments": any(comments)}).items() if there]
        self.durations |= {part.name: part.seconds for part in media if part.seconds is not None}
        times: tuple[object, object] | None
        if "start (s)" in values:
            start, end = values["start (s)"], values.get("stop (s)")
            times = start, start if end in (None, "", "NA") else end
        else:
            key = (observation, values["subject"], values["behavior"], *modifiers)
            times = self._moment(place, values, name, key)
        if times:
            self.rows += _placed(read_span(place, times[0], times[1], values["behavior"]), media)

    def _media(self, place: str, values: Mapping[str, str], name: str, observation: str) -> list[_Part]:
        """The files of an observation, which follow one after the other."""
        offset = read_number(place, "the time offset", values.get("time offset (s)") or self.offset)
        names = values.get("source", "").partition("|")[0].removeprefix("player #1:").strip().split(";")
        lengths = [length for length in values.get("media duration (s)", "").partition("|")[0].split(";") if length]
        seconds = [read_number(place, "the media's duration", length) for length in lengths]
        if name in names and len(names) == len(seconds):
            return _one_after_the_other(names, seconds, offset)
        if self.files.setdefault(observation, name) != name:
            raise UserError(
                f"{place}: {observation} is of several videos, whose times count from the first and whose lengths are "
                "not told here; give the project instead (.boris)"
            )
        return [_Part(name, offset, seconds[0] if len(seconds) == 1 else None)]

    def _moment(
        self, place: str, values: Mapping[str, str], name: str, key: tuple[str, ...]
    ) -> tuple[float, float] | None:
        """Start and end of an event that is over with this line."""
        time = read_number(place, "the time", values.get("time", ""))
        kind = (values.get("behavior type") or values.get("status") or "").upper()
        if kind == "START":
            self.begun[key] = name, time
            return None
        if kind == "POINT":
            return time, time
        if kind != "STOP" or key not in self.begun:
            raise UserError(f"{place}: {kind or 'nothing'} of {key[2]} is no START, its STOP, or POINT")
        return self.begun.pop(key)[1], time

    def videos(self) -> list[LabelledVideo]:
        """The notes, by video."""
        for name, _ in self.begun.values():
            self.left_out[name].append("state events without an end")
        found = join_spans(self.rows, self.durations)
        return [replace(video, left_out=tuple(dict.fromkeys(self.left_out[video.name]))) for video in found]


def write_boris_table(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write BORIS' aggregated events, a CSV."""
    header = [
        "Observation id", "Observation type", "Source", "Media duration (s)", "Subject", "Behavior",
        "Behavioral category", "Behavior type", "Start (s)", "Stop (s)", "Duration (s)", "Media file name",
    ]  # fmt: skip
    rows = []
    for video in videos:
        length = "" if video.duration_seconds is None else video.duration_seconds
        for span in video.spans:
            start, end = span.start_seconds, span.end_seconds
            kind = "STATE" if end > start else "POINT"
            times = [start, end, round(end - start, 3)]
            about = [video.name, "Media file", video.name, length, "No focal subject", span.label, ""]
            rows.append([*about, kind, *times, video.name])
    return {"": csv_lines([header, *rows])}
