"""One pass over the packets of a file, without decoding more than the first picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.decode.container import Header, OpenVideo, ffmpeg_errors
from pipeline.decode.mp4 import SampleTable, read_sample_table

_VOP_START = b"\x00\x00\x01\xb6"
# A picture that says "not coded" is a header: start code 4 bytes, type and time at most 6, and a stuffing byte.
_MAX_NOT_CODED_BYTES = 12


@dataclass(frozen=True)
class Packets:
    """Facts of M packets, in file order, without those that an edit list hides."""

    first: VideoFrame | None
    """The first picture; None if none can be decoded."""
    pts: NDArray[np.int64] | None
    """``[M]``: display times in ticks; None if one is missing."""
    dts: NDArray[np.int64] | None
    """``[M]``: decoding times in ticks; None if one is missing."""
    first_dts: int | None
    """Decoding time of the first packet that is shown; None if it has none."""
    num_ticks_shown: NDArray[np.int64]
    """``[M]``: display duration of each; 0 where the container does not say."""
    is_key: NDArray[np.bool_]
    """``[M]``: True for a packet that claims to be a keyframe."""
    num_before_first: int = 0
    """Packets that the decoder took before it gave the first picture."""
    num_pictures: bytes = b""
    """``[M]``: pictures coded in each packet; empty where it can only be one."""
    num_hidden: int = 0
    are_whole: bool = True
    """True if no packet is flagged as corrupt or cut off."""


def scan(video: OpenVideo, header: Header) -> Packets:
    """Read the packets of a freshly opened video; to be followed by ``rewind``.

    Raises:
        DecodeError: the file breaks off with an error.
    """
    # MPEG-4 packets must be looked into.
    table = read_sample_table(video) if header.is_timed and header.codec != "mpeg4" else None
    return _demux(video, header) if table is None else _from_table(video, table)


def _from_table(video: OpenVideo, table: SampleTable) -> Packets:
    with ffmpeg_errors(video.path, "index"):
        first = next((frame for packet in video.packets() for frame in packet.decode()), None)
    return Packets(first, table.pts, table.dts, int(table.dts[0]), table.num_ticks_shown, table.is_key)


def _demux(video: OpenVideo, header: Header) -> Packets:
    first, num_before_first, is_mpeg4 = None, 0, header.codec == "mpeg4"
    pts: list[int | None] = []
    dts: list[int | None] = []
    shown: list[int] = []
    is_key: list[bool] = []
    num_pictures, num_hidden, are_whole = bytearray(), 0, True
    for packet in video.packets():
        if first is None:
            # The first picture tells size and turn; the packets after it are not decoded.
            with ffmpeg_errors(video.path, "index"):
                first = next(iter(packet.decode()), None)
            num_before_first += first is None
        if packet.is_discard:
            num_hidden += 1
        elif packet.size:
            pts.append(packet.pts)
            dts.append(packet.dts)
            shown.append(packet.duration or 0)
            is_key.append(packet.is_keyframe)
            num_pictures += bytes([_num_pictures(packet)]) if is_mpeg4 else b""
            are_whole = are_whole and not packet.is_corrupt
    return Packets(
        first=first,
        pts=_if_complete(pts),
        dts=_if_complete(dts),
        first_dts=dts[0] if dts else None,
        num_ticks_shown=np.array(shown, np.int64),
        is_key=np.array(is_key, np.bool_),
        num_before_first=num_before_first,
        num_pictures=bytes(num_pictures),
        num_hidden=num_hidden,
        are_whole=are_whole,
    )


def _if_complete(ticks: list[int | None]) -> NDArray[np.int64] | None:
    present = [tick for tick in ticks if tick is not None]
    return np.array(present, np.int64) if len(present) == len(ticks) else None


def _num_pictures(packet: Packet[VideoStream]) -> int:
    """Return the number of coded pictures in an MPEG-4 packet, at most 255 (ISO/IEC 14496-2, 6.2.5: vop_coded)."""
    data, num_coded = bytes(packet), 0
    start = data.find(_VOP_START)
    while start >= 0:
        following = data.find(_VOP_START, start + len(_VOP_START))
        stop = following if following >= 0 else len(data)
        num_coded += stop - start > _MAX_NOT_CODED_BYTES
        start = following
    return min(num_coded, 255)
