"""The exact decoder: PyAV, in order from the start, or from a keyframe where that can be verified.

A seek is verified, not believed. The first picture after it must be one that the decoder calls a keyframe, that the
packet index knows, and that is not past the one wanted; each next picture must be the next of the index. Otherwise
decoding starts again one keyframe earlier, and at last from the start of the file. Where the index has no trusted times
there is no seeking at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.decode.container import ONE_THREAD, OpenVideo, ffmpeg_errors
from pipeline.decode.index import VideoIndex
from pipeline.decode.orientation import Orientation, orientation_of
from pipeline.decode.reader import Picture, VideoFile, indexed_picture
from pipeline.errors import DecodeError

# A seek costs about as much as decoding this many pictures, those that the decoder holds back for reordering: measured
# on 320x240 H.264 and VP9.
_MIN_PICTURES_SAVED = 3
_MAX_KEYFRAMES_TRIED = 3

_Converter = Callable[[VideoFrame], NDArray[np.uint8]]


class _LostPlaceError(Exception):
    """After a seek, a picture came that the index does not expect there."""


class PyavBackend:
    """Reads any file that FFmpeg can read, each picture by the number it has in a plain sequential decode."""

    def __init__(self, file: VideoFile) -> None:
        self._file = file

    def iter_frames(self) -> Generator[Picture, None, None]:
        index, to_rgb = self._file.index, self._converter()
        with self._file.take() as video:
            for number, frame in self._from_start(video):
                yield indexed_picture(index, number, partial(to_rgb, frame))

    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        index, to_rgb, num_picked = self._file.index, self._converter(), 0
        try:
            for number, frame in self._by_seeking(index, numbers):
                num_picked += 1
                yield indexed_picture(index, number, partial(to_rgb, frame))
        except _LostPlaceError:
            with self._file.take() as video:
                for number, frame in _select(self._from_start(video), numbers[num_picked:]):
                    yield indexed_picture(index, number, partial(to_rgb, frame))

    def _by_seeking(self, index: VideoIndex, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        with self._file.take() as video:
            for key, run in _runs(index, numbers):
                decoded = self._from_start(video) if key is None else _after_seek(video, index, key, run[0])
                yield from _select(decoded, run)

    def _from_start(self, video: OpenVideo) -> Iterator[tuple[int, VideoFrame]]:
        """Number and picture from the start, held against the index."""
        index, path, number = self._file.index, self._file.path, -1
        num_frames = index.info.num_frames
        for number, frame in enumerate(video.frames()):
            if number >= num_frames or (index.ticks is not None and frame.pts != index.ticks[number]):
                cause = "is not the one the packets announce: pictures are missing or damaged before it"
                raise DecodeError(path, "decode", f"picture {number} of {num_frames} {cause}")
            yield number, frame
        if number + 1 < num_frames:
            cause = f"{num_frames} pictures are announced and only {number + 1} can be decoded: the file is damaged"
            raise DecodeError(path, "decode", cause)

    def _converter(self) -> _Converter:
        """Makes upright pictures, uint8 RGB ``[H, W, 3]``; for one reading."""
        reformatter = VideoReformatter()  # one for all its pictures: a new one works out its tables anew
        orientations: dict[int, Orientation] = {}

        def to_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
            with ffmpeg_errors(self._file.path, "decode"):
                converted = reformatter.reformat(frame, format="rgb24", **ONE_THREAD)
            # What is RGB already is the decoder's own, and it may still need it.
            rgb = converted.to_ndarray().astype(np.uint8, copy=converted is frame)
            # One look for each turn: whose side data was looked at stays in memory until garbage is collected.
            turn = frame.rotation
            if turn not in orientations:
                orientations[turn] = orientation_of(frame)
            return orientations[turn].upright(rgb)

        return to_rgb


def _runs(index: VideoIndex, numbers: Sequence[int]) -> list[tuple[int | None, list[int]]]:
    """Groups numbers that are decoded in one go. Each group starts at a keyframe, given by its place in
    ``index.keyframes``; None is the start of the file, which only the first group may have."""
    runs: list[tuple[int | None, list[int]]] = []
    position = 0  # the picture that decoding on would give
    for number in numbers:
        key = int(np.searchsorted(index.keyframes, number, side="right")) - 1
        if key >= 0 and index.keyframes[key] - position >= _MIN_PICTURES_SAVED:
            runs.append((key, []))
        elif not runs:
            runs.append((None, []))
        runs[-1][1].append(number)
        position = number + 1
    return runs


def _select(decoded: Iterator[tuple[int, VideoFrame]], numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """The pictures with these increasing numbers; stops decoding after the last."""
    left = iter(numbers)
    wanted = next(left, None)
    for number, frame in decoded:
        if number == wanted:
            yield number, frame
            wanted = next(left, None)
            if wanted is None:
                return


def _after_seek(video: OpenVideo, index: VideoIndex, key: int, wanted: int) -> Iterator[tuple[int, VideoFrame]]:
    """Numbered pictures from a keyframe on, that one or an earlier.

    Raises:
        _LostPlaceError: the pictures are not those of the index.
    """
    for earlier in range(key, max(key - _MAX_KEYFRAMES_TRIED, -1), -1):
        frames = _frames_from(video, index, int(index.keyframes[earlier]))
        first = next(frames, None)
        number = _number_of(index, first) if first and first.key_frame else None
        if first is None or number is None or number > wanted:
            continue
        yield number, first
        for following, frame in enumerate(frames, number + 1):
            if frame.is_corrupt or _number_of(index, frame) != following:
                raise _LostPlaceError
            yield following, frame
        return
    raise _LostPlaceError


def _frames_from(video: OpenVideo, index: VideoIndex, number: int) -> Iterator[VideoFrame]:
    if index.ticks is None:
        raise _LostPlaceError
    try:
        video.seek(int(index.ticks[number]))
        yield from video.frames()
    except DecodeError as error:  # decoding from the start tells whether the seek or the file is at fault
        raise _LostPlaceError from error


def _number_of(index: VideoIndex, frame: VideoFrame) -> int | None:
    if index.ticks is None or frame.pts is None:
        return None
    number = int(np.searchsorted(index.ticks, frame.pts))
    return number if number < len(index.ticks) and index.ticks[number] == frame.pts else None
