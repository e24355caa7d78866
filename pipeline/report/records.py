"""Records of a video, a window and a segment, as written. Times and scores have three decimals, so that the last bits
of a float, which depend on the batch size and the machine, do not show."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment, VideoInfo

DECIMALS = 3

OK, ERROR, INTERRUPTED, CRASHED = "ok", "error", "interrupted", "crashed"
"""Status of a video at its end. Crashed: in a run with workers, the process that worked on it came to its end."""

ROW_FIELDS = ("path", "kind", "start_seconds", "end_seconds", "label", "score", "status", "error")
"""Columns of the tables. ``kind`` is window, segment, or video: the last row of each video, with its status."""


@dataclass(frozen=True)
class SourceVideo:
    """The video that the next windows and segments are of."""

    path: str
    """Path as the user named it; text that any file can hold."""
    name: str
    """Name of the files written for it, without a suffix; unique in the run."""
    info: VideoInfo | None = None
    """None if it could not be opened."""

    @property
    def duration_seconds(self) -> float:
        """Duration; 0 if it could not be opened."""
        return self.info.duration_seconds if self.info else 0.0

    @property
    def start_seconds_in_file(self) -> float:
        """Time on the file's clock of its first picture, from which all times are counted; 0 if not opened."""
        return self.info.start_seconds_in_file if self.info else 0.0


class Writer:
    """An output that is told of a run as it happens; this does nothing. For each video: ``begin_video``, windows and
    segments as they come, pictures if it wants them, ``end_video``. At the end ``close`` or ``discard``."""

    def begin_video(self, video: SourceVideo) -> None:
        """Begin a video: the calls that follow are of it."""

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """Add a window; ``probabilities`` float32 ``[K]`` are all of its scores."""

    def segment(self, segment: Segment) -> None:
        """Add a segment, which is final."""

    @property
    def wants_frames(self) -> bool:
        """True if ``frame`` is to be called with every picture of this video, after all windows and segments."""
        return False

    def frame(self, image: NDArray[np.uint8], time_seconds: float) -> None:
        """Add a picture, uint8 RGB ``[H, W, 3]``, not to be written into."""

    def end_video(self, status: str, error: str) -> None:
        """End the video. ``status`` is ok, error or interrupted; ``error`` says why."""

    def close(self) -> None:
        """Complete everything: the run is over."""

    def discard(self) -> None:
        """Give no incomplete file its name: the run failed."""


class RowWriter(Writer):
    """A writer of rows with the columns ``ROW_FIELDS``; those of a video end with one of kind ``video``."""

    def begin_video(self, video: SourceVideo) -> None:
        """Begin a video: the next rows are its."""
        self._video = video

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """Add a row."""
        self.add(_row("window", window_record(prediction) | {"path": self._video.path}))

    def segment(self, segment: Segment) -> None:
        """Add a row."""
        self.add(_row("segment", segment_record(segment) | {"path": self._video.path}))

    def end_video(self, status: str, error: str) -> None:
        """Add the last row."""
        self.add(video_row(self._video, status, error))

    def add(self, row: dict[str, Any]) -> None:
        """Add a row; None where it has no value."""
        raise NotImplementedError


def readable(path: Path | str) -> str:
    """Return a path as text that any file can hold: bytes of its name that are no UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


def rounded(value: float) -> float:
    """Round to the decimals of all output."""
    return round(float(value), DECIMALS)


def later(segment: Segment, seconds: float) -> Segment:
    """Return a segment moved in time."""
    start_seconds, end_seconds = segment.start_seconds + seconds, segment.end_seconds + seconds
    return replace(segment, start_seconds=start_seconds, end_seconds=end_seconds)


def by_start(segments: Iterable[Segment]) -> list[Segment]:
    """Return segments in order of time. They come in the order of their ends, and those of several labels overlap."""
    return sorted(segments, key=lambda segment: (segment.start_seconds, segment.end_seconds))


def window_record(prediction: Prediction) -> dict[str, Any]:
    """Return a window's record for JSON. Only a window that is unknown says so."""
    record = {
        "start_seconds": rounded(prediction.start_seconds),
        "end_seconds": rounded(prediction.end_seconds),
        "label": prediction.label,
        "score": rounded(prediction.score),
        "top_k": [{"label": label, "score": rounded(score)} for label, score in prediction.top_k],
    }
    return record | {"is_unknown": True} if prediction.is_unknown else record


def segment_record(segment: Segment) -> dict[str, Any]:
    """Return a segment's record for JSON."""
    return {
        "start_seconds": rounded(segment.start_seconds),
        "end_seconds": rounded(segment.end_seconds),
        "label": segment.label,
        "score": rounded(segment.score),
    }


def video_row(video: SourceVideo, status: str, error: str) -> dict[str, Any]:
    """Return a video's last row, without times if it could not be opened."""
    times = {"start_seconds": 0.0, "end_seconds": rounded(video.duration_seconds)} if video.info else {}
    return _row("video", {"path": video.path, "status": status, "error": error or None} | times)


def _row(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(ROW_FIELDS) | {"kind": kind} | {name: values[name] for name in ROW_FIELDS if name in values}
