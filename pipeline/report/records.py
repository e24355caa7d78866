"""Records of a video, a window and a segment, as written. Times and scores have three decimals, so that the last bits
of a float, which depend on the batch size and the machine, do not show."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

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


class Writer(Protocol):
    """Something that is told of a run as it happens. For each video: ``begin_video``, windows and segments as they
    come, ``end_video``. At the end ``close`` or ``discard``."""

    def begin_video(self, video: SourceVideo) -> None:
        """Begin a video: the calls that follow are of it."""

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """Add a window; ``probabilities`` float32 ``[K]`` are all of its scores."""

    def segment(self, segment: Segment) -> None:
        """Add a segment, which is final."""

    def end_video(self, status: str, error: str) -> None:
        """End the video. ``status`` is ok, error or interrupted; ``error`` says why."""

    def close(self) -> None:
        """Complete everything: the run is over."""

    def discard(self) -> None:
        """Give no incomplete file its name: the run failed."""


class FrameWriter(Writer, Protocol):
    """A writer that wants the pictures too, in a second pass, when all windows and segments are known."""

    @property
    def wants_frames(self) -> bool:
        """True if ``frame`` is to be called with every picture of this video, before ``end_video``."""

    def frame(self, image: NDArray[np.uint8], time_seconds: float) -> None:
        """Add a picture, uint8 RGB ``[H, W, 3]``, not to be written into."""


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


def item_row(path: str, item: Prediction | Segment) -> dict[str, Any]:
    """Return a window or a segment as a row of a table."""
    kind = "window" if isinstance(item, Prediction) else "segment"
    record = window_record(item) if isinstance(item, Prediction) else segment_record(item)
    record = {name: value for name, value in record.items() if name in ROW_FIELDS}
    return dict.fromkeys(ROW_FIELDS) | {"path": path, "kind": kind} | record


def video_row(video: SourceVideo, status: str, error: str) -> dict[str, Any]:
    """Return a video's last row, without times if it could not be opened."""
    row = dict.fromkeys(ROW_FIELDS) | {"path": video.path, "kind": "video", "status": status, "error": error or None}
    if video.info is not None:
        row |= {"start_seconds": 0.0, "end_seconds": rounded(video.duration_seconds)}
    return row
