"""Labelled stretches as tables: our manifest, EPIC-KITCHENS' CSV, the CSV that ``clipgru predict`` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.datasets.delimited import Record, read_table
from pipeline.datasets.tables import read_json_lines
from pipeline.datasets.timelines.spans import is_of_split, join_spans, read_number, read_span
from pipeline.errors import UserError, unknown_name
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

_MANIFEST_COLUMNS = ("path", "label", "start_seconds", "end_seconds", "group", "split", "score", "duration_seconds")
_EPIC_COLUMNS = ("video_id", "start_timestamp", "stop_timestamp")


def read_manifest_spans(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read our manifest, CSV or JSON lines: ``path,label,start_seconds,end_seconds,group,split``, and optionally
    ``score`` and ``duration_seconds``. Rows may overlap. A line without label and times names a video in which nothing
    happens.

    Raises:
        UserError: a malformed line, named ``file:line``.
    """
    is_json = path.suffix.lower() in (".jsonl", ".ndjson", ".json")
    records = read_json_lines(path) if is_json else read_table(path, _MANIFEST_COLUMNS[:2])
    rows, durations = [], {}
    for place, values in records:
        for column in values:
            if column not in _MANIFEST_COLUMNS:
                raise UserError(f"{place}: {unknown_name('column', column, _MANIFEST_COLUMNS)}")
        name = values.get("path", "")
        if not name:
            raise UserError(f"{place}: path is empty; each line names its video")
        if is_of_split(split, values.get("split")):
            rows.append((name, _manifest_span(place, values)))
            if values.get("duration_seconds"):
                durations[name] = read_number(place, "duration_seconds", values["duration_seconds"])
    return join_spans(rows, durations)


def _manifest_span(place: str, values: Mapping[str, str]) -> LabelledSpan | None:
    start, end, label = (values.get(column, "") for column in ("start_seconds", "end_seconds", "label"))
    if not (start or end or label):
        return None
    if not end:
        raise UserError(f"{place}: end_seconds is empty; a stretch of a timeline needs its end")
    return read_span(place, start or 0.0, end, label, values.get("score") or 1.0)


def read_epic(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read an EPIC-KITCHENS CSV: ``video_id,start_timestamp,stop_timestamp`` as HH:MM:SS.ms or seconds. The label is
    that of a column ``label``, else ``VERB_CLASS,NOUN_CLASS`` as the challenge writes actions, else verb and noun.

    Raises:
        UserError: a malformed line, named ``file:line``.
    """
    return join_spans(
        (values["video_id"], read_span(place, values["start_timestamp"], values["stop_timestamp"], _action(values)))
        for place, values in read_table(path, _EPIC_COLUMNS)
        if is_of_split(split, values.get("split"))
    )


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
