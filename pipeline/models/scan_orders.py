"""Scan orders: how feature maps become the steps of a sequence, so that a picture is read as a video is.

A scan order turns maps ``[B, T, D, h, w]`` into ``[B, T S, D, h', w']``: S steps a frame, each a part of the frame's
map. Heads of maps read these parts as they are, heads of vectors read all of a part's numbers side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class _ScanOrder:
    """One way to read a map."""

    steps: Callable[[Tensor], Tensor]
    """``[B, T, D, h, w]`` -> ``[B, T S, D, h', w']``."""
    kernel: Callable[[int], tuple[int, int]]
    """Kernel of the convolutional heads, as far as it fits on a part."""


def _rows(maps: Tensor) -> Tensor:
    return maps.transpose(2, 3).flatten(1, 2).unsqueeze(3)  # [B, T, D, h, w] -> [B, T h, D, w] -> [B, T h, D, 1, w]


def _columns(maps: Tensor) -> Tensor:
    return maps.movedim(4, 2).flatten(1, 2).unsqueeze(4)  # [B, T, D, h, w] -> [B, T w, D, h] -> [B, T w, D, h, 1]


def _patches(maps: Tensor) -> Tensor:
    scanned = maps.flatten(3).transpose(2, 3)  # [B, T, D, h, w] -> [B, T, h w, D], row after row
    return scanned.flatten(1, 2)[..., None, None]  # -> [B, T h w, D, 1, 1]


SCAN_ORDERS: dict[str, _ScanOrder] = {
    "none": _ScanOrder(lambda maps: maps, lambda size: (size, size)),
    "rows": _ScanOrder(_rows, lambda size: (1, size)),
    "columns": _ScanOrder(_columns, lambda size: (size, 1)),
    "patches": _ScanOrder(_patches, lambda size: (1, 1)),
}
"""``model.scan`` to order: a whole frame a step; its rows from the top; its columns from the left; its places."""
