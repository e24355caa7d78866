"""Events as they happen, a JSON object a line: what other programs follow while the run goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.errors import UserError
from pipeline.report.files import STDOUT, failures_of
from pipeline.report.records import SourceVideo, rounded, segment_record, window_record
from pipeline.schema import to_json


class EventLines:
    """Lines ``{"event": ..., ...}``, each handed to the system as soon as it is known, so that the file can be read at
    any moment and a killed run leaves whole lines.

    Args:
        target: a path, whose file begins anew, or - for standard output.
    """

    def __init__(self, target: str) -> None:
        self._put: Callable[[str], None]
        if target == STDOUT:
            self._file, self._put = None, _print_line
        else:
            self._file = _LineFile(Path(target))
            self._put = self._file.write

    def event(self, kind: str, **values: Any) -> None:
        """One line; floats are rounded as in all output. ``kind`` is free: window, segment, signal_lost ..."""
        record = {"event": kind} | {k: rounded(v) if isinstance(v, float) else v for k, v in values.items()}
        self._put(to_json(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """No more events."""
        if self._file is not None:
            self._file.close()


class JsonLines:
    """A run over video files as events: ``run``, then for each video ``video``, ``window`` and ``segment`` as they
    come, and ``end`` with its status.

    Args:
        target: a path, or - for standard output.
        header: facts about the model, which go into the first event.
    """

    def __init__(self, target: str, header: dict[str, Any]) -> None:
        self._events = EventLines(target)
        self._path = ""
        self._events.event("run", **header)

    def begin_video(self, video: SourceVideo) -> None:
        """An event without times if it could not be opened."""
        self._path = video.path
        facts = {"duration_seconds": video.duration_seconds} if video.info else {}
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
        """What is written stays: it is true."""
        self._events.close()


class _LineFile:
    """Whole lines only: one that does not fit is taken back, and the file closed."""

    def __init__(self, path: Path) -> None:
        self._path, self._length = path, 0
        with failures_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("wb", buffering=0)

    def write(self, line: str) -> None:
        content = line.encode()
        try:
            with failures_of(self._path):
                left = memoryview(content)
                while left:
                    left = left[self._stream.write(left) :]
        except UserError:
            with suppress(OSError):  # no plain file: nothing to take back
                os.ftruncate(self._stream.fileno(), self._length)
            self.close()
            raise
        self._length += len(content)

    def close(self) -> None:
        self._stream.close()


def _print_line(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
