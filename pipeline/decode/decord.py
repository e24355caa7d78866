"""decord behind the same interface: one frame after the other only.

Its seeks give wrong frames in AVI with B-frames, and ``skip_frames`` gives them in MP4 too. So every frame up to the
last one wanted is decoded and converted: exact, and slow deep in a long file.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import decord

from pipeline.decode.proof import CheckedBackend
from pipeline.decode.reader import Picture, VideoFile, indexed_picture


class DecordBackend(CheckedBackend):
    """Takes every picture from the start and hands on those asked for.

    Raises:
        DecodeError: decord is not known to be exact on this file, or cannot open it.
    """

    name = "decord"

    def __init__(self, file: VideoFile) -> None:
        super().__init__(file)
        self._open()  # to fail early

    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        """Exactly the pictures with these numbers."""
        reader, position = self._open(), 0
        for number in numbers:
            while position < number:
                self._next(reader, position)
                position += 1
            image = self._checked(number, self._next(reader, number).asnumpy())
            position += 1
            yield indexed_picture(self._index, number, image.copy)

    def _open(self) -> decord.VideoReader:
        self._file.check_usable()
        try:
            # Absolute, so that no file name can be read as a URL.
            reader = decord.VideoReader(str(self._file.path.absolute()), ctx=decord.cpu(0), num_threads=1)
        except decord.DECORDError as error:
            raise self._refusal("open", "cannot open it", error) from error
        self._check_count(len(reader))
        return reader

    def _next(self, reader: decord.VideoReader, number: int) -> decord.ndarray.NDArray:
        self._file.check_usable()
        try:
            return reader.next()
        except (StopIteration, decord.DECORDError) as error:
            cause = f"stops at frame {number} of {self._index.info.num_frames}"
            raise self._refusal("decode", cause) from error
