"""Texts and numbers of a file to checked spans."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.datasets.delimited import composed, number_of
from pipeline.datasets.parts import part_of
from pipeline.errors import UserError
from pipeline.schema import read_json
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")


def read_number(place: str, name: str, value: object) -> float:
    """Return a finite number; a text may be one too, or a time such as ``00:01:02.50``.

    Raises:
        UserError: it is none; names ``place`` and ``name``.
    """
    clock = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if clock:
        hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        return 3600 * hours + 60 * minutes + seconds
    number = math.nan
    if isinstance(value, str):
        number = number_of(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise UserError(f"{place}: {name} is {str(value)[:80]!r}, which is no finite number; write one such as 12.5")
    return number


def read_span(place: str, start: object, end: object, label: object, score: object = 1.0) -> LabelledSpan:
    """Return the span of a file's values. It may be empty, or begin before 0. Line ends and tabs in the label become
    spaces.

    Raises:
        UserError: a time or the score is no finite number, it ends before it starts, or has no label.
    """
    start_seconds, end_seconds = read_number(place, "the start", start), read_number(place, "the end", end)
    if end_seconds < start_seconds:
        raise UserError(
            f"{place}: the segment ends at {end_seconds:g}, before it starts at {start_seconds:g}; swap or mend them"
        )
    text = (
        composed(one_line(str(label)).strip()) if isinstance(label, str | int) and not isinstance(label, bool) else ""
    )
    if not text:
        raise UserError(f"{place}: the segment has no label; write one, or take the line out")
    return LabelledSpan(start_seconds, end_seconds, text, read_number(place, "the score", score))


_MAX_BYTES, _HEAD_BYTES = 512 * 2**20, 65_536


def read_bytes(path: Path) -> bytes:
    """Return the content of a file from anywhere, of bounded size.

    Raises:
        UserError: it is not there, or larger than annotations are.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES // 2**20} MB, which no annotations are; is it a video?")
    return content


def head_of(path: Path) -> str:
    """Return the first characters of a file, as text whatever it holds."""
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES).decode("utf-8-sig", "replace").lstrip()


def is_json(path: Path) -> bool:
    """Return true if a file begins as a JSON object does."""
    return head_of(path).startswith("{")


def read_outer_json(path: Path) -> Any:
    """Return the value of a JSON file from anywhere. Raises ``UserError`` as ``read_bytes``, or if it is not JSON."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    return read_json(text, str(path))


def as_mapping(value: object, where: str, expected: str) -> Mapping[str, Any]:
    """Return a value that must be a JSON object. Raises ``UserError``, which names ``where``."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: must be {expected}, a JSON object")
    return value


def as_list(value: object, where: str, length: int | None = None) -> list[Any]:
    """Return a value that must be a list, of some length. Raises ``UserError``, which names ``where``."""
    if not isinstance(value, list) or length not in (None, len(value)):
        raise UserError(f"{where}: must be a list" + (f" of {length}" if length else ""))
    return value


def one_line(label: str) -> str:
    """Return a label without line ends and tabs."""
    return re.sub(r"[\t\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+", " ", label)


def clock_text(seconds: float) -> str:
    """Return a time as ``HH:MM:SS.mmm``."""
    minutes, milliseconds = divmod(round(1000 * max(0.0, seconds)), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def is_of_split(split: str | None, said: str | None) -> bool:
    """Return true if a row that says its split belongs to the wanted one; rows that say none always do."""
    if split is None or not said:
        return True
    return (part_of(said) or said.strip().lower()) == (part_of(split) or split.strip().lower())


def join_spans(
    rows: Iterable[tuple[str, LabelledSpan | None]],
    durations: Mapping[str, float] = {},
    facts: Mapping[str, Mapping[str, Any]] = {},
) -> list[LabelledVideo]:
    """Collect the spans of each video, in the order in which videos first appear.

    Args:
        rows: name of a video and a span; None names a video without one.
        durations: seconds of a video, if they are known.
        facts: split, group and uncovered of a video.
    """
    spans: dict[str, list[LabelledSpan]] = defaultdict(list)
    for name, span in rows:
        spans[name] += [span] if span else []
    return [
        LabelledVideo(name, tuple(some), durations.get(name), **facts.get(name, {})) for name, some in spans.items()
    ]
