"""The orientation of a picture: the mirror image and the turn that a container or stream asks for."""

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
_DEGREE = math.tan(math.radians(1))


@dataclass(frozen=True)
class Orientation:
    """One of eight: left and right are swapped, or not, and then the picture is turned."""

    is_mirrored: bool = False
    quarter_turns: int = 0
    """Counter-clockwise, 0 to 3."""

    def upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture ``[H, W, ...]`` as it is to be shown; the same array if nothing is asked for."""
        if self == _AS_STORED:
            return image
        mirrored = image[:, ::-1] if self.is_mirrored else image
        return np.ascontiguousarray(np.rot90(mirrored, self.quarter_turns))


_AS_STORED = Orientation()


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """a, b, c, d of the matrix ``a b u / c d v / x y w``, which takes a point (p, q), q downwards, to (a p + c q,
    b p + d q), as in ISO/IEC 14496-12, 6.2.2."""
    try:
        matrix = cast("SideDataContainer", frame.side_data)[Type.DISPLAYMATRIX]
    except KeyError:
        return None
    a, b, _, c, d, *_ = _MATRIX.unpack(bytes(matrix))
    return a, b, c, d


def has_upright(frame: VideoFrame) -> bool:
    """True if the display matrix of a decoded picture asks for nothing but flips, quarter turns to a degree, and
    scales."""
    matrix = _display_matrix(frame) or (1, 0, 0, 1)
    slopes = [min(map(abs, row)) <= _DEGREE * max(map(abs, row)) for row in (matrix[:2], matrix[2:])]
    is_crossed = [abs(row[0]) < abs(row[1]) for row in (matrix[:2], matrix[2:])]
    return all(slopes) and (is_crossed[0] != is_crossed[1] or not any(matrix))


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation that the display matrix of a decoded picture asks for, to the nearest quarter turn."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return _AS_STORED
    a, b, c, d = matrix
    is_mirrored = a * d < b * c
    degrees = math.degrees(math.atan2(b, -a) if is_mirrored else math.atan2(-b, a))
    return Orientation(is_mirrored, round(degrees / 90) % 4)
