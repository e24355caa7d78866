"""Segments as subtitles: SubRip (.srt) and WebVTT (.vtt, W3C), which players show over the video."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from pipeline.clip import Segment
from pipeline.files.writing import OutputFile, check_folder
from pipeline.report.records import SourceVideo, Writer, by_start, later

# What begins a file, the decimal mark of its times, and how its texts are escaped.
_FORMATS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "srt": ("", ",", lambda text: text.translate({60: "\u2039", 62: "\u203a"})),  # players take <i> for a tag
    "vtt": ("WEBVTT\n\n", ".", lambda text: escape(text, quote=False)),
}


class Subtitles(Writer):
    """One file a video in a folder, named after it, on the clock of the video file, as players show them.

    Args:
        folder: made if it is not there.
        kind: a key of ``_FORMATS``.
    """

    def __init__(self, folder: Path, kind: str, *, no_clobber: bool = False) -> None:
        self._folder, self._kind = folder, kind
        self._head, self._decimal_mark, self._escape = _FORMATS[kind]
        self._no_clobber = no_clobber
        self._out: OutputFile | None = None
        self._segments: list[Segment] = []
        self._start_seconds = 0.0
        check_folder(folder)

    def begin_video(self, video: SourceVideo) -> None:
        """Begins its file, unless it could not be opened."""
        self._out, self._segments = None, []
        if video.info is not None:
            self._start_seconds = video.start_seconds_in_file
            self._out = OutputFile(self._folder / f"{video.name}.{self._kind}", no_clobber=self._no_clobber)
            self._out.write(self._head)

    def segment(self, segment: Segment) -> None:
        """Kept until the video ends: cues are written by start, and labels may overlap."""
        self._segments.append(later(segment, self._start_seconds))

    def end_video(self, status: str, error: str) -> None:
        """Complete the file with what was seen, whatever the status."""
        if self._out is not None:
            for number, segment in enumerate(by_start(self._segments), start=1):
                text = self._escape(f"{' '.join(segment.label.split())} ({segment.score:.0%})")
                start, end = (self._clock(seconds) for seconds in (segment.start_seconds, segment.end_seconds))
                self._out.write(f"{number}\n{start} --> {end}\n{text}\n\n")
            out, self._out = self._out, None
            out.commit()

    def discard(self) -> None:
        """Files of earlier videos stay; the one begun does not."""
        if self._out is not None:
            self._out.discard()

    def _clock(self, seconds: float) -> str:
        minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
        clock = f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}"
        return f"{clock}{self._decimal_mark}{milliseconds % 1000:03}"
