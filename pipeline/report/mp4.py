"""Pictures one by one into an MP4 that keeps their times; the same pictures give the same bytes."""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.files.failures import OutputError, failures_of
from pipeline.files.writing import OutputFile
from pipeline.report.drawing import resized
from pipeline.report.own import MARK

# As many as MPEG-4 allows: fine enough for a variable frame rate.
_MAX_TICKS_A_SECOND = 65_535


def encoder_name() -> str:
    """Return H.264 where this build of FFmpeg has an encoder for it, else MPEG-4, which browsers do not play."""
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


class Mp4File:
    """One video stream, from uint8 RGB ``[H, W, 3]`` pictures and their times. The first picture decides the size, made
    even by repeating the last row or column; a later one of another size is scaled to it.

    Args:
        path: gets its name when the file is closed.
        average_fps: rate in the file's header; the times decide when a picture is shown.
        no_clobber: refuse to replace a file.

    Raises:
        UserError: it cannot be made, or no MP4 holds so many pictures a second.
    """

    def __init__(self, path: Path, average_fps: Fraction, *, no_clobber: bool = False) -> None:
        if average_fps > _MAX_TICKS_A_SECOND:
            many = f"{float(average_fps):.0f} pictures a second, and an MP4 holds {_MAX_TICKS_A_SECOND} at most"
            raise OutputError(f"{path}: cannot be written: the video says to have {many}; its times are damaged")
        rate = average_fps.limit_denominator(_MAX_TICKS_A_SECOND // math.ceil(average_fps))
        rate = max(rate, Fraction(1, _MAX_TICKS_A_SECOND))
        ticks = rate.numerator * (_MAX_TICKS_A_SECOND // rate.numerator)  # a multiple: one picture is whole ticks
        self._rate, self._time_base = rate, Fraction(1, ticks)
        self._pending = OutputFile(path, no_clobber=no_clobber)
        self._stream: VideoStream | None = None
        self._waiting: tuple[NDArray[np.uint8], int] | None = None  # until the next one says how long it is shown
        with failures_of(path):
            options = {"fflags": "+bitexact", "movflags": "+faststart"}  # no date, no version; plays while it loads
            self._container = av.open(str(self._pending.temporary), "w", format="mp4", options=options)
        self._container.metadata["comment"] = MARK

    @property
    def temporary(self) -> Path:
        """Path of the file until ``commit``."""
        return self._pending.temporary

    def write(self, image: NDArray[np.uint8], time_seconds: float) -> None:
        """Add a picture, shown from ``time_seconds`` on, which is later than the one before. It may be changed by the
        caller only after the next call.

        Raises:
            UserError: the disk takes no more.
        """
        ticks = round(time_seconds / self._time_base)
        if self._waiting is not None:
            ticks = max(ticks, self._waiting[1] + 1)
            self._encode(*self._waiting, ticks - self._waiting[1])
        self._waiting = image, ticks

    def _encode(self, image: NDArray[np.uint8], ticks: int, duration: int) -> None:
        with failures_of(self._pending.path):
            stream = self._stream or self._begin(image.shape[0], image.shape[1])
            frame = av.VideoFrame.from_ndarray(_fitted(image, stream.height, stream.width), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
            )
            frame.pts, frame.duration, frame.time_base = ticks, duration, self._time_base
            self._container.mux(stream.encode(frame))

    def _begin(self, height: int, width: int) -> VideoStream:
        name = encoder_name()
        # Without B-frames pictures are stored in the order of their times, and the last one lasts as long as it should.
        # x264's macroblock tree now and then gives other bytes for the same pictures, with one thread too; a crf of 25
        # without it has the size and the quality of 23 with it.
        options = {"crf": "25", "preset": "veryfast", "bf": "0", "mbtree": "0"} if name == "libx264" else {}
        stream = self._container.add_stream(name, rate=self._rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        context.thread_count = 1  # as many everywhere: the bytes depend on it
        if name == "mpeg4":
            context.qmax = 5  # near constant quality
        context.flags |= Flags.frame_duration  # or the last picture lasts no longer than the one before
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._stream = stream
        return stream

    def finish(self, end_seconds: float | None = None) -> None:
        """Completes the file under its temporary name. The last picture is shown until ``end_seconds``, or for as long
        as an average one."""
        if self._waiting is not None:
            image, ticks = self._waiting
            usual = round(1 / self._rate / self._time_base)
            left = usual if end_seconds is None else round(end_seconds / self._time_base) - ticks
            self._encode(image, ticks, max(left, 1))
            self._waiting = None
        with failures_of(self._pending.path):
            if self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()

    def commit(self) -> None:
        """Give a finished file its name."""
        self._pending.commit()

    def close(self, end_seconds: float | None = None) -> None:
        """``finish`` and ``commit``; where one of them fails, leave no file."""
        try:
            self.finish(end_seconds)
            self.commit()
        finally:
            self.discard()  # does nothing to a complete file

    def discard(self) -> None:
        """Leave no file."""
        with suppress(OSError):  # the end does not fit either
            self._container.close()
        self._pending.discard()


def _fitted(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return np.ascontiguousarray(image)
    if 0 <= height - rows <= 1 and 0 <= width - columns <= 1:
        return np.pad(image, ((0, height - rows), (0, width - columns), (0, 0)), mode="edge")
    return resized(image, width, height)
