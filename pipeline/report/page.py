"""One self-contained HTML page a video: the video, its scores over time, its segments; a click goes there.

The video is inside the page if it is small and browsers play its kind, else beside it. Of a kind that browsers do not
play, such as the XviD AVIs of UCF101, the page gets an H.264 copy of moderate size.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment, VideoInfo
from pipeline.files.failures import OutputError, failures_of, reason_of
from pipeline.files.writing import OutputFile, check_folder
from pipeline.report.drawing import as_shown, shrunk
from pipeline.report.mp4 import Mp4File, encoder_name
from pipeline.report.own import PREVIEW
from pipeline.report.records import OK, SourceVideo, Writer, by_start, later, rounded, segment_record
from pipeline.report.strip import ScoreStrip
from pipeline.report.templates import template
from pipeline.schema import to_json

_NUM_STRIP_LABELS = 8
_PREVIEW_SIZE_PX = 640
"""The longer side of the copy made for browsers."""
MAX_SEGMENTS = 2_000
"""Segments listed at most; a page of more would be too large to be read, by people or browsers."""

# What every current browser plays: by suffix, for a page that is opened from disk has no other sign; and by codec.
_MP4, _WEBM = ("mov,mp4,m4a,3gp,3g2,mj2", "video/mp4"), ("matroska,webm", "video/webm")  # FFmpeg's names, and the web's
_PLAYED = {".mp4": _MP4, ".m4v": _MP4, ".mov": _MP4, ".webm": _WEBM}
_PLAYED_CODECS = frozenset({"h264", "vp8", "vp9", "av1", "libdav1d"})


def browsers_play(info: VideoInfo) -> bool:
    """Return true if a browser can be expected to show the file as it is: by its name and by what is really in it, with
    no other video stream that it might take."""
    container, _ = _PLAYED.get(info.path.suffix.lower(), ("", ""))
    return info.container == container and info.codec in _PLAYED_CODECS and info.num_video_streams == 1


class HtmlPages(Writer):
    """``<name>.html`` for each video of a run, and ``<name>.preview.mp4`` where a copy is too large to be inside.

    Args:
        folder: made if it is not there.
        labels: ``[K]`` class names.
        max_embedded_mb: a larger video is not put into the page.
        may_overlap: a track for each label, in place of one for all.
        no_clobber: refuse to replace a page.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        max_embedded_mb: float,
        *,
        may_overlap: bool = False,
        no_clobber: bool = False,
    ) -> None:
        self._folder, self._labels, self._max_bytes = folder, labels, int(1e6 * max_embedded_mb)
        self._may_overlap, self._no_clobber = may_overlap, no_clobber
        self.begin_video(SourceVideo("", ""))
        check_folder(folder)

    def begin_video(self, video: SourceVideo) -> None:
        """Nothing is written before the end."""
        self._video, self._strip, self._num_segments = video, ScoreStrip(), 0
        self._segments: list[Segment] = []
        self._preview: Mp4File | None = None

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """Add a window to the strip."""
        self._strip.add((prediction.start_seconds + prediction.end_seconds) / 2, probabilities)

    def segment(self, segment: Segment) -> None:
        """Add a segment to the list, while there is room."""
        self._num_segments += 1
        if len(self._segments) < MAX_SEGMENTS:
            self._segments.append(segment)

    @property
    def wants_frames(self) -> bool:
        """True if pictures are needed for a copy that browsers play."""
        info = self._video.info
        return info is not None and not browsers_play(info) and encoder_name() == "libx264"

    def frame(self, image: NDArray[np.uint8], time_seconds: float) -> None:
        """Add a picture to the copy."""
        assert self._video.info is not None
        if self._preview is None:
            path = self._folder / f"{self._video.name}{PREVIEW}"
            self._preview = Mp4File(path, self._video.info.average_fps, no_clobber=self._no_clobber)
        shown = as_shown(image, self._video.info.sample_aspect_ratio)
        self._preview.write(shrunk(shown, _PREVIEW_SIZE_PX), time_seconds)

    def end_video(self, status: str, error: str) -> None:
        """Writes the page, of whatever was seen. A video that could not be opened has none."""
        if self._video.info is None:
            return
        path = self._folder / f"{self._video.name}.html"
        with OutputFile(path, no_clobber=self._no_clobber) as out:
            try:
                out.write(self._page(self._video.info, status, error))
            except MemoryError as problem:
                cure = "lower --html_embed_mb"
                raise OutputError(f"{path}: the page does not fit into the memory; {cure}") from problem

    def _page(self, info: VideoInfo, status: str, error: str) -> str:
        source, mime = self._media(info)
        # On the clock of what is played: that of the file, or of a copy that begins with the first picture.
        start = info.start_seconds_in_file if browsers_play(info) else 0.0
        segments = [later(segment, start) for segment in by_start(self._segments)]
        data = to_json(self._data(segments, status, error, start), ensure_ascii=False)
        return template("report/page.html").render(
            title=Path(self._video.path).name,
            notes=self._notes(status, error),
            info=info,
            source=source,
            mime=mime,
            segments=segments,
            may_overlap=self._may_overlap,
            data=Markup(data.replace("<", "\\u003c")),  # so that no label ends the script
        )

    def _data(self, segments: Sequence[Segment], status: str, error: str, start_seconds: float) -> dict[str, Any]:
        """Return the data of the page's script: the segments, and the strip of the best labels, whose times, and the
        video's end, are moved to the player's clock, on which the first picture is at ``start_seconds``."""
        strip, means = self._strip, self._strip.means()
        rows = strip.top_labels(_NUM_STRIP_LABELS)
        if self._may_overlap:  # every label with a segment has its track, in the order of the labels
            shown = {self._labels.index(segment.label) for segment in segments} if rows else set()
            rows = sorted(shown | set(rows))
        return {
            "path": self._video.path,
            "duration_seconds": rounded(start_seconds + self._video.duration_seconds),
            "status": status,
            "error": error,
            "segments": [segment_record(segment) for segment in segments],
            "strip": {
                "times_seconds": [rounded(start_seconds + time) for time in strip.times_seconds],
                "rows": [{"label": self._labels[k], "scores": [rounded(score) for score in means[:, k]]} for k in rows],
            },
        }

    def _notes(self, status: str, error: str) -> Iterator[str]:
        if status != OK:
            yield f"{status}: {error}" if error else status
        if self._num_segments > len(self._segments):
            yield f"the first {len(self._segments)} of {self._num_segments} segments; the JSON and the CSV have all"

    def _media(self, info: VideoInfo) -> tuple[str, str]:
        """Return address and type of the video that the page plays; empty if there is none."""
        if browsers_play(info):
            _, mime = _PLAYED[info.path.suffix.lower()]
            try:
                if info.path.stat().st_size <= self._max_bytes:
                    return _data_address(info.path, mime), mime
            except OSError as error:
                raise OutputError(f"{info.path}: cannot be read for its page: {reason_of(error)}") from error
            return relative_address(info.path, self._folder), mime
        if self._preview is None:
            return "", ""
        preview, self._preview = self._preview, None
        try:
            preview.finish(info.duration_seconds)
            if preview.temporary.stat().st_size <= self._max_bytes:
                return _data_address(preview.temporary, "video/mp4"), "video/mp4"
            preview.commit()
            return quote(os.fsencode(f"{self._video.name}{PREVIEW}")), "video/mp4"
        finally:
            preview.discard()  # does nothing to a file that has its name

    def discard(self) -> None:
        """Pages of earlier videos stay."""
        if self._preview is not None:
            self._preview.discard()


def _data_address(path: Path, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"


def relative_address(path: Path, folder: Path) -> str:
    """Return the address of a file for a page in a folder."""
    with failures_of(folder):
        relative = os.path.relpath(path.resolve(), folder.resolve()).replace(os.sep, "/")
        return quote(os.fsencode(relative))
