"""The outermost structure of an MP4 or MOV file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_MAX_BOXES = 1000


def outer_boxes(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Name, position and size in bytes of the outermost boxes of an MP4 or MOV (ISO/IEC 14496-12, 4.2)."""
    position, num_bytes = 0, path.stat().st_size
    with path.open("rb") as stream:
        for _ in range(_MAX_BOXES):
            stream.seek(position)
            head = stream.read(16)
            if len(head) < 8:
                return
            size, name = struct.unpack(">I4s", head[:8])
            if size == 1 and len(head) == 16:
                (size,) = struct.unpack(">Q", head[8:])
            elif size == 0:  # to the end of the file
                size = num_bytes - position
            yield name, position, size
            position += size
            if size < 8 or position >= num_bytes:
                return
