"""Labelled stretches as tables: our manifest, EPIC-KITCHENS' CSV, the CSV that ``clipgru predict`` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import BACKGROUND
from pipeline.datasets.delimited import UNKNOWN_GROUPS, Record, read_table
from pipeline.datasets.parts import part_of
from pipeline.datasets.tables import MANIFEST_COLUMNS, Agreement, read_manifest_records, uncovered_moments
from pipeline.datasets.timelines.frames import ClockOf
from pipeline.datasets.timelines.spans import clock_text, csv_lines, is_of_split, join_spans, read_number, read_span
from pipeline.errors import UserError, unknown_name
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

_EPIC_COLUMNS = ("video_id", "start_timestamp", "stop_timestamp")


def read_manifest_spans(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read our manifest, CSV or JSON lines: ``path,label,start_seconds,end_seconds,group,split,uncovered``, and
    optionally ``score`` and ``duration_seconds``. Rows may overlap. A line without label and times names a video in
    which nothing happens.

    Raises:
        UserError: a malformed line, named ``file:line``.
    """
    rows, durations, facts, videos = [], {}, {}, Agreement()
    for place, values in read_manifest_records(path):
        name = values.get("path", "")
        if not name:
            raise UserError(f"{place}: path is empty; each line names its video")
        if is_of_split(split, values.get("split")):
            rows.append((name, _manifest_span(place, values)))
            if values.get("duration_seconds"):
                durations[name] = read_number(place, "duration_seconds", values["duration_seconds"])
            facts[name] = {"split": values.get("split", ""), "uncovered": uncovered_moments(place, values)}
            facts[name]["group"] = values["group"] if values.get("group") not in (None, *UNKNOWN_GROUPS) else ""
            videos.add(place, name, **facts[name])
    return join_spans(rows, durations, facts)


def _manifest_span(place: str, values: Mapping[str, str]) -> LabelledSpan | None:
    start, end, label = (values.get(column, "") for column in ("start_seconds", "end_seconds", "label"))
    if not (start or end or label):
        return None
    if not end:
        raise UserError(f"{place}: end_seconds is empty; a stretch of a timeline needs its end")
    return read_span(place, start or 0.0, end, label, values.get("score") or 1.0)


def write_manifest(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write our manifest, with the columns that are of use."""
    rows = [values for video in videos for values in _manifest_rows(video)]
    columns = [column for column in MANIFEST_COLUMNS if column in _ALWAYS or any(values.get(column) for values in rows)]
    return {"": csv_lines([columns, *([values.get(column, "") for column in columns] for values in rows)])}


_ALWAYS = ("path", "label", "start_seconds", "end_seconds")


def _manifest_rows(video: LabelledVideo) -> Iterator[dict[str, object]]:
    """A line a stretch; a line of the video alone where there is none."""
    about: dict[str, object] = {"path": video.name, "group": video.group, "split": part_of(video.split) or video.split}
    about |= {"uncovered": "" if video.uncovered == BACKGROUND else video.uncovered}
    about |= {} if video.duration_seconds is None else {"duration_seconds": repr(video.duration_seconds)}
    scored = any(span.score != 1 for span in video.spans)
    for span in video.spans:
        times = {"start_seconds": repr(span.start_seconds), "end_seconds": repr(span.end_seconds)}
        yield about | {"label": span.label} | times | ({"score": repr(span.score)} if scored else {})
    if not video.spans:
        yield dict(about)


def read_epic(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read an EPIC-KITCHENS CSV: ``video_id,start_timestamp,stop_timestamp`` as HH:MM:SS.ms or seconds; or, where these
    are not given, ``start_frame,stop_frame``, the first and the last frame, counted from 1. The label is that of a
    column ``label``, else ``VERB_CLASS,NOUN_CLASS`` as the challenge writes actions, else verb and noun. The group is
    ``participant_id``.

    Raises:
        UserError: a malformed line, named ``file:line``; or some lines have times and others frames.
    """
    records = read_table(path, _EPIC_COLUMNS[:1])
    in_frames = not all(values.get("stop_timestamp") for _, values in records)
    facts = {values["video_id"]: _epic_facts(values) for _, values in records}
    found = join_spans(
        ((values["video_id"], _epic_span(place, values, in_frames)) for place, values in records), facts=facts
    )
    return [replace(video, in_frames=in_frames) for video in found if is_of_split(split, video.split)]


def write_epic(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write an EPIC-KITCHENS CSV with a column ``label``; the group stands for the participant."""
    header = ["narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration", "label"]
    rows = [
        [f"{video.name}_{number}", video.group, video.name, *map(clock_text, times), span.label, span.label]
        for video in videos
        for number, span in enumerate(video.spans)
        for times in [(span.start_seconds, span.end_seconds)]
    ]
    return {"": csv_lines([header, *rows])}


def _epic_facts(values: Mapping[str, str]) -> dict[str, str]:
    return {"split": values.get("split", ""), "group": values.get("participant_id", "")}


def _epic_span(place: str, values: Mapping[str, str], in_frames: bool) -> LabelledSpan:
    columns = ("start_frame", "stop_frame") if in_frames else _EPIC_COLUMNS[1:]
    if not all(values.get(column) for column in columns):
        raise UserError(
            f"{place}: {' and '.join(columns)} must be there; give all lines timestamps, or all lines frames"
        )
    start, end = (values[column] for column in columns)
    span = read_span(place, start, end, _action(values))
    return replace(span, start_seconds=span.start_seconds - 1) if in_frames else span


def _action(values: Mapping[str, str]) -> str:
    for columns, join in ((("label",), ""), (("verb_class", "noun_class"), ","), (("verb", "noun"), " ")):
        if all(values.get(column) for column in columns):
            return join.join(values[column] for column in columns)
    return ""


def read_predicted_rows(path: Path) -> list[LabelledVideo]:
    """Read the CSV that ``clipgru predict --csv`` writes: rows of kind segment and video; windows are passed over,
    and videos that could not be opened.

    Raises:
        UserError: a malformed line, named ``file:line``.
    """
    records = read_table(path, ("path", "kind", "start_seconds", "end_seconds", "label", "score"))
    durations = {
        values["path"]: read_number(place, "end_seconds", values["end_seconds"])
        for place, values in records
        if values["kind"] == "video" and values["end_seconds"]
    }
    return join_spans(_predicted_spans(records), durations)


def _predicted_spans(records: list[Record]) -> Iterator[tuple[str, LabelledSpan | None]]:
    for place, values in records:
        if values["kind"] == "segment":
            columns = ("start_seconds", "end_seconds", "label", "score")
            yield values["path"], read_span(place, *(values[column] for column in columns))
        elif values["kind"] == "video" and values["end_seconds"]:
            yield values["path"], None
        elif values["kind"] not in ("window", "video"):
            raise UserError(f"{place}: {unknown_name('kind', values['kind'], ('window', 'segment', 'video'))}")
