"""Which way up a picture is: the mirror image and the turn that a container or stream asks for."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_MATRIX = struct.Struct("=9i")


@dataclass(frozen=True)
class Orientation:
    """One of eight: left and right are swapped, or not, and then the picture is turned."""

    is_mirrored: bool = False
    quarter_turns: int = 0
    """Counter-clockwise, 0 to 3."""

    def upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[H, W, ...]`` as it is to be shown; the same array if nothing is asked for."""
        if self == _AS_STORED:
            return image
        mirrored = image[:, ::-1] if self.is_mirrored else image
        return np.ascontiguousarray(np.rot90(mirrored, self.quarter_turns))


_AS_STORED = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """What the display matrix of a decoded picture asks for, to the nearest quarter turn.

    The matrix ``a b u / c d v / x y w`` takes a point (p, q), q downwards, to (a p + c q, b p + d q), as in ISO/IEC
    14496-12, 6.2.2.
    """
    try:
        matrix = cast("SideDataContainer", frame.side_data)[Type.DISPLAYMATRIX]
    except KeyError:
        return _AS_STORED
    a, b, _, c, d, *_ = _MATRIX.unpack(bytes(matrix))
    is_mirrored = a * d < b * c
    degrees = math.degrees(math.atan2(b, -a) if is_mirrored else math.atan2(-b, a))
    return Orientation(is_mirrored, round(degrees / 90) % 4)
