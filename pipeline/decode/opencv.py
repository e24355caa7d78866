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
from pipeline.decode.proof import check_size, check_time, refuse_unproven
from pipeline.decode.reader import Picture, VideoFile, indexed_picture
from pipeline.errors import DecodeError


class OpencvBackend:
    """Grabs every picture from the start and converts those asked for.

    Raises:
        DecodeError: OpenCV is not known to be exact on this file, or cannot open it.
    """

    def __init__(self, file: VideoFile) -> None:
        self._file, self._index = file, file.index
        refuse_unproven(file, "opencv")
        with self._capture():
            pass  # opens it once, to fail early

    def walk(self) -> Generator[Picture, None, None]:
        return self.pick(range(self._index.info.num_frames))

    def pick(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        with self._capture() as capture:
            position = 0
            for number in numbers:
                while position <= number:
                    self._grab(capture, position)
                    position += 1
                check_time(self._file, number, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, "OpenCV")
                yield indexed_picture(self._index, number, partial(self._rgb, capture, number))

    @contextmanager
    def _capture(self) -> Iterator[cv2.VideoCapture]:
        self._file.check_usable()
        # Absolute, so that no file name can be read as a URL; FFmpeg only, so that none can name a camera or pictures.
        capture = cv2.VideoCapture(str(self._file.path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        try:
            if not capture.isOpened():
                raise DecodeError(self._file.path, "open", "OpenCV cannot open it; use the pyav decoder")
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it turns pictures and forgets to mirror them
            yield capture
        finally:
            capture.release()

    def _grab(self, capture: cv2.VideoCapture, number: int) -> None:
        self._file.check_usable()
        if not capture.grab():
            cause = f"OpenCV stops at frame {number} of {self._index.info.num_frames}; use the pyav decoder"
            raise DecodeError(self._file.path, "decode", cause)

    def _rgb(self, capture: cv2.VideoCapture, number: int) -> NDArray[np.uint8]:
        is_given, bgr = capture.retrieve()
        if not is_given:
            raise DecodeError(self._file.path, "decode", f"OpenCV cannot convert frame {number}; use the pyav decoder")
        info = self._index.info
        orientation = Orientation(info.is_mirrored, info.rotation_degrees // 90)
        rgb = orientation.upright(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
        check_size(self._file, rgb, number, "OpenCV")
        return rgb
