"""The stretches that ``predict`` finds, in the format of another tool; written when the run is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.clip import Segment
from pipeline.config import DecodeConfig
from pipeline.datasets.timelines.frames import Clock, clock_of_file
from pipeline.datasets.timelines.writing import writable_format, write_labelled
from pipeline.report.records import SourceVideo, Writer
from pipeline.sources import has_address
from pipeline.timeline.labelled import LabelledVideo


class StretchesFile(Writer):
    """The segments of all videos, as ``write_labelled`` writes them. Videos that could not be opened are not in it.

    Args:
        target: the file or folder.
        name: of the format.
        tell: called with each text about what the format cannot hold.
        inputs: files that may not be written over.

    Raises:
        UserError: the format is not written.
    """

    def __init__(
        self,
        target: Path,
        name: str,
        tell: Callable[[str], None],
        *,
        inputs: Iterable[Path | str] = (),
        no_clobber: bool = False,
    ) -> None:
        writable_format(name)
        self._inputs = tuple(inputs)
        self._target, self._name, self._tell, self._no_clobber = target, name, tell, no_clobber
        self._videos: list[LabelledVideo] = []
        self._files: dict[str, Path] = {}
        self._segments: list[Segment] = []
        self._video: SourceVideo | None = None

    def begin_video(self, video: SourceVideo) -> None:
        """Begin a video: the calls that follow are of it."""
        self._video, self._segments = video, []

    def segment(self, segment: Segment) -> None:
        """Keep a segment."""
        self._segments.append(segment)

    def end_video(self, status: str, error: str) -> None:
        """Keep the video with what was seen of it."""
        assert self._video is not None
        if self._video.info is not None:
            path, seconds = self._video.path, self._video.duration_seconds
            self._files[path] = self._video.info.path
            self._videos.append(LabelledVideo(path, tuple(self._segments), seconds))

    def close(self) -> None:
        """Write everything."""
        if self._videos:
            notes = write_labelled(
                self._videos,
                self._target,
                self._name,
                self._clock_of,
                path_of=lambda video: None if has_address(video.name) else self._files[video.name],
                inputs=self._inputs,
                no_clobber=self._no_clobber,
            )
            for note in notes:
                self._tell(note)

    def _clock_of(self, video: LabelledVideo) -> Clock:
        return clock_of_file(self._files[video.name], DecodeConfig())
