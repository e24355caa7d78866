"""Videos with label, score and time drawn in: of any pictures one by one, or of each video of a run."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.files.writing import check_folder
from pipeline.report.drawing import Caption, as_shown, draw_caption
from pipeline.report.mp4 import Mp4File
from pipeline.report.own import ANNOTATED
from pipeline.report.records import SourceVideo, Writer


class AnnotatedVideo(Mp4File):
    """An MP4 to which annotated pictures are added one by one, of a file or a camera."""

    def write(
        self,
        image: NDArray[np.uint8],
        time_seconds: float,
        label: str = "",
        score: float = 0.0,
        segments: tuple[str, ...] = (),
    ) -> None:
        """Add a picture.

        Args:
            image: uint8 RGB ``[H, W, 3]`` or ``[3, H, W]``; not changed.
            time_seconds: from the start of the video; later than the picture before.
            label: the best label now.
            score: its score, 0 to 1.
            segments: the actions that are going on.

        Raises:
            UserError: the disk takes no more.
            ValueError: the picture has another shape.
        """
        if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]):
            raise ValueError(f"a frame is uint8 RGB [H, W, 3] or [3, H, W], got {list(image.shape)}")
        if image.shape[2] != 3:
            image = image.transpose(1, 2, 0)  # [3, H, W] -> [H, W, 3]
        super().write(draw_caption(image, Caption(time_seconds, label, score, segments)), time_seconds)


class PredictionTrack:
    """Windows and segments of a video, by time: 20 bytes a window."""

    def __init__(self) -> None:
        self._middles, self._scores, self._labels = array("d"), array("d"), array("i")
        self._names: dict[str, int] = {}
        self._segments: list[Segment] = []  # by start
        self._longest_seconds = 0.0

    def add_window(self, prediction: Prediction) -> None:
        """Add the next one, in order."""
        self._middles.append((prediction.start_seconds + prediction.end_seconds) / 2)
        self._scores.append(prediction.score)
        self._labels.append(self._names.setdefault(prediction.label, len(self._names)))

    def add_segment(self, segment: Segment) -> None:
        """Add one that is final, in any order."""
        insort(self._segments, segment, key=_start_seconds)
        self._longest_seconds = max(self._longest_seconds, segment.end_seconds - segment.start_seconds)

    def caption(self, time_seconds: float) -> Caption:
        """Return the caption: the window whose middle is nearest, and the segments that the time lies in."""
        stop = bisect_right(self._segments, time_seconds, key=_start_seconds)
        first = bisect_left(self._segments, time_seconds - self._longest_seconds, hi=stop, key=_start_seconds)
        begun = self._segments[first:stop]
        segments = tuple(segment.label for segment in begun if time_seconds < segment.end_seconds)
        if not self._middles:
            return Caption(time_seconds, segments=segments)
        after = min(bisect_left(self._middles, time_seconds), len(self._middles) - 1)
        before = max(after - 1, 0)
        nearest = min(before, after, key=lambda window: abs(self._middles[window] - time_seconds))
        return Caption(time_seconds, list(self._names)[self._labels[nearest]], self._scores[nearest], segments)


def _start_seconds(segment: Segment) -> float:
    return segment.start_seconds


class AnnotatedVideos(Writer):
    """``<name>.annotated.mp4`` for each video of a run: its own frame times and size, upright and with square pixels.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path, *, no_clobber: bool = False) -> None:
        self._folder, self._no_clobber = folder, no_clobber
        self.begin_video(SourceVideo("", ""))
        check_folder(folder)

    def begin_video(self, video: SourceVideo) -> None:
        """Nothing is written before the first picture."""
        self._video, self._track = video, PredictionTrack()
        self._out: AnnotatedVideo | None = None

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """Kept until the pictures come."""
        self._track.add_window(prediction)

    def segment(self, segment: Segment) -> None:
        """Kept until the pictures come."""
        self._track.add_segment(segment)

    @property
    def wants_frames(self) -> bool:
        """All of them."""
        return True

    def frame(self, image: NDArray[np.uint8], time_seconds: float) -> None:
        """Drawn and encoded."""
        assert self._video.info is not None
        if self._out is None:
            path = self._folder / f"{self._video.name}{ANNOTATED}"
            self._out = AnnotatedVideo(path, self._video.info.average_fps, no_clobber=self._no_clobber)
        caption = self._track.caption(time_seconds)
        image = as_shown(image, self._video.info.sample_aspect_ratio)
        self._out.write(image, time_seconds, caption.label, caption.score, caption.segments)

    def end_video(self, status: str, error: str) -> None:
        """Completes the file with the pictures it got. No picture, no file."""
        if self._out is not None:
            self._out.close(self._video.duration_seconds if status == "ok" else None)

    def discard(self) -> None:
        """Files of earlier videos stay; the one begun does not."""
        if self._out is not None:
            self._out.discard()
