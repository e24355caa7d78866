"""torchcodec behind the same interface, where its frames can be held against the index: by their stored times.

In AVI with B-frames each of its frames is the one after, MPEG program and transport streams lose some, and it seeks to
whatever the container calls a keyframe: in a real H.263 file most frames came out as grey and green blocks, each with
the right time. So only timed containers and codecs with keyframes of their own kind are read.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from torchcodec.decoders import VideoDecoder

from pipeline.decode.proof import CheckedBackend
from pipeline.decode.reader import Picture, VideoFile, indexed_picture
from pipeline.errors import UserError

_NUM_AT_ONCE = 16
_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d"})


class TorchcodecBackend(CheckedBackend):
    """Asks for frames by number, some at a time.

    Raises:
        DecodeError: torchcodec is not known to be exact on this file, or cannot open it.
        UserError: torchcodec does not find FFmpeg's libraries.
    """

    name = "torchcodec"

    def __init__(self, file: VideoFile) -> None:
        super().__init__(file)
        if not file.header.is_timed or file.header.codec not in _CODECS:
            raise self._refusal("open", f"is not known to be exact on {file.header.codec} in {file.header.container}")
        self._open()  # to fail early

    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        """Exactly the pictures with these numbers."""
        decoder = self._open()
        for place in range(0, len(numbers), _NUM_AT_ONCE):
            chunk = list(numbers[place : place + _NUM_AT_ONCE])
            self._file.check_usable()
            try:
                batch = decoder.get_frames_at(chunk)
            except (RuntimeError, IndexError) as error:
                raise self._refusal("decode", f"cannot give frames {chunk[0]} to {chunk[-1]}", error) from error
            images, times = batch.data.numpy(), batch.pts_seconds.tolist()  # [T, H, W, 3]
            for number, image, seconds in zip(chunk, images, times, strict=True):
                self._file.check_usable()
                self._check_time(number, seconds - decoder.metadata.begin_stream_seconds)
                yield indexed_picture(self._index, number, self._checked(number, image).copy)

    def _open(self) -> VideoDecoder:
        path = str(self._file.path.absolute())  # so that no file name can be read as a URL
        self._file.check_usable()
        try:
            decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                cure = "install them, or use the pyav decoder"
                raise UserError(f"decoder 'torchcodec' finds no FFmpeg libraries; {cure}") from error
            raise self._refusal("open", "cannot open it", error) from error
        self._check_count(len(decoder))
        return decoder
