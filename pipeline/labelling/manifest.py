"""``ManifestTable``: the manifest of a folder, changed where labels changed and nowhere else.

A line whose stretch is as it was keeps its very bytes; columns and lines that mean nothing here stay where they are.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.datasets.delimited import composed, name_below
from pipeline.errors import UserError
from pipeline.labelling.stretches import BACKGROUND, UNLABELLED, Rest, Span, Stretch, VideoLabels

_COLUMNS = ("path", "label", "start_seconds", "end_seconds", "group", "split", "uncovered")
"""Of a new manifest. ``uncovered`` says what no row of the video covers: background, or unlabelled."""
_REQUIRED = _COLUMNS[:4]
_MARK = "\ufeff"


@dataclass
class _Line:
    raw: str
    values: dict[str, str] = field(default_factory=dict)
    video: str = ""
    """Empty: the line is none of ours, and stays."""
    is_full: bool = False
    """It has a value for each column and no more."""
    stretch_id: int = 0
    span: Span | None = None


class ManifestTable:
    """The lines of a manifest, and the stretches that they are.

    Args:
        text: the file's content; empty for a new one.
        root: folder that paths are relative to.
        place: the file, for messages.

    Attributes:
        num_foreign: lines that are no labelled stretch of a file below the root.

    Raises:
        UserError: the header is not that of a manifest.
    """

    def __init__(self, text: str, root: Path, place: Path) -> None:
        self._has_mark = text.startswith(_MARK)
        self._end = "\r\n" if "\r\n" in text else "\n"
        lines = text.removeprefix(_MARK).split(self._end)
        if lines and not lines[-1]:
            lines.pop()
        places = [place for place, line in enumerate(lines) if line.strip() and not line.startswith("sep=")]
        self._before = lines[: places[0]] if places else []
        header = lines[places[0]] if places else ",".join(_COLUMNS)
        self._separator = max(",;\t", key=header.count)
        self._columns = [name.lower() for name in self._split(header)]
        while self._columns and not self._columns[-1]:  # a comma at the end
            self._columns.pop()
            header = header.rstrip().removesuffix(self._separator)
        self._header = header
        self._check(place)
        self._names: dict[str, str | None] = {}
        self._lines = [self._line(line, root) for line in (lines[places[0] + 1 :] if places else ())]
        self.num_foreign = sum(not line.video and bool(line.raw.strip()) for line in self._lines)

    def _check(self, place: Path) -> None:
        missing = [column for column in ("path", "label") if column not in self._columns]
        if missing:
            raise UserError(
                f"{place}: no column {', '.join(missing)} in its first line; a manifest has path, label, start_seconds "
                "and end_seconds. Rename the columns, or move the file away to begin a new one"
            )

    def _split(self, line: str) -> list[str]:
        try:
            return [value.strip() for value in next(csv.reader([line], delimiter=self._separator, strict=True), [])]
        except csv.Error:
            return []

    def _line(self, raw: str, root: Path) -> _Line:
        found = self._split(raw)
        is_full = len(found) == len(self._columns)
        if len(found) < len(self._columns) or not any(found):
            return _Line(raw)
        values = dict(zip(self._columns, found, strict=False))
        name, span = self._name(values["path"], root), _span_of(values)
        return _Line(raw, values, name, is_full, span=span) if name and span else _Line(raw, values, is_full=is_full)

    def _name(self, path: str, root: Path) -> str | None:
        if path not in self._names:
            try:
                self._names[path] = name_below("", path, root)[0] if path else None
            except UserError:
                self._names[path] = None
        return self._names[path]

    def take_stretches(self, videos: Mapping[str, VideoLabels], number: Callable[[str, Span], int]) -> None:
        """Put the table's stretches into their videos, which must all be there; ``number`` gives each its own."""
        for name in self.names:
            videos[name].rest = BACKGROUND
        for line in self._lines:
            if line.span is None:
                continue
            line.stretch_id = number(line.video, line.span)
            video = videos[line.video]
            video.stretches[line.stretch_id] = Stretch(line.stretch_id, 1, line.span)
            if line.values.get("uncovered") == UNLABELLED:
                video.rest = UNLABELLED

    @property
    def names(self) -> list[str]:
        """The videos of the table, each once."""
        return list(dict.fromkeys(line.video for line in self._lines if line.video))

    def of_video(self, name: str, column: str) -> str:
        """Return what the first line of a video has in a column; empty without one."""
        return next((line.values.get(column, "") for line in self._lines if line.video == name), "")

    def text(self, videos: Iterable[VideoLabels]) -> str:
        """Return the manifest with the stretches of the videos as they are now."""
        state = {video.name: video for video in videos}
        known = {line.stretch_id for line in self._lines}
        new = {video.name: [s for s in video.stretches.values() if s.id not in known] for video in state.values()}
        return self._joined(state, {name: stretches for name, stretches in new.items() if stretches})

    def _joined(self, state: Mapping[str, VideoLabels], new: dict[str, list[Stretch]]) -> str:
        extra = self._missing_columns(state)
        last = {line.video: number for number, line in enumerate(self._lines)}
        default_split = self._default_split()
        out = [*self._before, self._separator.join([self._header, *extra])]
        for number, line in enumerate(self._lines):
            out += self._rendered(line, state.get(line.video), extra)
            if line.video in new and last[line.video] == number:
                out += self._new_lines(state[line.video], new.pop(line.video), line.values, extra)
        for name, stretches in new.items():
            out += self._new_lines(state[name], stretches, {"path": name, "split": default_split}, extra)
        return _MARK * self._has_mark + self._end.join(out) + self._end

    def _default_split(self) -> str:
        """Of a video that is new: either every line names its split or none does."""
        return "train" if any(line.values.get("split") for line in self._lines) else ""

    def _missing_columns(self, state: Mapping[str, VideoLabels]) -> list[str]:
        needs_rest = any(video.rest == UNLABELLED and video.stretches for video in state.values())
        return [c for c in (*_REQUIRED, *(("uncovered",) * needs_rest)) if c not in self._columns]

    def _rendered(self, line: _Line, video: VideoLabels | None, extra: list[str]) -> list[str]:
        if video is None or line.span is None:
            return [self._separator.join([line.raw, *("" for _ in extra)]) if line.is_full else line.raw]
        stretch = video.stretches.get(line.stretch_id)
        if stretch is None:
            return []
        says_other = "uncovered" in self._columns and (line.values["uncovered"] or BACKGROUND) != video.rest
        if stretch.span == line.span and not says_other and (line.is_full or not extra):
            return [self._separator.join([line.raw, *self._filled(extra, line.values, video.rest)])]
        return [self._row(line.values | _values_of(stretch.span), extra, video.rest)]

    def _filled(self, extra: list[str], values: Mapping[str, str], rest: Rest) -> list[str]:
        return [rest if column == "uncovered" else values.get(column, "") for column in extra]

    def _new_lines(
        self, video: VideoLabels, stretches: list[Stretch], like: Mapping[str, str], extra: list[str]
    ) -> list[str]:
        kept = {column: like.get(column, "") for column in ("path", "group", "split")}
        spans = sorted((stretch.span for stretch in stretches), key=lambda span: (span.start_seconds, span.end_seconds))
        return [self._row(kept | _values_of(span), extra, video.rest) for span in spans]

    def _row(self, values: Mapping[str, str], extra: list[str], rest: Rest) -> str:
        columns = [*self._columns, *extra]
        text = io.StringIO()
        row = [rest if column == "uncovered" else values.get(column, "") for column in columns]
        csv.writer(text, delimiter=self._separator, lineterminator="").writerow(row)
        return text.getvalue()


def _span_of(values: Mapping[str, str]) -> Span | None:
    try:
        start = float(values.get("start_seconds") or 0)
        end = float(values.get("end_seconds") or math.inf)
    except ValueError:
        return None
    label = composed(values["label"])
    return Span(label, start, end) if label and 0 <= start < end else None


def _values_of(span: Span) -> dict[str, str]:
    return {"label": span.label, "start_seconds": as_text(span.start_seconds), "end_seconds": as_text(span.end_seconds)}


def as_text(seconds: float) -> str:
    """Return a time to the microsecond: ``2.5``, ``0.033333``; nothing for the end of a video."""
    return "" if math.isinf(seconds) else f"{seconds:.6f}".rstrip("0").rstrip(".")
