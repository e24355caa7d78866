"""``Survey``: how long each video is, found out in the background, and why one cannot be read."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from pipeline.clip import VideoInfo
from pipeline.decode import VideoOpener
from pipeline.errors import UserError
from pipeline.labelling.store import LabelStore


class Survey:
    """Reads the packets of every video once, in a thread of its own; indexes stay in the user's cache.

    Attributes:
        durations_seconds: by name, of the videos that were read.
        faults: by name, why others cannot be.
        revision: grows with each of these.
    """

    def __init__(self, store: LabelStore, opener: VideoOpener) -> None:
        self._store, self._opener = store, opener
        self.durations_seconds: dict[str, float] = {}
        self.faults: dict[str, str] = {}
        self.revision = 0
        self._wake, self._is_closing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="survey of videos", daemon=True)
        self._thread.start()

    def look_again(self) -> None:
        """Look at videos that are new, and once more at those that could not be read."""
        self._wake.set()

    def note(self, name: str, info: VideoInfo) -> None:
        """Take over what somebody else has read."""
        if name not in self.durations_seconds:
            self.durations_seconds[name] = info.duration_seconds
            self.faults.pop(name, None)
            self.revision += 1

    def note_fault(self, name: str, cause: str) -> None:
        """Take over why it could not be read."""
        if self.faults.get(name) != cause:
            self.faults[name] = cause
            self.durations_seconds.pop(name, None)
            self.revision += 1

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.clear()
            self._look_at(name for name in list(self._store.videos) if name not in self.durations_seconds)
            self._wake.wait()

    def _look_at(self, names: Iterable[str]) -> None:
        for name in names:
            if self._is_closing:
                return
            self._look_at_one(name)

    def _look_at_one(self, name: str) -> None:
        try:
            with self._opener.open(self._store.path_of(name)) as reader:
                self.note(name, reader.info)
        except UserError as error:
            self.note_fault(name, str(error))

    def close(self) -> None:
        """End the thread."""
        self._is_closing = True
        self._wake.set()
        self._thread.join()
