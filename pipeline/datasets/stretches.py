"""Labelled stretches against the length of their files: a table may give frames or milliseconds for seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.annotations import VideoRow
from pipeline.decode.health import FileHealth

# The end of a row may be rounded, or that of the film before it was converted.
_ROUNDING_SHARE, _ROUNDING_SECONDS = 0.02, 0.5


@dataclass(frozen=True)
class _Misfits:
    """Rows that do not fit their files, in words."""

    outside: tuple[str, ...]
    """They begin after the end of the file: nothing can be read."""
    cut_off: tuple[str, ...]
    """They end well after the end of the file, where reading ends."""
    likely_cause: str = ""


def find_misfits(rows: Iterable[VideoRow], known: Mapping[Path, FileHealth]) -> _Misfits:
    """Return the rows that lie outside their files, wholly or in part; files of unknown length are passed over."""
    outside: list[str] = []
    cut_off: list[str] = []
    found: list[tuple[float, FileHealth]] = []
    for row in rows:
        length = known.get(row.path)
        if length is None or _fits(row.end_seconds or row.start_seconds, length, row.end_seconds is None):
            continue
        end = "" if row.end_seconds is None else f" to {row.end_seconds:g}"
        said = f"{row.name}: {row.start_seconds:g}{end} s, and the file ends at {length.duration_seconds:g} s"
        (outside if row.start_seconds >= length.duration_seconds else cut_off).append(said)
        found.append((row.end_seconds or row.start_seconds, length))
    return _Misfits(tuple(outside), tuple(cut_off), _likely_cause(found))


def _fits(time_seconds: float, length: FileHealth, is_start: bool = False) -> bool:
    if is_start:
        return time_seconds < length.duration_seconds
    return time_seconds <= (1 + _ROUNDING_SHARE) * length.duration_seconds + _ROUNDING_SECONDS


def _likely_cause(found: list[tuple[float, FileHealth]]) -> str:
    if not found:
        return ""
    if all(length.average_fps and _fits(time / length.average_fps, length) for time, length in found):
        return "taken as frame numbers, the times would fit: divide them by the files' frames a second"
    if all(_fits(time / 1000, length) for time, length in found):
        return "taken as milliseconds, the times would fit: divide them by 1000"
    return "the times may be those of the films that these files were cut from"
