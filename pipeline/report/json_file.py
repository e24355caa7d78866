"""One JSON object for a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.files.writing import OutputFile
from pipeline.report.records import (
    INTERRUPTED,
    OK,
    SourceVideo,
    Writer,
    by_start,
    rounded,
    segment_record,
    window_record,
)
from pipeline.schema import to_json


class JsonFile(Writer):
    """``{<header>, "videos": [{"path", "duration_seconds", "start_seconds_in_file", "windows", "segments", "status",
    "error"} ...], "status"}``. Times are counted from the first picture, which the file's clock has at
    ``start_seconds_in_file``.

    Windows are written as they come; the segments of one video are held until it ends. A video that could not be
    opened has status ``error`` and the reason; one that broke off keeps what was seen. The last ``status`` is
    ``interrupted`` if the run was.

    Args:
        path: the file, or - for standard output.
        header: facts about the model, put first.
        no_clobber: refuse to replace a file.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, no_clobber: bool = False) -> None:
        self._out = OutputFile(path, no_clobber=no_clobber)
        self._segments: list[Segment] = []
        self._num_videos = self._num_windows = 0
        self._status = OK
        self._out.write(_dump(header)[:-1] + (", " if header else "") + '"videos": [')

    def begin_video(self, video: SourceVideo) -> None:
        """Opens its object."""
        times = {"duration_seconds": video.duration_seconds, "start_seconds_in_file": video.start_seconds_in_file}
        start = _dump({"path": video.path} | {name: rounded(seconds) for name, seconds in times.items()})
        self._out.write(("," if self._num_videos else "") + f'\n{start[:-1]}, "windows": [')
        self._num_videos += 1
        self._num_windows, self._segments = 0, []

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """One more window."""
        self._out.write(("," if self._num_windows else "") + "\n " + _dump(window_record(prediction)))
        self._num_windows += 1

    def segment(self, segment: Segment) -> None:
        """Kept until the windows are over."""
        self._segments.append(segment)

    def end_video(self, status: str, error: str) -> None:
        """Closes its object."""
        segments = [segment_record(segment) for segment in by_start(self._segments)]
        end = {"segments": segments, "status": status} | ({"error": error} if error else {})
        self._out.write("], " + _dump(end)[1:])
        self._status = INTERRUPTED if status == INTERRUPTED else self._status

    def close(self) -> None:
        """Closes the run's object."""
        self._out.write(f'\n], "status": "{self._status}"}}\n')
        self._out.commit()

    def discard(self) -> None:
        """No file."""
        self._out.discard()


def _dump(value: Any) -> str:
    return to_json(value, ensure_ascii=False)
