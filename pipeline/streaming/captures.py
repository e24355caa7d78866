"""Captures: one picture after the other from a camera, a URL, or a file that is played at its own speed.

They are opened, read and closed in one thread. A read may take long, and with some drivers it never returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from threading import Event
from typing import Protocol

import cv2
import numpy as np

from pipeline.clip import Image
from pipeline.decode import VideoOpener
from pipeline.errors import DecodeError
from pipeline.streaming.sources import Source

# A file's end is told this much later, so that its last grid frame can be taken before.
_END_SECONDS = 0.1


class SignalLost(Exception):  # noqa: N818 (nobody's mistake)
    """No connection, or none any more; another attempt may succeed. The text says what happened."""


class SourceEnded(Exception):  # noqa: N818
    """There is nothing more to come. The text is empty, or says what is wrong with the rest."""


class Capture(Protocol):
    """An open source."""

    def read(self) -> tuple[Image | None, float]:
        """The next picture, uint8 RGB ``[H, W, 3]``, and when it was captured by the monotonic clock. None for what is
        no picture.

        Raises:
            SignalLost: the connection broke.
            SourceEnded: that was all.
        """

    def close(self) -> None:
        """Lets go of the source."""


Opener = Callable[[Event], Capture]
"""Opens a source; the event is set when nobody wants the capture any more. Raises as ``Capture.read``."""


class CameraCapture:
    """A camera or URL by OpenCV.

    Raises:
        SignalLost: it cannot be opened.
    """

    def __init__(self, source: Source, timeout_seconds: float) -> None:
        milliseconds = round(1000 * timeout_seconds)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        if source.kind == "network":  # only this backend keeps the limits, and only if given at once
            self._capture = cv2.VideoCapture(source.address, cv2.CAP_FFMPEG, limits)
            self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # upright; the default has changed before
        else:
            address = source.address
            self._capture = cv2.VideoCapture(int(address) if address.isdigit() else address)
        if not self._capture.isOpened():
            self._capture.release()
            doubt = "is it on, is the address right, does it ask for a user and a password?"
            doubt = "in use by another program, or not a camera" if source.kind == "camera" else doubt
            raise SignalLost(f"cannot be opened ({doubt})")

    def read(self) -> tuple[Image | None, float]:
        try:
            is_read, picture = self._capture.read()
        except cv2.error:  # a picture that cannot be converted
            return None, time.monotonic()
        captured_seconds = time.monotonic()
        if not is_read:
            raise SignalLost("gives no more pictures")
        return as_rgb(picture), captured_seconds

    def close(self) -> None:
        self._capture.release()


def as_rgb(picture: object) -> Image | None:
    """OpenCV's picture as RGB; None if it is no picture in colours."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        return None
    if not picture.size or picture.shape[2:] != (3,):
        return None
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


class _ReplayCapture:
    """A file at its own speed, by the exact decoder; each picture counts as captured when it is due.

    Raises:
        SourceEnded: it cannot be read.
    """

    def __init__(self, source: Source, opener: VideoOpener, given_up: Event) -> None:
        self._pictures = _paced(source, opener, given_up)

    def read(self) -> tuple[Image | None, float]:
        try:
            return next(self._pictures)
        except StopIteration:
            raise SourceEnded("") from None
        except DecodeError as error:
            raise SourceEnded(str(error)) from error

    def close(self) -> None:
        self._pictures.close()


def _paced(source: Source, opener: VideoOpener, given_up: Event) -> Generator[tuple[Image, float], None, None]:
    with opener.open(source.address) as reader, closing(reader.images()) as pictures:
        end_seconds, start = reader.info.duration_seconds, time.monotonic()
        for picture, pts_seconds in pictures:
            if given_up.wait(max(0.0, start + pts_seconds - time.monotonic())):
                return
            yield picture, start + pts_seconds
        given_up.wait(max(0.0, start + end_seconds + _END_SECONDS - time.monotonic()))


def open_source(source: Source, timeout_seconds: float, opener: VideoOpener, given_up: Event) -> Capture:
    """A live source, or a file that is played as one.

    Raises:
        SignalLost: a camera or URL cannot be opened.
    """
    if source.kind == "replay":
        return _ReplayCapture(source, opener, given_up)
    return CameraCapture(source, timeout_seconds)
