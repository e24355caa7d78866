"""decord behind the same interface: one frame after the other only.

Its seeks give wrong frames in AVI with B-frames, and ``skip_frames`` gives them in MP4 too. So every frame up to the
last one wanted is decoded and converted: exact, and slow deep in a long file.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial

import decord
import numpy as np
from numpy.typing import NDArray

from pipeline.decode.proof import check_size, refuse_mirrored, refuse_unproven
from pipeline.decode.reader import Picture, VideoFile, indexed_picture
from pipeline.errors import DecodeError


class DecordBackend:
    """Takes every picture from the start and hands on those asked for.

    Raises:
        DecodeError: decord is not known to be exact on this file, or cannot open it.
    """

    def __init__(self, file: VideoFile) -> None:
        self._file, self._index = file, file.index
        refuse_unproven(file, "decord")
        refuse_mirrored(file, "decord")
        self._open()  # to fail early

    def walk(self) -> Generator[Picture, None, None]:
        return self.pick(range(self._index.info.num_frames))

    def pick(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        reader, position = self._open(), 0
        for number in numbers:
            while position < number:
                self._next(reader, position)
                position += 1
            image = self._next(reader, number).asnumpy()
            position += 1
            check_size(self._file, image, number, "decord")
            yield indexed_picture(self._index, number, partial(_fresh, image))

    def _open(self) -> decord.VideoReader:
        path, num_frames = self._file.path, self._index.info.num_frames
        self._file.check_usable()
        try:
            # Absolute, so that no file name can be read as a URL.
            reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1)
        except decord.DECORDError as error:
            raise DecodeError(path, "open", f"decord cannot open it; use the pyav decoder. {_brief(error)}") from error
        if len(reader) != num_frames:
            cause = f"decord counts {len(reader)} frames and the packets {num_frames}; use the pyav decoder"
            raise DecodeError(path, "open", cause)
        return reader

    def _next(self, reader: decord.VideoReader, number: int) -> decord.ndarray.NDArray:
        self._file.check_usable()
        try:
            return reader.next()
        except (StopIteration, decord.DECORDError) as error:
            cause = f"decord stops at frame {number} of {self._index.info.num_frames}; use the pyav decoder"
            raise DecodeError(self._file.path, "decode", cause) from error


def _fresh(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image.copy()


def _brief(error: decord.DECORDError) -> str:
    return str(error).splitlines()[0] if str(error) else ""
