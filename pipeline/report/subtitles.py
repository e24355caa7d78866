"""Segments as subtitles: SubRip (.srt) and WebVTT (.vtt, W3C), which players show over the video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pipeline.clip import Segment
from pipeline.files.writing import OutputFile, check_folder
from pipeline.report.records import SourceVideo, Writer, later


@dataclass(frozen=True)
class _SubtitleFormat:
    """Traits that differ between the two kinds of subtitles."""

    head: str
    decimal_mark: str
    escape: Callable[[str], str]


FORMATS = {
    "srt": _SubtitleFormat(
        "", ",", lambda text: text.translate({60: "\u2039", 62: "\u203a"})
    ),  # players take <i> for a tag
    "vtt": _SubtitleFormat("WEBVTT\n\n", ".", lambda text: escape(text, quote=False)),
}


class Subtitles(Writer):
    """One file a video in a folder, named after it, on the clock of the video file, as players show them.

    Args:
        folder: made if it is not there.
        kind: a key of ``FORMATS``.
    """

    def __init__(self, folder: Path, kind: str, *, no_clobber: bool = False) -> None:
        self._folder, self._kind, self._format = folder, kind, FORMATS[kind]
        self._no_clobber = no_clobber
        self._out: OutputFile | None = None
        self._num_cues, self._start_seconds = 0, 0.0
        check_folder(folder)

    def begin_video(self, video: SourceVideo) -> None:
        """Begins its file, unless it could not be opened."""
        self._out, self._num_cues = None, 0
        if video.info is not None:
            self._start_seconds = video.start_seconds_in_file
            self._out = OutputFile(self._folder / f"{video.name}.{self._kind}", no_clobber=self._no_clobber)
            self._out.write(self._format.head)

    def segment(self, segment: Segment) -> None:
        """Write a cue."""
        assert self._out is not None
        self._num_cues += 1
        segment = later(segment, self._start_seconds)
        text = self._format.escape(f"{' '.join(segment.label.split())} ({segment.score:.0%})")
        start, end = (self._clock(seconds) for seconds in (segment.start_seconds, segment.end_seconds))
        self._out.write(f"{self._num_cues}\n{start} --> {end}\n{text}\n\n")

    def end_video(self, status: str, error: str) -> None:
        """Complete the file with what was seen, whatever the status."""
        if self._out is not None:
            out, self._out = self._out, None
            out.commit()

    def discard(self) -> None:
        """Files of earlier videos stay; the one begun does not."""
        if self._out is not None:
            self._out.discard()

    def _clock(self, seconds: float) -> str:
        milliseconds = round(1000 * seconds)
        minutes, milliseconds = divmod(milliseconds, 60_000)
        mark = self._format.decimal_mark
        return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
