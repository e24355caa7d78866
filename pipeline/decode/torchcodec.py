"""torchcodec behind the same interface, where its frames can be held against the index: by their stored times.

In AVI with B-frames each of its frames is the one after, MPEG program and transport streams lose some, and it seeks to
whatever the container calls a keyframe: in a real H.263 file most frames came out as grey and green blocks, each with
the right time. So only timed containers and codecs with keyframes of their own kind are read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torchcodec.decoders import VideoDecoder

from pipeline.decode.proof import check_size, check_time, refuse_mirrored, refuse_unproven
from pipeline.decode.reader import Picture, VideoFile, indexed_picture
from pipeline.errors import DecodeError, UserError

_CURE = "use the pyav decoder"
_NUM_AT_ONCE = 16
_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d"})


class TorchcodecBackend:
    """Asks for frames by number, some at a time.

    Raises:
        DecodeError: torchcodec is not known to be exact on this file, or cannot open it.
        UserError: torchcodec does not find FFmpeg's libraries.
    """

    def __init__(self, file: VideoFile) -> None:
        self._file, self._index = file, file.index
        if not file.header.is_timed or file.header.codec not in _CODECS:
            kind = f"{file.header.codec} in {file.header.container}"
            cause = f"torchcodec is not known to be exact on {kind}; {_CURE}"
            raise DecodeError(file.path, "open", cause)
        refuse_unproven(file, "torchcodec")
        refuse_mirrored(file, "torchcodec")
        self._open()  # to fail early

    def walk(self) -> Generator[Picture, None, None]:
        return self.pick(range(self._index.info.num_frames))

    def pick(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        decoder = self._open()
        for chunk in _chunks(numbers):
            self._file.check_usable()
            try:
                batch = decoder.get_frames_at(chunk)
            except (RuntimeError, IndexError) as error:
                cause = f"torchcodec cannot give frames {chunk[0]} to {chunk[-1]}; {_CURE}. {_brief(error)}"
                raise DecodeError(self._file.path, "decode", cause) from error
            images, times = batch.data.numpy(), batch.pts_seconds.tolist()  # [T, H, W, 3]
            for number, image, seconds in zip(chunk, images, times, strict=True):
                self._file.check_usable()
                check_size(self._file, image, number, "torchcodec")
                check_time(self._file, number, seconds - decoder.metadata.begin_stream_seconds, "torchcodec")
                yield indexed_picture(self._index, number, partial(_fresh, image))

    def _open(self) -> VideoDecoder:
        path, num_frames = self._file.path, self._index.info.num_frames
        self._file.check_usable()
        try:
            # Absolute, so that no file name can be read as a URL.
            decoder = VideoDecoder(
                str(path.absolute()), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                raise UserError(f"decoder 'torchcodec' finds no FFmpeg libraries; install them, or {_CURE}") from error
            raise DecodeError(path, "open", f"torchcodec cannot open it; {_CURE}. {_brief(error)}") from error
        if len(decoder) != num_frames:
            cause = f"torchcodec counts {len(decoder)} frames and the packets {num_frames}; {_CURE}"
            raise DecodeError(path, "open", cause)
        return decoder


def _chunks(numbers: Sequence[int]) -> Iterator[list[int]]:
    left = iter(numbers)
    while chunk := list(islice(left, _NUM_AT_ONCE)):
        yield chunk


def _fresh(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image.copy()


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else ""
