"""OpenCV behind the same interface: in order only, because its seeks give wrong frames.

It may read files whose packets prove the number of pictures, in containers that FFmpeg reads alike for OpenCV and
PyAV. Where the container stores times, the time OpenCV reports for each frame it gives is held against the index.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.decode.orientation import Orientation
from pipeline.decode.proof import CheckedBackend
from pipeline.decode.reader import Picture, VideoFile, indexed_picture


class OpencvBackend(CheckedBackend):
    """Grabs every picture from the start and converts those asked for.

    Raises:
        DecodeError: OpenCV is not known to be exact on this file, or cannot open it.
    """

    name = "OpenCV"
    mirrors = True

    def __init__(self, file: VideoFile) -> None:
        super().__init__(file)
        with self._capture():
            pass  # opens it once, to fail early

    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        """Exactly the pictures with these numbers."""
        with self._capture() as capture:
            position = 0
            for number in numbers:
                while position <= number:
                    self._grab(capture, position)
                    position += 1
                self._check_time(number, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                yield indexed_picture(self._index, number, partial(self._rgb, capture, number))

    @contextmanager
    def _capture(self) -> Iterator[cv2.VideoCapture]:
        self._file.check_usable()
        # Absolute, so that no file name can be read as a URL; FFmpeg only, so that none can name a camera or pictures.
        capture = cv2.VideoCapture(str(self._file.path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        try:
            if not capture.isOpened():
                raise self._refusal("open", "cannot open it")
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it turns pictures and forgets to mirror them
            yield capture
        finally:
            capture.release()

    def _grab(self, capture: cv2.VideoCapture, number: int) -> None:
        self._file.check_usable()
        if not capture.grab():
            raise self._refusal("decode", f"stops at frame {number} of {self._index.info.num_frames}")

    def _rgb(self, capture: cv2.VideoCapture, number: int) -> NDArray[np.uint8]:
        is_given, bgr = capture.retrieve()
        if not is_given:
            raise self._refusal("decode", f"cannot convert frame {number}")
        info = self._index.info
        orientation = Orientation(info.is_mirrored, info.rotation_degrees // 90)
        rgb = orientation.upright(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
        return self._checked(number, rgb)
