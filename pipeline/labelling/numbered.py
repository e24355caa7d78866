"""``NumberedVideos``: the videos of a folder by the numbers under which the page asks for them, and their pictures."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import VideoInfo
from pipeline.errors import UserError
from pipeline.labelling.pictures import PictureServer
from pipeline.labelling.store import LabelStore
from pipeline.labelling.stretches import Span
from pipeline.labelling.survey import Survey


class NoSuchVideoError(Exception):
    """There is no video, or no picture, of that number."""


class NumberedVideos:
    """The videos of a folder; the number of each stays its own, whatever comes and goes. Any thread may ask.

    Args:
        store: the labels, which know the names.
        pictures: of the videos.
        survey: is told of what is opened, and of what cannot be.
    """

    def __init__(self, store: LabelStore, pictures: PictureServer, survey: Survey) -> None:
        self._store, self._pictures, self._survey = store, pictures, survey
        self._names: list[str] = []
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names by number; new videos get theirs."""
        with self._lock:
            known = set(self._names)
            self._names += [name for name in list(self._store.videos) if name not in known]
            return list(self._names)

    def name(self, number: object) -> str:
        """Return the name of a video. Raises ``NoSuchVideoError``."""
        return self._names[_place(number, len(self._names), f"no video {str(number)[:20]}")]

    def number(self, name: str) -> int:
        """Return the number of a video, which the store knows."""
        return self.names().index(name)

    def path(self, name: str) -> Path:
        """Return the file of a video that can be read. Raises ``UserError`` if it cannot."""
        self.open(name)
        return self._store.path_of(name)

    def open(self, name: str) -> tuple[VideoInfo, NDArray[np.float64]]:
        """Return facts of a video and the time of each of its pictures, float64 ``[N]``. Raises ``UserError`` if it
        cannot be read."""
        try:
            info, times = self._pictures.info(self._store.path_of(name))
        except UserError as error:
            self._survey.note_fault(name, str(error))
            raise
        self._survey.note(name, info)
        return info, times

    def jpeg(self, name: str, picture: str) -> bytes:
        """Return a picture. Raises ``NoSuchVideoError``, or ``UserError`` if the video cannot be read."""
        info, _ = self.open(name)
        place = _place(picture, info.num_frames, f"{name} has {info.num_frames} pictures, from 0 on")
        return self._pictures.jpeg(self._store.path_of(name), place)

    def snapped(self, name: str, span: Span, kept: Sequence[float] = ()) -> Span:
        """Return the span with its ends at times of pictures, or at the end of the video; those in ``kept`` stay."""
        try:
            info, times = self.open(name)
        except UserError:  # it may have vanished; its labels can be corrected all the same
            return span
        edges = np.append(times, info.duration_seconds)

        def at_picture(seconds: float) -> float:
            if seconds in kept or math.isinf(seconds):
                return seconds
            return round(float(edges[np.abs(edges - seconds).argmin()]), 6)

        return Span(span.label, at_picture(span.start_seconds), at_picture(span.end_seconds))


def _place(number: object, count: int, words: str) -> int:
    if not re.fullmatch(r"\d{1,9}", str(number), re.ASCII) or int(str(number)) >= count:
        raise NoSuchVideoError(words)
    return int(str(number))
