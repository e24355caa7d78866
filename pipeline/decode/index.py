"""The packet index: how many pictures a file gives, when each is shown, and where decoding may start.

One pass over the packets, without decoding, takes about a millisecond for a ten-second clip. It is trusted only where
one packet is one picture: each rule of ``_one_picture_a_packet`` names a case in which that fails. For every other
file the pictures are counted by decoding them all once.

Display times are trusted only in containers that store them, and only if present and different. AVI, MPEG program and
transport streams and raw streams have none worth the name: there picture k is shown at k / average fps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.clip import VideoInfo
from pipeline.config import DecodeConfig
from pipeline.decode.container import TIMED_CONTAINERS, Header, OpenVideo
from pipeline.decode.packets import Packets, scan
from pipeline.errors import DecodeError

# Left out: vp8 has packets that are never shown; mpeg1video, mpeg2video and vc1 may have one packet a field.
_ONE_PICTURE_CODECS = frozenset(
    "av1 libdav1d vp9 h264 hevc mpeg4 msmpeg4v2 msmpeg4v3 h263 cinepak dnxhd prores "  # noqa: SIM905 (a table of words)
    "ffv1 ffvhuff huffyuv magicyuv utvideo mjpeg png rawvideo".split()
)
# Left out: in streams without a packet table the packets are cut out by a parser, which may cut wrong.
_PACKET_CONTAINERS = frozenset((*TIMED_CONTAINERS, "avi"))

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


def build_index(video: OpenVideo) -> VideoIndex:
    """Indexes a freshly opened video, and rewinds it. Reads to the end, and once more if pictures must be counted.

    Raises:
        DecodeError: no picture can be decoded, or the file breaks off with an error.
    """
    header = video.header()
    packets = scan(video, header)
    video.rewind()
    if packets.first is None:
        raise DecodeError(video.path, "index", _no_picture_cause(video))
    is_proven = _one_picture_a_packet(packets, header)
    if is_proven:  # packets come in the order of decoding
        num_frames, pts = len(packets.is_key), None if packets.pts is None else np.sort(packets.pts)
    else:
        num_frames, pts = _decoded_pts(video)
    ticks = _trusted_ticks(pts, header)
    keyframes = np.empty(0, np.int64)
    if ticks is not None and is_proven and packets.pts is not None:
        keyframes = np.sort(np.searchsorted(ticks, packets.pts[packets.is_key]))
    check_length(video.path, video.config, num_frames=num_frames)
    pts_seconds, fps, duration = _timeline(video.path, num_frames, ticks, packets, header)
    check_length(video.path, video.config, seconds=duration)
    info = _info(video.path, packets.first, num_frames, fps, duration, header)
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


def _one_picture_a_packet(packets: Packets, header: Header) -> bool:
    if header.container not in _PACKET_CONTAINERS or header.codec not in _ONE_PICTURE_CODECS:
        return False
    first = packets.first
    if first is None or first.interlaced_frame:  # a packet may be half a picture
        return False
    if header.num_frames not in (0, len(packets.is_key) + packets.num_hidden):  # a hole, or cut off
        return False
    if not packets.are_whole or not packets.is_key[:1].all():  # pictures before the first keyframe are not given
        return False
    is_simple = packets.num_pictures.count(1) == len(packets.num_pictures)  # far quicker than the pattern
    if not is_simple and not _ONE_EACH.fullmatch(packets.num_pictures):
        return False
    if not header.is_timed:
        return True
    if packets.pts is None or not len(packets.pts):
        return False
    # A first picture later than the earliest packet: the decoder drops what it has no reference for.
    return _do_increase(np.sort(packets.pts)) and first.pts == int(packets.pts.min())


def _decoded_pts(video: OpenVideo) -> tuple[int, NDArray[np.int64] | None]:
    """Number of pictures, and their display times in decoder order if all have one; where no other way is sure."""
    pts: list[int] = []
    num_frames = 0
    for frame in video.frames():
        num_frames += 1
        check_length(video.path, video.config, num_frames=num_frames)
        if frame.pts is not None:
            pts.append(frame.pts)
    video.rewind()
    return num_frames, np.array(pts, np.int64) if len(pts) == num_frames else None


def _trusted_ticks(pts: NDArray[np.int64] | None, header: Header) -> NDArray[np.int64] | None:
    if pts is None or not header.is_timed or not header.seconds_per_tick:
        return None
    return pts if _do_increase(pts) else None


def _do_increase(ticks: NDArray[np.int64]) -> bool:
    return bool(np.all(np.diff(ticks) > 0))


def _timeline(
    path: Path, num_frames: int, ticks: NDArray[np.int64] | None, packets: Packets, header: Header
) -> tuple[NDArray[np.float64], Fraction, float]:
    """Times of the pictures, average fps, and duration in seconds."""
    claimed = header.average_fps
    if ticks is None:
        check_rate(path, header)
        return np.arange(num_frames, dtype=np.float64) / float(claimed), claimed, float(num_frames / claimed)
    tick = header.seconds_per_tick
    last, first = int(ticks[-1]), int(ticks[0])
    duration = (last - first) * tick + last_picture_seconds(_ticks_shown(packets, last), header)
    fps = claimed
    # Headers of variable-rate files are often wrong; those of constant rate say 30000/1001, which rounded ticks do not.
    if not claimed or abs(num_frames / claimed - duration) > 1 / (2 * claimed):
        fps = num_frames / duration
    return (ticks - first).astype(np.float64) * float(tick), fps, float(duration)


def _ticks_shown(packets: Packets, ticks: int) -> int:
    """How long the packet with that time says it is shown; 0 if it does not."""
    if packets.pts is None:
        return 0
    return int(packets.num_ticks_shown[packets.pts == ticks][-1:].sum())


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
