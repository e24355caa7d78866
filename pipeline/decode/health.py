"""The health of a video file: the claims of its header, the pictures really there, and the differences.

The file is decoded once from end to end and each error is counted, where a reader stops at the first. The decoder's own
complaints are counted too: a damaged picture is often given all the same, patched with parts of its neighbours.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.decode.bitstream import are_nal_units_sound, num_length_bytes
from pipeline.decode.causes import framing_fault, is_cut_off
from pipeline.decode.complaints import complaints, log_alone
from pipeline.decode.container import ONE_THREAD, Header, OpenVideo, ffmpeg_errors, is_blank
from pipeline.decode.index import VideoIndex, check_length
from pipeline.decode.mp4 import count_hidden
from pipeline.decode.notes import notes_of, ratio_of
from pipeline.decode.orientation import orientation_of
from pipeline.decode.reader import VideoFile
from pipeline.decode.times import is_constant_rate
from pipeline.errors import DecodeError
from pipeline.schema import read_checked

USABLE, DEGRADED, UNUSABLE = "usable", "degraded", "unusable"
_THUMBNAIL_SIDE_PX = 16
# When the thumbnails are taken: few in a long video, several in a short one.
_THUMBNAIL_SECONDS = (0.0, 0.25, 0.5, *(2.0**k for k in range(17)))
# FFmpeg's VP8 and VP9 decoders make pictures of anything; these check that a frame's data come out even.
_STRICTER = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# A header rounds; less than this is not missing.
_MIN_SECONDS_MISSING, _MIN_SHARE_MISSING = 0.5, 0.05


@dataclass(frozen=True)
class FileHealth:
    """Facts about one file. Counts are 0 and texts empty where the file could not be read so far."""

    path: str
    verdict: str
    """usable: a reader gives every frame; degraded: not all of them, or damaged ones; unusable: none."""
    reasons: tuple[str, ...]
    """Causes why it is not usable; empty if it is."""
    num_bytes: int = 0
    container: str = ""
    codec: str = ""
    width: int = 0
    """Pixels of the upright picture."""
    height: int = 0
    """Pixels of the upright picture."""
    rotation_degrees: int = 0
    """Counter-clockwise turn that the container asks for."""
    is_mirrored: bool = False
    """True if the container asks for left and right to be swapped before the turn."""
    sample_aspect_ratio: str = ""
    """Width to height of a pixel as shown, such as 16:11."""
    times: str = ""
    """Source of the display times: ``file``, or ``counted`` at a constant rate; ``notes`` then says which and why."""
    start_seconds_in_file: float = 0.0
    duration_seconds: float = 0.0
    average_fps: float = 0.0
    is_constant_rate: bool = True
    num_frames_claimed: int = 0
    """Frames that the header announces; 0 if it does not say."""
    num_packets: int = 0
    """Packets that are to be shown."""
    num_frames: int = 0
    """Frames decoded without an error."""
    num_frames_exact: int = 0
    """Frames before the first error: those a reader gives."""
    num_errors: int = 0
    """Packets that could not be decoded."""
    num_corrupt: int = 0
    """Packets and frames that are flagged as corrupt."""
    num_complaints: int = 0
    """Errors that the decoder reports while it gives frames."""
    sizes: tuple[str, ...] = ()
    """Sizes as stored; more than one if the resolution changes."""
    notes: tuple[str, ...] = ()
    """Facts that are no fault: counted times, HDR, half pictures, odd pixels, other streams."""


@dataclass(frozen=True)
class Examination:
    """A file's health, and some of its pictures, small, to be compared with those of other files."""

    health: FileHealth
    thumbnails: NDArray[np.uint8]
    """gray ``[K, 16, 16]``, at fixed times from the start."""

    def to_message(self) -> tuple[dict[str, Any], bytes]:
        """Return the health as JSON values, and the thumbnails as bytes."""
        return asdict(self.health), self.thumbnails.tobytes()

    @staticmethod
    def of_unreadable(path: Path, reason: str) -> Examination:
        """Return the examination of a file that cannot be opened."""
        num_bytes = 0
        with suppress(OSError):
            num_bytes = path.stat().st_size if path.is_file() else 0
        return Examination(FileHealth(str(path), UNUSABLE, (reason,), num_bytes), _stack([]))

    @staticmethod
    def from_message(message: dict[str, Any], payload: bytes | bytearray) -> Examination:
        """Return the examination that ``to_message`` packed."""
        thumbnails = np.frombuffer(payload, np.uint8).reshape(-1, _THUMBNAIL_SIDE_PX, _THUMBNAIL_SIDE_PX)
        return Examination(read_checked(FileHealth, message, "the decoding process"), thumbnails)


@dataclass
class _Facts:
    """Findings of one decode of the whole file."""

    num_packets: int = 0
    num_hidden: int = 0
    """Pictures that an edit list hides."""
    num_frames: int = 0
    num_exact: int = 0
    num_errors: int = 0
    num_corrupt: int = 0
    num_refused: int = 0
    """Packets that the second decoder does not take."""
    num_unsound: int = 0
    """Packets with bytes that no encoder may write."""
    complaints: list[str] = field(default_factory=list)
    first_error: str = ""
    sizes: dict[str, None] = field(default_factory=dict)
    is_last_corrupt: bool = False
    last_dts: int = -1
    last_pts: int | None = None
    num_interlaced: int = 0
    other_streams: list[str] = field(default_factory=list)
    color_trc: int = 0
    num_untimed: int = 0
    """Frames without a display time, or with one not after the frame before."""
    end_seconds: float = 0.0
    """End of the last packet of any stream."""
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)


def examine(path: Path, config: DecodeConfig) -> Examination:
    """Opens, indexes and decodes a file in this process. Never raises because of the file, except ``MemoryError``."""
    index, refusal, facts = None, "", _Facts()
    try:
        with closing(VideoFile(path, config)) as file:
            header = file.header
            try:
                index = file.index
            except DecodeError as error:
                refusal = f"{error.stage}: {error.cause}"
            with log_alone():
                with complaints(facts.complaints, header.container):
                    video = OpenVideo(path, config)  # anew: what the index has read is kept by the other
                sounds = [stream.codec_context.name for stream in video.container.streams.audio if stream.codec_context]
                with video, complaints(facts.complaints, but=sounds):
                    claimed_seconds = (video.container.duration or 0) / av.time_base
                    _decode_all(video, header, index, facts)
        if header.is_timed and header.num_frames:
            facts.num_hidden = max(facts.num_hidden, count_hidden(path))  # FFmpeg gives no packets of most
    except DecodeError as error:
        return Examination.of_unreadable(path, f"{error.stage}: {error.cause}")
    reasons = _reasons(path, header, index, facts, claimed_seconds)
    if refusal:
        reasons.append(f"no frame of it can be numbered ({refusal})")
    return Examination(_health(path, header, index, facts, tuple(reasons)), _stack(facts.thumbnails))


def _stack(thumbnails: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.array(thumbnails, np.uint8).reshape(-1, _THUMBNAIL_SIDE_PX, _THUMBNAIL_SIDE_PX)


def _decode_all(video: OpenVideo, header: Header, index: VideoIndex | None, facts: _Facts) -> None:
    """Decode every packet, past any errors, and record the findings in ``facts``."""
    facts.color_trc = video.stream.codec_context.color_trc
    others = [stream for stream in video.movies() if stream.index != video.stream.index]
    facts.other_streams = [_in_words(stream) for stream in others]
    second = _second_decoder(header.codec, video.config)
    length_bytes = num_length_bytes(header.codec, video.stream.codec_context.extradata)
    with ffmpeg_errors(video.path, "decode"):
        for packet in video.container.demux():
            if is_blank(packet):
                continue
            if packet.pts is not None and packet.time_base:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                facts.end_seconds = max(facts.end_seconds, end)
            if packet.stream.index == video.stream.index:
                _decode_packet(cast("Packet[VideoStream]", packet), video, index, facts)
                facts.num_refused += _is_refused(second, packet)
                facts.num_unsound += bool(length_bytes) and not are_nal_units_sound(bytes(packet), length_bytes)


def _in_words(stream: VideoStream) -> str:
    context = stream.codec_context
    return f"{stream.index} ({context.name}, {context.width}x{context.height})" if context else f"{stream.index}"


def _second_decoder(codec: str, config: DecodeConfig) -> VideoCodecContext | None:
    """Return a decoder with checks that FFmpeg's own lacks; None where there is none in this build."""
    try:
        decoder = cast("VideoCodecContext", CodecContext.create(_STRICTER[codec], "r"))
    except (KeyError, ValueError):  # the second: UnknownCodecError
        return None
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(config.max_pixels)}
    return decoder


def _is_refused(decoder: VideoCodecContext | None, packet: Packet[Any]) -> bool:
    if decoder is None or not packet.size:
        return False
    try:
        decoder.decode(packet)
    except FFmpegError:
        return True
    return False


def _decode_packet(packet: Packet[VideoStream], video: OpenVideo, index: VideoIndex | None, facts: _Facts) -> None:
    if packet.size and not packet.is_discard:
        facts.num_packets += 1
        facts.is_last_corrupt = packet.is_corrupt
        facts.last_dts = packet.dts if packet.dts is not None else facts.last_dts
    facts.num_hidden += packet.is_discard
    facts.num_corrupt += packet.is_corrupt
    try:
        frames = packet.decode()
    except FFmpegError as error:
        facts.num_errors += 1
        facts.first_error = facts.first_error or f"{error.strerror} at frame {facts.num_frames}"
        return
    for frame in frames:
        _note_frame(frame, index, facts)
        check_length(video.path, video.config, num_frames=facts.num_frames)


def _note_frame(frame: VideoFrame, index: VideoIndex | None, facts: _Facts) -> None:
    number, half_step = facts.num_frames, 0.02
    seconds = number / 25  # near enough where nothing is known
    if index is not None and number < index.info.num_frames:
        seconds, half_step = float(index.pts_seconds[number]), float(1 / index.info.average_fps) / 2
    facts.num_frames += 1
    facts.num_interlaced += frame.interlaced_frame
    facts.num_untimed += frame.pts is None or (facts.last_pts is not None and frame.pts <= facts.last_pts)
    facts.last_pts = frame.pts
    facts.num_exact += not facts.num_errors
    facts.num_corrupt += frame.is_corrupt
    facts.sizes[f"{frame.width}x{frame.height}"] = None
    num_taken = len(facts.thumbnails)
    if num_taken < len(_THUMBNAIL_SECONDS) and seconds + half_step >= _THUMBNAIL_SECONDS[num_taken]:
        side = _THUMBNAIL_SIDE_PX
        small = frame.reformat(side, side, "gray", interpolation="AREA", **ONE_THREAD).to_ndarray()
        facts.thumbnails.append(orientation_of(frame).upright(small.astype(np.uint8)))


def _reasons(path: Path, header: Header, index: VideoIndex | None, facts: _Facts, claimed_seconds: float) -> list[str]:
    """Return all reasons that keep the file from being usable, the cause before its effects."""
    reasons = [_missing(path, header, facts, claimed_seconds)]
    if facts.num_errors:
        reasons.append(f"damaged: {facts.num_errors} packets cannot be decoded ({facts.first_error})")
    if facts.num_corrupt:
        reasons.append(f"damaged: {facts.num_corrupt} packets or frames are flagged as corrupt")
    if facts.num_unsound and not facts.num_errors:
        reasons.append(f"damaged: {facts.num_unsound} packets hold bytes that no {header.codec} encoder may write")
    if facts.num_refused and not facts.num_errors:
        reasons.append(f"damaged: a stricter decoder ({_STRICTER[header.codec]}) refuses {facts.num_refused} packets")
    if facts.complaints:
        reasons.append(f"damaged: the decoder reports {len(facts.complaints)} errors, first: {facts.complaints[0]}")
    if len(facts.sizes) > 1:
        reasons.append(f"the resolution changes within the file: {', '.join(facts.sizes)}; re-encode it")
    if header.is_timed and (facts.num_untimed or (index is not None and index.ticks is None)):
        reasons.append("damaged: display times are missing, repeated or out of order")
    if index is not None and not facts.num_errors and index.info.num_frames != facts.num_frames:
        reasons.append(f"the packets announce {index.info.num_frames} frames and {facts.num_frames} can be decoded")
    return [reason for reason in reasons if reason]


def _missing(path: Path, header: Header, facts: _Facts, claimed_seconds: float) -> str:
    """Return how the file falls short of its header, cut off at the end or with a hole inside, or else a fault of its
    framing; empty if there is none."""
    claimed, found = header.num_frames - facts.num_hidden, facts.num_packets
    is_sound = not (facts.num_errors or facts.num_corrupt or facts.complaints)
    has_empty_chunks = header.container == "avi" and facts.last_dts + 1 >= claimed and is_sound
    if claimed > found and not has_empty_chunks:
        numbers = f"the header announces {claimed} frames and {found} are there"
        if facts.is_last_corrupt or is_cut_off(path):
            return f"cut off: {numbers}; a copy or download may have been interrupted"
        return f"a hole: {numbers}; a part inside the file is damaged or was never written"
    seconds_missing = claimed_seconds - facts.end_seconds
    is_much = seconds_missing > max(_MIN_SECONDS_MISSING, _MIN_SHARE_MISSING * claimed_seconds)
    if header.is_timed and is_much:
        return f"cut off: the header announces {claimed_seconds:.1f} s and the file ends at {facts.end_seconds:.1f} s"
    return "cut off: the file ends inside a packet" if facts.is_last_corrupt else framing_fault(path)


def _health(
    path: Path, header: Header, index: VideoIndex | None, facts: _Facts, reasons: tuple[str, ...]
) -> FileHealth:
    is_unusable = index is None or not facts.num_frames
    health = FileHealth(
        path=str(path),
        verdict=UNUSABLE if is_unusable else DEGRADED if reasons else USABLE,
        reasons=reasons,
        num_bytes=path.stat().st_size,
        container=header.container,
        codec=header.codec,
        num_frames_claimed=header.num_frames,
        num_packets=facts.num_packets,
        num_frames=facts.num_frames,
        num_frames_exact=facts.num_exact,
        num_errors=facts.num_errors,
        num_corrupt=facts.num_corrupt,
        num_complaints=len(facts.complaints),
        sizes=tuple(facts.sizes),
    )
    if index is None:
        return health
    about = {
        "width": index.info.width,
        "height": index.info.height,
        "rotation_degrees": index.info.rotation_degrees,
        "is_mirrored": index.info.is_mirrored,
        "sample_aspect_ratio": ratio_of(index),
        "times": index.info.times,
        "start_seconds_in_file": index.info.start_seconds_in_file,
        "duration_seconds": index.info.duration_seconds,
        "average_fps": float(index.info.average_fps),
        "is_constant_rate": is_constant_rate(index.pts_seconds, index.tick_seconds),
        "notes": tuple(notes_of(index, facts.color_trc, facts.num_interlaced, facts.num_frames, facts.other_streams)),
    }
    return FileHealth(**(asdict(health) | about))
