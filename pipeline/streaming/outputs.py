"""Outputs for the answers of live sources: events to standard output, or lines for people; a folder of recordings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from pipeline.clip import Prediction, Segment
from pipeline.files.failures import OutputError
from pipeline.files.writing import check_folder
from pipeline.report.annotated import AnnotatedVideo
from pipeline.report.jsonl import EventLines
from pipeline.report.records import segment_record, window_record
from pipeline.streaming.sources import Source
from pipeline.streaming.streams import Notice, OnEvent, Shown, StreamEvent
from pipeline.terminal import PlainConsole, printable, say

_MAX_STEM_CHARACTERS = 50  # of four bytes each; with time and suffix below the 255 bytes of a name


class Output(Protocol):
    """Somebody who is told what happens."""

    def on_event(self, name: str, event: StreamEvent) -> None:
        """Take an event of the source of that name."""

    def close(self) -> None:
        """No more events come."""


class EventOutput:
    """Every event as a JSON object a line.

    Args:
        path: a file, or - for standard output.
        header: facts about the model, for the first line.
        no_clobber: refuse a file that is there.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, no_clobber: bool = False) -> None:
        self._lines = EventLines(path, no_clobber=no_clobber)
        self._lines.event("run", **header)

    def on_event(self, name: str, event: StreamEvent) -> None:
        """Write a line; windows and segments as ``clipgru predict`` writes them. Pictures are left out."""
        if isinstance(event, Prediction):
            self._lines.event("window", path=name, **window_record(event))
        elif isinstance(event, Segment):
            self._lines.event("segment", path=name, **segment_record(event))
        elif isinstance(event, Notice):
            message = {"message": event.message} if event.message else {}
            self._lines.event(event.kind, path=name, time_seconds=event.time_seconds, **message)

    def close(self) -> None:
        self._lines.close()


class PeopleOutput:
    """Segments to standard output and what happens to the sources to the console, in words."""

    def __init__(self, console: PlainConsole, quiet: bool) -> None:
        self._console, self._quiet = console, quiet

    def on_event(self, name: str, event: StreamEvent) -> None:
        if isinstance(event, Notice) and event.is_failure:
            self._console.print(f"error: {event.message}", style="red")
        elif self._quiet:
            return
        elif isinstance(event, Segment):
            start, end, score = event.start_seconds, event.end_seconds, event.score
            say(printable(f"{name}  {start:9.2f} - {end:9.2f} s  {score:5.1%}  {event.label}"))
        elif isinstance(event, Notice):
            message = f": {event.message}" if event.message else ""
            text = f"{name}  {event.time_seconds:9.2f} s  {event.kind}{message}"
            self._console.print(printable(text), style="dim")

    def close(self) -> None:
        """Nothing to close."""


class _Recording:
    """``<name>_<when it began>.jsonl`` and ``.mp4`` of one source, beside those of earlier runs. The events can be read
    at any moment; the video gets its name when it is closed, and none is written of a source that never gave a
    picture."""

    def __init__(self, folder: Path, stem: str, header: dict[str, Any], sample_fps: float) -> None:
        path, self._events = _open_new(folder, f"{stem}_{datetime.now():%Y%m%d-%H%M%S}", header)
        self._path, self._fps = path.with_suffix(".mp4"), Fraction(sample_fps).limit_denominator(1001)
        self._video: AnnotatedVideo | None = None

    def on_event(self, name: str, event: StreamEvent) -> None:
        self._events.on_event(name, event)
        if isinstance(event, Shown):
            if self._video is None:
                self._video = AnnotatedVideo(self._path, self._fps, no_clobber=True)
            shown = event
            self._video.write(shown.picture, shown.time_seconds, shown.label, shown.score, shown.open_labels)

    def close(self) -> None:
        self._events.close()
        if self._video is not None:
            self._video.close()


def _open_new(folder: Path, stem: str, header: dict[str, Any]) -> tuple[Path, EventOutput]:
    """Events in a file that was not there. Runs of the same second are numbered."""
    for number in count(1):
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.jsonl"
        if path.exists() or path.with_suffix(".mp4").exists():
            continue
        try:
            return path, EventOutput(path, header, no_clobber=True)
        except OutputError:
            if not path.exists():  # else another run was quicker
                raise
    raise AssertionError("numbers do not end")


class Recordings:
    """A recording for each source, made when it is first heard of.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], header: dict[str, Any], sample_fps: float) -> None:
        check_folder(folder)
        self._make: Callable[[str], _Recording] = lambda stem: _Recording(folder, stem, header, sample_fps)
        self._stems = file_stems(sources)
        self._all: dict[str, _Recording] = {}

    def on_event(self, name: str, event: StreamEvent) -> None:
        if name not in self._all:
            self._all[name] = self._make(self._stems[name])
        self._all[name].on_event(name, event)

    def close(self) -> None:
        with ExitStack() as stack:  # each is closed, even if another cannot be
            for recording in self._all.values():
                stack.callback(recording.close)


def file_stems(sources: Sequence[Source]) -> dict[str, str]:
    """Source name -> the name of its files without a suffix: letters, digits, dots and dashes; all different."""
    stems: dict[str, str] = {}
    for source in sources:
        text = Path(source.address).stem if source.kind in ("file", "replay") else source.name
        stem = re.sub(r"[^\w.-]+", "_", text).strip("._")[:_MAX_STEM_CHARACTERS] or "source"
        taken = {other.casefold() for other in stems.values()}
        numbered = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(stems) + 2))
        stems[source.name] = next(name for name in numbered if name.casefold() not in taken)
    return stems


@contextmanager
def told_to_all(outputs: Sequence[Output]) -> Iterator[OnEvent]:
    """Hand what happens to all outputs; in the end each is closed, even if another cannot be."""

    def on_event(name: str, event: StreamEvent) -> None:
        for output in outputs:
            output.on_event(name, event)

    with ExitStack() as stack:
        for output in outputs:
            stack.callback(output.close)
        yield on_event
