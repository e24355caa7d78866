"""Checks that an adapter to another decoder must pass before its frames are believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.reader import VideoFile
from pipeline.errors import DecodeError

_CURE = "use the pyav decoder"


def refuse_unproven(file: VideoFile, decoder: str) -> None:
    """Refuses a file unless each of its packets is known to be one picture, in its only video stream.

    Raises:
        DecodeError: at stage ``open``; any decoder might number the pictures of this file in its own way.
    """
    index, header = file.index, file.header
    if not index.is_proven:
        cause = f"{decoder} is not known to be exact on this {header.codec} in {header.container}; {_CURE}"
        raise DecodeError(file.path, "open", cause)
    if header.num_video_streams > 1:
        cause = f"{decoder} may choose another of its {header.num_video_streams} video streams; {_CURE}"
        raise DecodeError(file.path, "open", cause)
    if header.is_timed and index.ticks is None:
        raise DecodeError(file.path, "open", f"its times cannot be trusted, so {decoder} cannot be checked; {_CURE}")


def refuse_mirrored(file: VideoFile, decoder: str) -> None:
    """Refuses a file whose pictures are to be mirrored, for a decoder that only turns them.

    Raises:
        DecodeError: at stage ``open``.
    """
    if file.index.info.is_mirrored:
        raise DecodeError(file.path, "open", f"{decoder} does not mirror pictures, as the file asks; {_CURE}")


def check_time(file: VideoFile, number: int, seconds: float, decoder: str) -> None:
    """Holds the time that a decoder reports for a picture against the index, where the container stores times.

    Raises:
        DecodeError: at stage ``decode``; it is another picture.
    """
    index = file.index
    if index.ticks is None:
        return
    # Decoders differ in where they put 0, but not by as much as the gap to the next picture.
    expected = float(index.pts_seconds[number])
    nearest = int(np.argmin(np.abs(index.pts_seconds - seconds)))
    if nearest != number:
        cause = (
            f"{decoder} gives a picture of {seconds:.6f} s for frame {number}, which is at {expected:.6f} s; {_CURE}"
        )
        raise DecodeError(file.path, "decode", cause)


def check_size(file: VideoFile, image: NDArray[np.uint8], number: int, decoder: str) -> None:
    """Holds the size of a picture, ``[H, W, 3]``, against the index.

    Raises:
        DecodeError: at stage ``decode``.
    """
    info = file.index.info
    if image.shape != (info.height, info.width, 3):
        cause = f"{decoder} gives frame {number} as {image.shape}, expected {(info.height, info.width, 3)}; {_CURE}"
        raise DecodeError(file.path, "decode", cause)
