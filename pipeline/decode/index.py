"""The packet index: a file's number of pictures, the display time of each, and the places where decoding may start.

One pass over the packets, without decoding, takes about a millisecond for a ten-second clip. It is trusted only where
one packet is one picture: each rule of ``_one_picture_a_packet`` names a case in which that fails. For every other
file the pictures are counted by decoding them all once.

Which pictures these are is held against stored display times while seeking and reading, in the containers where that is
safe. Display times are another matter, which ``times`` decides for every container.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.clip import VideoInfo
from pipeline.config import DecodeConfig
from pipeline.decode.container import TIMED_CONTAINERS, Header, OpenVideo
from pipeline.decode.orientation import has_upright, orientation_of
from pipeline.decode.packets import Packets, scan
from pipeline.decode.times import NO_TIME, PictureTimes, Stamps, make_timeline, shown_from
from pipeline.errors import DecodeError

INDEX_VERSION = 2
"""Changes whenever the same file may come out with other times, or in another shape."""

# Left out: vp8 has packets that are never shown; mpeg1video, mpeg2video and vc1 may have one packet a field.
_ONE_PICTURE_CODECS = frozenset(
    "av1 libdav1d vp9 h264 hevc mpeg4 msmpeg4v2 msmpeg4v3 h263 cinepak dnxhd prores "  # noqa: SIM905 (a table of words)
    "ffv1 ffvhuff huffyuv magicyuv utvideo mjpeg png rawvideo".split()
)
# Left out: in streams without a packet table the packets are cut out by a parser, which may cut wrong.
_PACKET_CONTAINERS = frozenset((*TIMED_CONTAINERS, "avi"))

# MPEG-4 holds back one picture, to put B-frames before it.
_MAX_HELD_IN_AVI = 1

# Pictures coded in each packet. DivX's "packed bitstream" puts two into one packet, each later packet then gives the
# picture held back, and a placeholder without a picture ends the run; a run that the file's end cuts loses one picture.
# So each packet gives one picture all the same. Anything else, such as a picture the encoder left out, is not proven.
_ONE_EACH = re.compile(rb"(?:\x01|\x02\x01*\x00)*(?:\x02\x01*)?")


@dataclass(frozen=True)
class VideoIndex:
    """Facts about a file before its pictures are read. N pictures, numbered in display order."""

    info: VideoInfo
    pts_seconds: NDArray[np.float64]
    """``[N]``: display time of each picture; the first is 0."""
    ticks: NDArray[np.int64] | None
    """``[N]``: the container's own display times, increasing; None where pictures cannot be told by them."""
    keyframes: NDArray[np.int64]
    """Numbers of the pictures whose packets claim to be keyframes; empty where there is no seeking."""
    is_proven: bool
    """True if the packets prove the count, False if it was counted by decoding."""
    tick_seconds: float = 0.0
    """Unit that the times are rounded to; 0 where they are counted."""

    @cached_property
    def _shown_from(self) -> NDArray[np.float64]:
        return shown_from(self.pts_seconds, self.tick_seconds)

    def numbers_at(self, times_seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of the picture shown at each time: the last whose time is not later, but for rounding."""
        return np.maximum(np.searchsorted(self._shown_from, times_seconds, side="right") - 1, 0)


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
    if is_proven:
        num_frames, stamps = len(packets.is_key), _packet_stamps(packets, header)
    else:
        num_frames, stamps = _decoded_stamps(video, packets)
    has_ticks = header.is_timed and header.seconds_per_tick and len(stamps.pts) and NO_TIME not in stamps.pts
    ticks = stamps.pts if has_ticks and _do_increase(stamps.pts) else None
    keyframes = np.empty(0, np.int64)
    if ticks is not None and is_proven and packets.pts is not None:
        keyframes = np.sort(np.searchsorted(ticks, packets.pts[packets.is_key]))
    check_length(video.path, video.config, num_frames=num_frames)
    timeline = make_timeline(num_frames, stamps, header)
    if timeline is None:
        cause = "the file tells neither display times nor pictures per second; re-encode it"
        raise DecodeError(video.path, "index", cause)
    check_length(video.path, video.config, seconds=timeline.duration_seconds)
    info = _info(video, packets.first, num_frames, timeline, header)
    tick_seconds = 0.0 if timeline.why_counted else float(header.seconds_per_tick)
    return VideoIndex(info, timeline.pts_seconds, ticks, keyframes, is_proven, tick_seconds)


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
        # AVI: the decoder tells where empty chunks are, and what it drops at the start for want of a reference.
        return packets.dts is not None and _are_even(packets.dts) and packets.num_before_first <= _MAX_HELD_IN_AVI
    if packets.pts is None or not len(packets.pts):
        return False
    # A first picture later than the earliest packet: the decoder drops what it has no reference for.
    return _do_increase(np.sort(packets.pts)) and first.pts == int(packets.pts.min())


def _packet_stamps(packets: Packets, header: Header) -> Stamps:
    """Return the stamps of packets, which come in decoding order. In AVI each is shown for one tick."""
    none = np.empty(0, np.int64)
    if header.is_timed and packets.pts is not None:
        pts = np.sort(packets.pts)
        return Stamps(pts, none, num_ticks_last=_num_ticks_shown(packets, int(pts[-1])))
    dts = none if packets.dts is None else packets.dts
    return Stamps(none, dts, packets.first_dts)


def _decoded_stamps(video: OpenVideo, packets: Packets) -> tuple[int, Stamps]:
    """Return the number of pictures, and their times in decoder order; for files where no other way is sure."""
    pts: list[int] = []
    dts: list[int] = []
    for frame in video.frames():
        pts.append(NO_TIME if frame.pts is None else frame.pts)
        dts.append(NO_TIME if frame.dts is None else frame.dts)
        check_length(video.path, video.config, num_frames=len(pts))
    video.rewind()
    header = video.header()
    tells_last = header.is_timed or header.container == "gif"
    last = _num_ticks_shown(packets, max(pts, default=0)) if tells_last else 0
    return len(pts), Stamps(np.array(pts, np.int64), np.array(dts, np.int64), packets.first_dts, last)


def _do_increase(ticks: NDArray[np.int64]) -> bool:
    return bool(np.all(np.diff(ticks) > 0))


def _are_even(ticks: NDArray[np.int64]) -> bool:
    steps = np.diff(ticks)
    return not len(steps) or bool(steps[0] > 0 and np.all(steps == steps[0]))


def _num_ticks_shown(packets: Packets, ticks: int) -> int:
    """Return the display duration, in ticks, that the packet with that time has; 0 if it does not say."""
    if packets.pts is None:
        return 0
    return int(packets.num_ticks_shown[packets.pts == ticks][-1:].sum())


def _info(video: OpenVideo, first: VideoFrame, num_frames: int, timeline: PictureTimes, header: Header) -> VideoInfo:
    if not has_upright(first):
        turn = "its display matrix turns or slants the pictures by other than quarter turns, which is not done here"
        raise DecodeError(video.path, "index", f"{turn}; let the ffmpeg command write them anew")
    orientation = orientation_of(first)
    is_turned = orientation.quarter_turns % 2 == 1
    width, height = (first.height, first.width) if is_turned else (first.width, first.height)
    aspect_ratio = video.sample_aspect_ratio()
    return VideoInfo(
        path=video.path,
        num_frames=num_frames,
        width=width,
        height=height,
        average_fps=timeline.average_fps,
        duration_seconds=timeline.duration_seconds,
        rotation_degrees=90 * orientation.quarter_turns,
        codec=header.codec,
        container=header.container,
        is_mirrored=orientation.is_mirrored,
        sample_aspect_ratio=1 / aspect_ratio if is_turned else aspect_ratio,
        times="counted" if timeline.why_counted else "file",
        why_counted=timeline.why_counted,
        stream=video.stream.index,
        num_video_streams=len(video.movies()),
        start_seconds_in_file=0.0 if timeline.first_tick is None else video.on_clock(timeline.first_tick),
    )
