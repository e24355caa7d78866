"""Events as they happen, a JSON object a line, for programs that follow the run while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.files.writing import LineFile
from pipeline.report.records import SourceVideo, Writer, rounded, segment_record, window_record
from pipeline.schema import to_json


class EventLines:
    """Lines ``{"event": ..., ...}``, each handed to the system as soon as it is known, so that the file can be read at
    any moment and a killed run leaves whole lines.

    Args:
        path: a file, which begins anew, or - for standard output.
        no_clobber: refuse a file that is there.
    """

    def __init__(self, path: Path, *, no_clobber: bool = False) -> None:
        self._lines = LineFile(path, "x" if no_clobber else "w")

    def event(self, kind: str, **values: Any) -> None:
        """One line; floats are rounded as in all output. ``kind`` is free: window, segment, signal_lost ..."""
        record = {"event": kind} | {k: rounded(v) if isinstance(v, float) else v for k, v in values.items()}
        self._lines.write(to_json(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """No more events."""
        self._lines.close()


class JsonLines(Writer):
    """A run over video files as events: ``run``, then for each video ``video``, ``window`` and ``segment`` as they
    come, and ``end`` with its status.

    Args:
        path: a file, which begins anew, or - for standard output.
        header: facts about the model, which go into the first event.
        no_clobber: refuse a file that is there.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, no_clobber: bool = False) -> None:
        self._events = EventLines(path, no_clobber=no_clobber)
        self._path = ""
        self._events.event("run", **header)

    def begin_video(self, video: SourceVideo) -> None:
        """An event without times if it could not be opened."""
        self._path = video.path
        times = {"duration_seconds": video.duration_seconds, "start_seconds_in_file": video.start_seconds_in_file}
        facts = times if video.info else {}
        self._events.event("video", path=video.path, **facts)

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """One event."""
        self._events.event("window", path=self._path, **window_record(prediction))

    def segment(self, segment: Segment) -> None:
        """One event, when the segment is final."""
        self._events.event("segment", path=self._path, **segment_record(segment))

    def end_video(self, status: str, error: str) -> None:
        """One event."""
        self._events.event("end", path=self._path, status=status, **({"error": error} if error else {}))

    def close(self) -> None:
        """No more events."""
        self._events.close()

    def discard(self) -> None:
        """Close the file; the events written stay, for they are true."""
        self._events.close()
