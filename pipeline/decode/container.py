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
from typing import Any

import av
from av.error import FFmpegError, tag_to_code
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.buckets import BucketPath
from pipeline.config import DecodeConfig
from pipeline.decode.causes import likely_cause
from pipeline.errors import DecodeError

# FFmpeg's names of containers that hold their pictures themselves. Playlists, scripts and single pictures are left out:
# they may point to other files, and a small one can ask for gigabytes.
FORMATS = (
    "3g2,3gp,asf,av1,avi,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,rm,vc1,webm,wtv,yuv4mpegpipe"
)
# Here a picture can be told by its time, so that seeking can be verified. When it is shown is another matter.
TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Opening decodes pictures too. Before version 18, options for that make PyAV crash where streams are found on the way
# (MPEG-PS); such pictures are then decoded once before they are refused.
_MAY_LIMIT_OPENING = int(av.__version__.split(".")[0]) >= 18
# For reformat. Small pictures convert 1.4 to 2.5 times faster so, and each picture would keep threads of its own until
# it is collected, in an isolated process at the cost of files that come later. Before version 17 there was no choice.
ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # with more than one letter: C: is a drive
_LIKELY_CAUSES = {
    errno.EINVAL: "; a picture may be larger than decode.max_pixels allows, or its header is damaged",
    errno.ENOMEM: "; its pictures are very large, or the file is made to exhaust memory",
    tag_to_code(b"INDA"): "; the file is damaged or cut off",
}
# Packets of a file up to this size stay in memory between indexing and decoding, which saves reading it twice.
_MAX_KEPT_BYTES = 8_000_000
# So many pixels the default flag of a stream is worth where the ffmpeg command chooses among several.
_PIXELS_OF_DEFAULT = 5_000_000
# Pixels that are longer still are damage; a fitted picture of them could take any memory.
_MAX_ASPECT_RATIO = Fraction(10)


class ffmpeg_errors:  # noqa: N801 (used like a function; as one it would cost each picture several microseconds)
    """Turns an FFmpeg error within it into a ``DecodeError`` of that stage."""

    __slots__ = ("_path", "_stage")

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FFmpegError):
            is_open = self._stage == "open"
            guess = f"; {likely_cause(self._path)}" if is_open else _LIKELY_CAUSES.get(error.errno or 0, "")
            raise DecodeError(self._path, self._stage, f"FFmpeg says: {error.strerror or error}{guess}") from error
        if isinstance(error, OSError):  # of an object in a bucket; comes through PyAV as it is
            raise DecodeError(self._path, self._stage, str(error.strerror)) from error
        if isinstance(error, IndexError):  # PyAV knows only the streams that were there at the start
            cause = "a stream that the header does not announce begins in the middle of the file"
            raise DecodeError(self._path, self._stage, f"{cause}: it is damaged or joined") from error


def check_regular_file(path: Path) -> None:
    """Refuse anything but a local file with bytes in it: a missing path, URL, folder, pipe or device.

    Raises:
        DecodeError: at stage ``open``.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        if isinstance(path, BucketPath):
            raise DecodeError(path, "open", str(error.strerror)) from None
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
    """Claims of the container's header, before any picture is decoded."""

    container: str
    codec: str
    seconds_per_tick: Fraction
    average_fps: Fraction
    """0 if the header does not say."""
    guessed_fps: Fraction
    """The standard rate that FFmpeg finds in the first pictures, a multiple where their steps vary; 0 if none."""
    duration_seconds: Fraction
    """Duration of the stream if the header says it, else of the file; 0 if it does not say. Where no header does, in
    MPEG-TS and -PS, FFmpeg makes it of the first and the last times."""
    num_frames: int
    """Number of frames announced; 0 if the header does not say."""
    num_video_streams: int

    @property
    def is_timed(self) -> bool:
        """True if times are stored with pictures in a way that seeking can be verified by."""
        return self.container in TIMED_CONTAINERS


def _preference(stream: VideoStream) -> int:
    context: VideoCodecContext | None = stream.codec_context  # None for a codec that this FFmpeg does not know
    num_pixels = context.width * context.height if context else -_PIXELS_OF_DEFAULT
    return num_pixels + _PIXELS_OF_DEFAULT * bool(stream.disposition & Disposition.default)


def _num_claimed(stream: VideoStream) -> int:
    """Pictures that the header announces. In AVI it counts empty chunks too, which show the picture before them for
    longer; the file's own index has only the others."""
    num_indexed = len(getattr(stream, "index_entries", ()))  # not in every version of PyAV
    is_known = stream.container.format.name == "avi" and 1 < num_indexed < stream.frames  # FFmpeg adds one itself
    return num_indexed if is_known else stream.frames


def is_blank(packet: Packet[Any]) -> bool:
    """True if a packet is empty and not the last: Ogg's "the same picture again", which decoders do not take."""
    return not packet.size and packet.dts is not None


class OpenVideo:
    """One open container and one of its video streams, with a decoder on one thread; for one user at a time.

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
        limit = {"max_pixels": str(self.config.max_pixels)}
        with ffmpeg_errors(self.path, "open"):
            is_object = isinstance(self.path, BucketPath)
            self.container = av.open(
                # Absolute, so that no file name can be read as a protocol ("concat:...").
                self.path.open("rb") if is_object else str(self.path.absolute()),
                "r",
                options=limit if _MAY_LIMIT_OPENING else {},
                container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
                metadata_errors="replace",  # titles in an old 8-bit encoding are no reason to refuse a video
            )
        try:
            self.stream = self._chosen_stream()
            self._check_pictures()
        except DecodeError:
            self.container.close()
            raise
        context = self.stream.codec_context
        context.thread_count = 1  # small pictures decode no faster on more, and workers are many
        context.options = limit  # a picture may be larger than the header says

    def _chosen_stream(self) -> VideoStream:
        """Return the stream of ``decode.stream``; without that the one that the ffmpeg command takes of several."""
        streams, wanted = {stream.index: stream for stream in self.container.streams.video}, self.config.stream
        if wanted is not None:
            if wanted not in streams:
                cause = f"decode.stream is {wanted}, and its video streams are {sorted(streams) or 'none'}"
                raise DecodeError(self.path, "open", cause)
            return streams[wanted]
        movies = self.movies()
        if not movies:
            raise DecodeError(self.path, "open", "has no video stream (audio only, or a header without content?)")
        return max(movies, key=_preference)  # of equals the first

    def _check_pictures(self) -> None:
        limit = self.config.max_pixels
        context: VideoCodecContext | None = self.stream.codec_context  # None for a codec that this FFmpeg does not know
        if context is None:
            cause = "its codec is unknown to this FFmpeg; re-encode it, or its header is damaged"
            raise DecodeError(self.path, "open", cause)
        if context.width * context.height > limit:
            cause = f"its pictures are {context.width}x{context.height}, and decode.max_pixels allows {limit} pixels"
            raise DecodeError(self.path, "open", f"{cause}; raise it if you trust the file")

    def check_usable(self) -> None:
        """Raises ``ValueError`` if closed, ``RuntimeError`` if this is not the process that opened it."""
        check_process(self.path, self._process_id)
        if self.is_closed:
            raise ValueError(f"{self.path}: the reader was closed while its frames were being read")

    def header(self) -> Header:
        stream, context = self.stream, self.stream.codec_context
        duration = (stream.duration or 0) * (stream.time_base or Fraction(0))
        return Header(
            container=self.container.format.name,
            codec=context.name,
            seconds_per_tick=stream.time_base or Fraction(0),
            average_fps=stream.average_rate or stream.guessed_rate or Fraction(0),
            guessed_fps=stream.guessed_rate or Fraction(0),
            duration_seconds=duration or Fraction(self.container.duration or 0, av.time_base),
            num_frames=_num_claimed(stream),
            num_video_streams=len(self.container.streams.video),
        )

    def on_clock(self, ticks: int) -> float:
        """Return a time of the stream, in seconds, on the file's clock, which begins with the earliest of its streams:
        the clock that players show."""
        seconds = ticks * (self.stream.time_base or Fraction(0))
        streams = (*self.container.streams.video, *self.container.streams.audio)
        others = [stream for stream in streams if stream.index != self.stream.index]
        starts = [stream.start_time * (stream.time_base or 0) for stream in others if stream.start_time is not None]
        return float(seconds - min([seconds, *starts]))

    def sample_aspect_ratio(self) -> Fraction:
        """Return the width of a stored pixel in its heights; 1 if the file does not say, or cannot mean it."""
        ratio = self.stream.sample_aspect_ratio or Fraction(1)
        return ratio if 1 / _MAX_ASPECT_RATIO <= ratio <= _MAX_ASPECT_RATIO else Fraction(1)

    def movies(self) -> list[VideoStream]:
        """Return the video streams of the file, without covers."""
        streams = self.container.streams.video
        return [stream for stream in streams if not stream.disposition & Disposition.attached_pic]

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The stream's packets in file order; the last is empty and makes the decoder give what it still holds. To be
        read once, to any place, and followed by ``rewind``."""
        num_bytes = 0
        with ffmpeg_errors(self.path, "index"):
            for packet in self.container.demux(self.stream):
                size = packet.size
                if not size and is_blank(packet):
                    continue
                num_bytes += size
                if num_bytes <= _MAX_KEPT_BYTES:
                    self._kept.append(packet)
                elif self._is_kept:
                    self._kept, self._is_kept = [], False
                if not size:
                    self._has_all = self._is_kept
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
            yield from (packet for packet in self.container.demux(self.stream) if not is_blank(packet))

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

    def __exit__(self, *error: object) -> None:
        self.close()
