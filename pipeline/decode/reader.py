"""``VideoReader``: frames by number, by time, or as a stream, over any decoder that gives pictures in order."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import index as as_int
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Clip, VideoInfo
from pipeline.config import DecodeConfig
from pipeline.decode.cache import key_of, load_index, save_index
from pipeline.decode.container import Header, OpenVideo, check_process, check_regular_file
from pipeline.decode.index import VideoIndex, build_index, check_length
from pipeline.errors import DecodeError

if TYPE_CHECKING:
    from torch import Tensor

# A time closer to the end than this is at the end, where nothing is shown: ends are sums of floats.
_END_TOLERANCE_SECONDS = 1e-6


@dataclass(frozen=True)
class Picture:
    """One decoded picture. Nothing is converted until ``rgb`` is called, which must be before the next one is taken."""

    number: int
    """0 for the first picture that a plain sequential decode gives."""
    pts_seconds: float
    rgb: Callable[[], NDArray[np.uint8]]
    """Makes the upright picture, uint8 RGB ``[H, W, 3]``: a fresh array that the caller may keep and change."""


def indexed_picture(index: VideoIndex, number: int, rgb: Callable[[], NDArray[np.uint8]]) -> Picture:
    """Picture ``number`` with the time that the index has for it."""
    return Picture(number, float(index.pts_seconds[number]), rgb)


class Backend(Protocol):
    """A decoder under a reader. Each call reads the file anew, so calls may overlap."""

    def iter_frames(self) -> Generator[Picture, None, None]:
        """Every picture in order, in bounded memory."""

    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        """Exactly the pictures with these numbers, which increase and lie in the video."""


class VideoFile:
    """A file on disk, its header, and its index, which is built when first asked for.

    Raises:
        DecodeError: the file cannot be opened as a video.
    """

    def __init__(self, path: Path, config: DecodeConfig) -> None:
        self.path, self.config = path, config
        self.is_closed = False
        self._process_id = os.getpid()
        self._open: set[OpenVideo] = set()
        self._index: VideoIndex | None = None
        check_regular_file(path)
        self._key = key_of(path, config.stream) if config.index_cache else {}
        # Opened at once, to fail early; the first who reads gets it, so that no file is opened in vain.
        self._fresh: OpenVideo | None = self._track(OpenVideo(path, config))
        self.header: Header = self._fresh.header()

    def _track(self, video: OpenVideo) -> OpenVideo:
        self._open = {other for other in self._open if not other.is_closed} | {video}
        return video

    def take(self) -> OpenVideo:
        """The video at its start, for the caller to read and close.

        Raises:
            ValueError: the reader is closed.
            RuntimeError: another process opened it.
        """
        self.check_usable()
        video, self._fresh = self._fresh, None
        return video or self._track(OpenVideo(self.path, self.config))

    def check_usable(self) -> None:
        """Raises ``ValueError`` if closed, ``RuntimeError`` if this is not the process that opened it."""
        check_process(self.path, self._process_id)
        if self.is_closed:
            raise ValueError(f"{self.path}: the reader is closed")

    @property
    def index(self) -> VideoIndex:
        """The packet index, built when first asked for. Raises ``DecodeError`` if the file cannot be indexed."""
        if self._index is None:
            self.check_usable()
            self._index = self._cached_index() if self.config.index_cache else self._built_index()
        return self._index

    def _built_index(self) -> VideoIndex:
        video = self.take()
        try:
            index = build_index(video)
        except DecodeError:
            video.close()
            raise
        self._fresh = video  # rewound
        return index

    def _cached_index(self) -> VideoIndex:
        index = load_index(self.path, self._key)
        if index is None:
            index = self._built_index()
            save_index(index, self._key)
        check_length(self.path, self.config, index.info.num_frames, index.info.duration_seconds)
        return index

    def close(self) -> None:
        self.is_closed = True
        for video in self._open:
            video.close()


class _VideoSource(Protocol):
    """The file of a reader: a ``VideoFile``, or one that another process has open."""

    @property
    def path(self) -> Path:
        """The path as the caller gave it."""

    @property
    def header(self) -> Header:
        """The claims of the container's header."""

    @property
    def index(self) -> VideoIndex:
        """The packet index, built when first asked for. Raises ``DecodeError``."""

    def close(self) -> None:
        """Lets go of the file. May be called twice."""


class VideoReader:
    """Reads one video exactly: frame k is the k-th picture of a plain sequential decode, in every container.

    A reader belongs to the process that opened it: open another in each worker. Use it in a ``with`` statement, or call
    ``close``. A file that turns out to be damaged raises ``DecodeError`` at the first picture that cannot be had.

        with open_video("clip.avi") as video:
            clip = video.at([0.0, 0.5, 1.0])  # by time
            clip = video[10:20]  # by number
            frame = video[-1]  # uint8 [3, H, W]
    """

    def __init__(self, file: _VideoSource, backend: Backend) -> None:
        self._file, self._backend = file, backend
        self._when_closed: Callable[[], None] | None = None

    def when_closed(self, do: Callable[[], None]) -> VideoReader:
        """Set a function to be called once the file is closed. Returns this reader."""
        self._when_closed = do
        return self

    @property
    def info(self) -> VideoInfo:
        """Size, rate, duration and number of frames. The first use of this, or of any frame, reads through the file's
        packets once, without decoding, and decodes it where packets cannot tell the number of frames (MPEG-PS and -TS,
        VP8, interlaced).

        Raises:
            DecodeError: the file cannot be read to its end.
        """
        return self._file.index.info

    @property
    def pts_seconds(self) -> Tensor:
        """Display time of each frame in seconds, float64 ``[num_frames]``; the first is 0. Raises as ``info`` does."""
        return _tensor(self._file.index.pts_seconds.copy())

    def frames(self, indices: Iterable[int]) -> Clip:
        """The frames with these numbers, in the order asked for; numbers may repeat.

        Returns:
            A clip with ``frames`` uint8 RGB ``[T, 3, H, W]``, channels-last in memory and free to be changed.

        Raises:
            DecodeError: a number is negative or past the end, the frames differ in size, or a frame cannot be decoded.
            ValueError: the reader is closed.
        """
        wanted, info = self._checked(indices), self.info
        places: dict[int, list[int]] = {}
        for place, number in enumerate(wanted):
            places.setdefault(number, []).append(place)
        out: NDArray[np.uint8] | None = None
        with closing(self._backend.get_frames(sorted(places))) as pictures:
            for picture in pictures:
                image = picture.rgb()
                if out is None:
                    out = np.empty((len(wanted), *image.shape), np.uint8)
                out[places.pop(picture.number)] = self._of_size(image, out.shape[1:], picture.number)
        if places:
            raise DecodeError(info.path, "decode", f"frame {min(places)} of {info.num_frames} was not given")
        if out is None:  # none asked for
            out = np.empty((0, info.height, info.width, 3), np.uint8)
        pts_seconds = _tensor(self._file.index.pts_seconds[wanted])
        return Clip(_tensor(out).permute(0, 3, 1, 2), pts_seconds)  # [T, H, W, 3] -> [T, 3, H, W]

    def at(self, times_seconds: Iterable[float]) -> Clip:
        """The frame shown at each time: the last whose time is not later. Before the first frame, that is the first.

        Args:
            times_seconds: in any order; times may repeat.

        Raises:
            DecodeError: a time is past the video's end, and as ``frames``.
            ValueError: a time is not a finite number.
        """
        index = self._file.index
        times = np.array([_finite(time) for time in times_seconds], np.float64)
        end = index.info.duration_seconds
        if times.size and times.max() > end + _END_TOLERANCE_SECONDS:
            cause = f"nothing is shown at {times.max():.6f} s: the video ends at {end:.6f} s"
            raise DecodeError(self._file.path, "seek", cause)
        return self.frames(index.numbers_at(times).tolist())

    def __len__(self) -> int:
        """The number of frames. Raises as ``info`` does."""
        return self.info.num_frames

    @overload
    def __getitem__(self, key: int) -> Tensor: ...

    @overload
    def __getitem__(self, key: slice) -> Clip: ...

    def __getitem__(self, key: int | slice) -> Tensor | Clip:
        """A frame ``[3, H, W]``, or a clip of several; as in a list, numbers below 0 count from the end. Raises as
        ``frames``, and ``IndexError`` for a number that is not there."""
        if isinstance(key, slice):
            return self.frames(range(len(self))[key])
        return self.frames([range(len(self))[key]]).frames[0]

    def __repr__(self) -> str:
        header = self._file.header
        return f"<VideoReader of {self._file.path}: {header.codec} in {header.container}>"

    def __iter__(self) -> Iterator[tuple[Tensor, float]]:
        """Each frame, uint8 RGB ``[3, H, W]``, with its time in seconds; one frame in memory at a time. Where the size
        changes on the way, each frame has its own."""
        with closing(self.images()) as images:
            for image, pts_seconds in images:
                yield _as_tensor(image), pts_seconds

    def images(self, start: int = 0) -> Generator[tuple[NDArray[np.uint8], float], None, None]:
        """Iterate as over the reader itself, but over arrays ``[H, W, 3]``, from the frame ``start`` on."""
        backend = self._backend
        with closing(backend.get_frames(range(start, len(self))) if start else backend.iter_frames()) as pictures:
            for picture in pictures:
                yield picture.rgb(), picture.pts_seconds

    def stream_at(self, times_seconds: Iterable[float]) -> Iterator[tuple[Tensor, float]]:
        """Yield as ``images_at`` does, but tensors ``[3, H, W]``."""
        with closing(self.images_at(times_seconds)) as images:
            for image, pts_seconds in images:
                yield _as_tensor(image), pts_seconds

    def images_at(self, times_seconds: Iterable[float]) -> Generator[tuple[NDArray[np.uint8], float], None, None]:
        """The frame shown at each time, uint8 RGB ``[H, W, 3]``, and that frame's own time, for increasing times; ends
        with the video.

        Decodes from the start, in bounded memory, and converts only the frames asked for. The times may go on for ever
        (``itertools.count``). Times that show the same frame get the same array: do not write into it.

        Raises:
            DecodeError: the file cannot be indexed, or a frame cannot be decoded.
            ValueError: a time is less than the one before it.
        """
        index, previous = self._file.index, -math.inf
        last_second = index.info.duration_seconds - _END_TOLERANCE_SECONDS
        with closing(self._backend.iter_frames()) as pictures:
            picture = next(pictures, None)
            image: NDArray[np.uint8] | None = None
            for time in times_seconds:
                if _finite(time) < previous:
                    raise ValueError(f"times must increase, got {time} after {previous}")
                previous = time
                number = index.info.num_frames if time >= last_second else int(index.numbers_at(np.array(time)))
                while picture and picture.number < number:
                    picture, image = next(pictures, None), None
                if picture is None:
                    return
                image = picture.rgb() if image is None else image
                yield image, picture.pts_seconds

    def close(self) -> None:
        """Closes the file; the reader cannot be read any more. May be called twice."""
        self._file.close()
        if self._when_closed is not None:
            self._when_closed()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._file.path}: a VideoReader cannot be sent to another process; open the file there")

    def _checked(self, indices: Iterable[int]) -> list[int]:
        wanted, num_frames = [as_int(number) for number in indices], self.info.num_frames
        for number in wanted:
            if not 0 <= number < num_frames:
                cause = f"no frame {number}: the video has {num_frames} frames, 0 to {num_frames - 1}"
                raise DecodeError(self._file.path, "seek", cause)
        return wanted

    def _of_size(self, image: NDArray[np.uint8], size: tuple[int, ...], number: int) -> NDArray[np.uint8]:
        if image.shape == size:
            return image
        cause = (
            f"frame {number} is {image.shape[1]}x{image.shape[0]} and an earlier one asked for is {size[1]}x{size[0]}: "
            "the size changes within the file; read it by iterating, or re-encode it"
        )
        raise DecodeError(self._file.path, "decode", cause)


def _tensor(array: NDArray[Any]) -> Tensor:
    import torch  # here, so that a process which only decodes need not load it

    return torch.from_numpy(array)


def _as_tensor(image: NDArray[np.uint8]) -> Tensor:
    return _tensor(image).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]


def _finite(time: float) -> float:
    if not math.isfinite(time):
        raise ValueError(f"a time must be a finite number of seconds, got {time}")
    return float(time)
