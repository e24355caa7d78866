"""Checks that an adapter to another decoder must pass before its frames are believed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import closing, suppress

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.pyav import PyavBackend
from pipeline.decode.reader import Picture, VideoFile
from pipeline.errors import DecodeError

_CURE = "use the pyav decoder"


class CheckedBackend(ABC):
    """Another decoder than pyav, which reads only files that it numbers like the index, in their only video stream.

    Raises:
        DecodeError: at stage ``open``; it might number the pictures of this file in its own way.
    """

    name: str
    """The decoder, for errors."""
    mirrors = False
    """True if its pictures can be mirrored, not only turned."""

    def __init__(self, file: VideoFile) -> None:
        self._file, self._index = file, file.index
        header = file.header
        if not self._index.is_proven:
            raise self._refusal("open", f"is not known to be exact on this {header.codec} in {header.container}")
        if header.num_video_streams > 1:
            raise self._refusal("open", f"may choose another of its {header.num_video_streams} video streams")
        if header.is_timed and self._index.ticks is None:
            raise self._refusal("open", "cannot be checked, because the file's times cannot be trusted")
        if self._index.info.is_mirrored and not self.mirrors:
            raise self._refusal("open", "does not mirror pictures, as the file asks")
        if self._changes_size():
            raise self._refusal("open", "would scale pictures, because their size changes within the file")

    def iter_frames(self) -> Generator[Picture, None, None]:
        """Every picture in order."""
        return self.get_frames(range(self._index.info.num_frames))

    @abstractmethod
    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        """Exactly the pictures with these numbers."""

    def _changes_size(self) -> bool:
        """True if a picture near the end is of another size than the first, as pyav has it."""
        info, keys = self._index.info, self._index.keyframes
        if len(keys) > 1:
            with suppress(DecodeError), closing(PyavBackend(self._file).get_frames([int(keys[-1])])) as pictures:
                return next(pictures).rgb().shape != (info.height, info.width, 3)
        return False

    def _refusal(self, stage: str, cause: str, error: Exception | None = None) -> DecodeError:
        """Return the error of a file that this decoder cannot read; with the first line of its own."""
        brief = f". {str(error).splitlines()[0]}" if str(error or "") else ""
        return DecodeError(self._file.path, stage, f"{self.name} {cause}; {_CURE}{brief}")

    def _check_count(self, count: int) -> None:
        """Hold the number of frames that the decoder counts against the index."""
        num_frames = self._index.info.num_frames
        if count != num_frames:
            raise self._refusal("open", f"counts {count} frames and the packets {num_frames}")

    def _check_time(self, number: int, seconds: float) -> None:
        """Hold the time that the decoder reports for a picture against the index, where the container stores times."""
        if self._index.ticks is None:
            return
        # Decoders differ in where they put 0, but not by as much as the gap to the next picture.
        expected = float(self._index.pts_seconds[number])
        if int(np.argmin(np.abs(self._index.pts_seconds - seconds))) != number:
            cause = f"gives a picture of {seconds:.6f} s for frame {number}, which is at {expected:.6f} s"
            raise self._refusal("decode", cause)

    def _checked(self, number: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture, ``[H, W, 3]``, whose size is that of the index."""
        info = self._index.info
        if image.shape != (info.height, info.width, 3):
            cause = f"gives frame {number} as {image.shape}, expected {(info.height, info.width, 3)}"
            raise self._refusal("decode", cause)
        return image
