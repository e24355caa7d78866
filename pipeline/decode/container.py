"""Opening a video file safely, and FFmpeg's errors in our words. The only place that calls ``av.open``."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType

import av
from av.container import InputContainer
from av.error import FFmpegError, tag_to_code
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config import DecodeConfig
from pipeline.decode.causes import likely_cause
from pipeline.errors import DecodeError

# FFmpeg's names of containers that hold their pictures themselves. Playlists, scripts and single pictures are left out:
# they may point to other files, and a small one can ask for gigabytes.
FORMATS = (
    "3g2,3gp,asf,av1,avi,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,rm,vc1,webm,wtv,yuv4mpegpipe"
)
# Here a picture's time is stored with it. Elsewhere FFmpeg guesses times, and with B-frames it guesses wrong.
TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Opening decodes pictures too. Before version 18, options for that make PyAV crash where streams are found on the way
# (MPEG-PS); such pictures are then decoded once before they are refused.
_MAY_LIMIT_OPENING = int(av.__version__.split(".")[0]) >= 18
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # with more than one letter: C: is a drive
_LIKELY_CAUSES = {
    errno.EINVAL: "; a picture may be larger than decode.max_pixels allows, or its header is damaged",
    errno.ENOMEM: "; its pictures are very large, or the file is made to exhaust memory",
    tag_to_code(b"INDA"): "; the file is damaged or cut off",
}
# Packets of a file up to this size stay in memory between indexing and decoding, which saves reading it twice.
_MAX_KEPT_BYTES = 8_000_000
_MIN_TOLERANCE_SECONDS, _MAX_TOLERANCE_SECONDS = 1e-6, 0.5e-3


class ffmpeg_errors:  # noqa: N801 (used like a function; as one it would cost each picture several microseconds)
    """Turns an FFmpeg error within it into a ``DecodeError`` of that stage."""

    __slots__ = ("_path", "_stage")

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, FFmpegError):
            is_open = self._stage == "open"
            guess = f"; {likely_cause(self._path)}" if is_open else _LIKELY_CAUSES.get(error.errno or 0, "")
            raise DecodeError(self._path, self._stage, f"FFmpeg says: {error.strerror or error}{guess}") from error
        if isinstance(error, IndexError):  # PyAV knows only the streams that were there at the start
            cause = "a stream that the header does not announce begins in the middle of the file"
            raise DecodeError(self._path, self._stage, f"{cause}: it is damaged or joined") from error


def check_regular_file(path: Path) -> None:
    """Refuses what is no local file with bytes in it: a missing path, URL, folder, pipe or device.

    Raises:
        DecodeError: at stage ``open``.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        cause = (
            "; it looks like a URL, and only local files are read: download it, or see decode.allow_url"
            if _URL.match(str(path))
            else ""
        )
        raise DecodeError(path, "open", f"the file does not exist{cause}") from error
    except OSError as error:
        raise DecodeError(path, "open", f"cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(path, "open", "not a regular file (a folder, pipe or device?)")
    if status.st_size == 0:
        raise DecodeError(path, "open", "the file is empty (0 bytes); a copy or download may have failed")


def check_process(path: Path, process_id: int) -> None:
    """Raises ``RuntimeError`` in any process but that one: a fork shares the file's position, and decoders break."""
    if process_id != os.getpid():
        raise RuntimeError(
            f"{path}: opened in process {process_id} and used in process {os.getpid()}, after a fork; "
            "open the file in the worker that reads it"
        )


@dataclass(frozen=True)
class Header:
    """What the container's header claims, before any picture is decoded."""

    container: str
    codec: str
    seconds_per_tick: Fraction
    average_fps: Fraction
    """0 if the header does not say."""
    num_frames: int
    """As claimed; 0 if the header does not say."""
    num_video_streams: int

    @property
    def is_timed(self) -> bool:
        """Whether the container stores when each picture is shown."""
        return self.container in TIMED_CONTAINERS

    @property
    def tolerance_seconds(self) -> float:
        """How far before its stored time a picture may be taken as shown: times are rounded to ticks (1 ms in
        Matroska), so 1/30 s, asked for as 0.033333, may be stored as 0.033 or as 0.034."""
        half_tick = float(self.seconds_per_tick) / 2 if self.is_timed else 0.0
        return min(max(half_tick, _MIN_TOLERANCE_SECONDS), _MAX_TOLERANCE_SECONDS)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # a cover picture is no video
            return stream
    raise DecodeError(path, "open", "has no video stream (audio only, or a header without content?)")


def _open_container(path: Path, max_pixels: int) -> InputContainer:
    # Absolute, so that no file name can be read as a protocol ("concat:...").
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    # Titles in an old 8-bit encoding are no reason to refuse a video.
    return av.open(
        str(path.absolute()),
        "r",
        options={"max_pixels": str(max_pixels)} if _MAY_LIMIT_OPENING else {},
        container_options=options,
        metadata_errors="replace",
    )


def _check_pictures(path: Path, stream: VideoStream, max_pixels: int) -> None:
    if stream.codec_context is None:
        raise DecodeError(path, "open", "its codec is unknown to this FFmpeg; re-encode it, or its header is damaged")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        cause = f"its pictures are {width}x{height}, and decode.max_pixels allows {max_pixels} pixels; raise it if you"
        raise DecodeError(path, "open", f"{cause} trust the file")


class OpenVideo:
    """One open container and its first video stream, with a decoder on one thread; for one user at a time.

    Raises:
        DecodeError: the file cannot be opened, is of a kind not allowed, has no video, or has too large pictures.
    """

    def __init__(self, path: Path, config: DecodeConfig) -> None:
        check_regular_file(path)
        self.path, self.config, self.is_closed = path, config, False
        self._process_id = os.getpid()
        self._open()

    def _open(self) -> None:
        # Packets that were read and stay in memory, where decoding starts among them, whether that is all that was
        # read so far, and all there is.
        self._kept: list[Packet[VideoStream]] = []
        self._start, self._is_kept, self._has_all = 0, True, False
        with ffmpeg_errors(self.path, "open"):
            self.container = _open_container(self.path, self.config.max_pixels)
        try:
            self.stream = _video_stream(self.container, self.path)
            _check_pictures(self.path, self.stream, self.config.max_pixels)
        except DecodeError:
            self.container.close()
            raise
        context = self.stream.codec_context
        context.thread_count = 1  # small pictures decode no faster on more, and workers are many
        context.options = {"max_pixels": str(self.config.max_pixels)}  # a picture may be larger than the header says

    def check_usable(self) -> None:
        """Raises ``ValueError`` if closed, ``RuntimeError`` if this is not the process that opened it."""
        check_process(self.path, self._process_id)
        if self.is_closed:
            raise ValueError(f"{self.path}: the reader was closed while its frames were being read")

    def header(self) -> Header:
        stream, context = self.stream, self.stream.codec_context
        return Header(
            container=self.container.format.name,
            codec=context.name,
            seconds_per_tick=stream.time_base or Fraction(0),
            average_fps=stream.average_rate or stream.guessed_rate or Fraction(0),
            num_frames=stream.frames,
            num_video_streams=len(self.container.streams.video),
        )

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The stream's packets in file order; the last is empty and makes the decoder give what it still holds. To be
        read once, to any place, and followed by ``rewind``."""
        num_bytes = 0
        with ffmpeg_errors(self.path, "index"):
            for packet in self.container.demux(self.stream):
                num_bytes += packet.size
                if num_bytes <= _MAX_KEPT_BYTES:
                    self._kept.append(packet)
                else:
                    self._kept, self._is_kept = [], False
                self._has_all = self._is_kept and not packet.size and packet.dts is None
                yield packet

    def rewind(self) -> None:
        """Goes back to the start: packets that are in memory are used again, a long file is opened again."""
        self._start = 0
        if self._is_kept:
            self.stream.codec_context.flush_buffers()
        else:
            self.container.close()
            self._open()

    def frames(self) -> Iterator[VideoFrame]:
        """Decoded pictures, in the order they are shown, from the start or where ``seek`` went.

        Raises:
            DecodeError: at stage ``decode``.
            ValueError: the reader was closed in between.
        """
        with ffmpeg_errors(self.path, "decode"):
            for packet in self._packets_left():
                for frame in packet.decode():
                    yield frame
                    self.check_usable()

    def _packets_left(self) -> Iterator[Packet[VideoStream]]:
        yield from islice(self._kept, self._start, None)
        if not self._has_all:
            self._is_kept = False
            yield from self.container.demux(self.stream)

    def seek(self, ticks: int) -> None:
        """Moves to a keyframe at or before that time: the last one among packets that are all in memory, else as the
        container understands it."""
        if self._has_all:
            self.stream.codec_context.flush_buffers()
            self._start = self._place_of_keyframe(ticks)
            return
        self._kept, self._is_kept = [], False
        with ffmpeg_errors(self.path, "seek"):
            self.container.seek(ticks, stream=self.stream, backward=True, any_frame=False)

    def _place_of_keyframe(self, ticks: int) -> int:
        for place in range(len(self._kept) - 1, -1, -1):
            packet = self._kept[place]
            if packet.is_keyframe and packet.pts is not None and packet.pts <= ticks:
                return place
        return 0

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed, self._kept = True, []
            self.container.close()

    def __enter__(self) -> OpenVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
