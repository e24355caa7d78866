"""The packet index: how many pictures a file gives, when each is shown, and where decoding may start.

One pass over the packets, without decoding, takes about a millisecond for a ten-second clip. It is trusted only where
one packet is one picture: each rule of ``_one_picture_a_packet`` names a case in which that fails. For every other
file the pictures are counted by decoding them all once.

Display times are trusted only in containers that store them, and only if present and different. AVI, MPEG program and
transport streams and raw streams have none worth the name: there picture k is shown at k / average fps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.clip import VideoInfo
from pipeline.config import DecodeConfig
from pipeline.decode.container import TIMED_CONTAINERS, Header, OpenVideo, ffmpeg_errors
from pipeline.errors import DecodeError

# Left out: vp8 has packets that are never shown; mpeg1video, mpeg2video and vc1 may have one packet a field.
_ONE_PICTURE_CODECS = frozenset(
    "av1 libdav1d vp9 h264 hevc mpeg4 msmpeg4v2 msmpeg4v3 h263 cinepak dnxhd prores "  # noqa: SIM905 (a table of words)
    "ffv1 ffvhuff huffyuv magicyuv utvideo mjpeg png rawvideo".split()
)
# Left out: in streams without a packet table the packets are cut out by a parser, which may cut wrong.
_PACKET_CONTAINERS = frozenset((*TIMED_CONTAINERS, "avi"))

_VOP_START = b"\x00\x00\x01\xb6"
# A picture that says "not coded" is a header: start code 4 bytes, type and time at most 6, and a stuffing byte.
_MAX_NOT_CODED_BYTES = 12
# Pictures coded in each packet. DivX's "packed bitstream" puts two into one packet, each later packet then gives the
# picture held back, and a placeholder without a picture ends the run; a run that the file's end cuts loses one picture.
# So each packet gives one picture all the same. Anything else, such as a picture the encoder left out, is not proven.
_ONE_EACH = re.compile(rb"(?:\x01|\x02\x01*\x00)*(?:\x02\x01*)?")


@dataclass(frozen=True)
class VideoIndex:
    """What is known of a file before its pictures are read. N pictures, numbered in the order they are shown."""

    info: VideoInfo
    pts_seconds: NDArray[np.float64]
    """``[N]``: when each picture is shown; the first at 0."""
    ticks: NDArray[np.int64] | None
    """``[N]``: the container's own display times, increasing; None where they cannot be trusted."""
    keyframes: NDArray[np.int64]
    """Numbers of the pictures whose packets claim to be keyframes; empty where there is no seeking."""
    is_proven: bool
    """True if the packets prove the count, False if it was counted by decoding."""

    def end_seconds(self, number: int) -> float:
        """When picture ``number`` gives way to the next, or the video ends."""
        if number + 1 < len(self.pts_seconds):
            return float(self.pts_seconds[number + 1])
        return self.info.duration_seconds


@dataclass
class _Packets:
    """What one pass over the packets found. Packets that an edit list hides are left out of the lists."""

    first: VideoFrame | None = None
    pts: list[int | None] = field(default_factory=list)
    ticks_shown: dict[int | None, int] = field(default_factory=dict)
    is_key: list[bool] = field(default_factory=list)
    num_pictures: bytearray = field(default_factory=bytearray)
    num_hidden: int = 0
    are_whole: bool = True


def build_index(video: OpenVideo) -> VideoIndex:
    """Indexes a freshly opened video, and rewinds it. Reads to the end, and once more if pictures must be counted.

    Raises:
        DecodeError: no picture can be decoded, or the file breaks off with an error.
    """
    header = video.header()
    packets = _scan(video, header)
    video.rewind()
    if packets.first is None:
        raise DecodeError(video.path, "index", _no_picture_cause(video))
    is_proven = _one_picture_a_packet(packets, header)
    pts = packets.pts if is_proven else _decoded_pts(video)
    ticks = _trusted_ticks(pts, header, in_order=not is_proven)  # packets come in the order of decoding
    keyframes = np.empty(0, np.int64)
    if ticks is not None and is_proven:
        key_ticks = np.array(pts, np.int64)[np.array(packets.is_key)]
        keyframes = np.sort(np.searchsorted(ticks, key_ticks))
    check_length(video.path, video.config, num_frames=len(pts))
    pts_seconds, fps, duration = _timeline(video.path, len(pts), ticks, packets.ticks_shown, header)
    check_length(video.path, video.config, seconds=duration)
    info = _info(video.path, packets.first, len(pts), fps, duration, header)
    return VideoIndex(info, pts_seconds, ticks, keyframes, is_proven)


def _no_picture_cause(video: OpenVideo) -> str:
    cause = "no picture can be decoded; the file may be cut off or have only a header"
    if video.stream.codec_context.width:
        return cause
    return f"{cause}, or pictures of more than decode.max_pixels = {video.config.max_pixels} pixels"


def check_length(path: Path, config: DecodeConfig, num_frames: int = 0, seconds: float = 0.0) -> None:
    """Raises ``DecodeError`` if that is more than the settings allow."""
    if num_frames > config.max_frames:
        cause = f"it has more than decode.max_frames = {config.max_frames} frames; raise it if you trust the file"
        raise DecodeError(path, "index", cause)
    if seconds > config.max_seconds:
        cause = f"it lasts {seconds:.0f} s by its display times, and decode.max_seconds allows {config.max_seconds:g}; "
        raise DecodeError(path, "index", f"{cause}its times are damaged, or raise the limit")


def _scan(video: OpenVideo, header: Header) -> _Packets:
    found, is_mpeg4 = _Packets(), header.codec == "mpeg4"
    for packet in video.packets():
        if found.first is None:
            # The first picture tells size and turn; the packets after it are not decoded.
            with ffmpeg_errors(video.path, "index"):
                found.first = next(iter(packet.decode()), None)
        if packet.is_discard:
            found.num_hidden += 1
        elif packet.size:
            pts = packet.pts
            found.pts.append(pts)
            found.ticks_shown[pts] = packet.duration or 0
            found.is_key.append(packet.is_keyframe)
            found.num_pictures.append(_num_pictures(packet) if is_mpeg4 else 1)
            if packet.is_corrupt:
                found.are_whole = False
    return found


def _num_pictures(packet: Packet[VideoStream]) -> int:
    """How many pictures of an MPEG-4 packet are coded, at most 255 (ISO/IEC 14496-2, 6.2.5: vop_coded)."""
    data, num_coded = bytes(packet), 0
    start = data.find(_VOP_START)
    while start >= 0:
        following = data.find(_VOP_START, start + len(_VOP_START))
        stop = following if following >= 0 else len(data)
        num_coded += stop - start > _MAX_NOT_CODED_BYTES
        start = following
    return min(num_coded, 255)


def _one_picture_a_packet(packets: _Packets, header: Header) -> bool:
    if header.container not in _PACKET_CONTAINERS or header.codec not in _ONE_PICTURE_CODECS:
        return False
    first = packets.first
    if first is None or first.interlaced_frame:  # a packet may be half a picture
        return False
    if header.num_frames not in (0, len(packets.pts) + packets.num_hidden):  # a hole, or cut off
        return False
    if not packets.are_whole or packets.is_key[:1] != [True]:  # pictures before the first keyframe are not given
        return False
    if not _ONE_EACH.fullmatch(packets.num_pictures):
        return False
    if not header.is_timed:
        return True
    present = [ticks for ticks in packets.pts if ticks is not None]
    # A first picture later than the earliest packet: the decoder drops what it has no reference for.
    return len(set(present)) == len(packets.pts) and first.pts == min(present)


def _decoded_pts(video: OpenVideo) -> list[int | None]:
    """Display times of all pictures, in decoder order; where no other way is sure."""
    pts = []
    for number, frame in enumerate(video.frames()):
        check_length(video.path, video.config, num_frames=number + 1)
        pts.append(frame.pts)
    video.rewind()
    return pts


def _trusted_ticks(pts: Sequence[int | None], header: Header, in_order: bool) -> NDArray[np.int64] | None:
    present = [ticks for ticks in pts if ticks is not None]
    if not header.is_timed or not header.seconds_per_tick or len(present) < len(pts):
        return None
    ticks = np.array(present if in_order else sorted(present), np.int64)
    return ticks if bool(np.all(np.diff(ticks) > 0)) else None


def _timeline(
    path: Path, num_frames: int, ticks: NDArray[np.int64] | None, ticks_shown: dict[int | None, int], header: Header
) -> tuple[NDArray[np.float64], Fraction, float]:
    """Times of the pictures, average fps, and duration in seconds."""
    claimed = header.average_fps
    if ticks is None:
        check_rate(path, header)
        return np.arange(num_frames, dtype=np.float64) / float(claimed), claimed, float(num_frames / claimed)
    tick = header.seconds_per_tick
    last, first = int(ticks[-1]), int(ticks[0])
    duration = (last - first) * tick + last_picture_seconds(ticks_shown.get(last, 0), header)
    fps = claimed
    # Headers of variable-rate files are often wrong; those of constant rate say 30000/1001, which rounded ticks do not.
    if not claimed or abs(num_frames / claimed - duration) > 1 / (2 * claimed):
        fps = num_frames / duration
    return (ticks - first).astype(np.float64) * float(tick), fps, float(duration)


def check_rate(path: Path, header: Header) -> None:
    """Raises ``DecodeError`` if nothing tells when the pictures of this file are shown."""
    if not header.average_fps:
        raise DecodeError(path, "index", "the file tells neither display times nor pictures per second; re-encode it")


def last_picture_seconds(ticks_shown: int, header: Header) -> Fraction:
    """How long the last picture is shown: as its packet says, else one picture at the average rate."""
    if ticks_shown > 0:
        return ticks_shown * header.seconds_per_tick
    return 1 / header.average_fps if header.average_fps else header.seconds_per_tick


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns, 0 to 3, that make the picture upright."""
    return round(frame.rotation / 90) % 4


def _info(path: Path, first: VideoFrame, num_frames: int, fps: Fraction, duration: float, header: Header) -> VideoInfo:
    turns = quarter_turns(first)
    width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
    return VideoInfo(
        path=path,
        num_frames=num_frames,
        width=width,
        height=height,
        average_fps=fps,
        duration_seconds=duration,
        rotation_degrees=90 * turns,
        codec=header.codec,
        container=header.container,
    )
