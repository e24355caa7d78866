"""Videos inside larger files (the tar shards): unpacked one at a time into a temporary file, which is read like any
other.

So every decoder reads them, in this process or another, and no byte reaches a decoder that is not the byte that was
packed. It costs one copy and one checksum of the video, little beside decoding it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.errors import DecodeError
from pipeline.files.content import FilePart

_CHUNK_BYTES = 1 << 20


def unpack(part: FilePart, folder: Path) -> Path:
    """Write a part of a file as a file of its own into a folder, and return its path.

    Raises:
        DecodeError: at stage ``open``; the larger file is missing, cut off or changed, or the disk is full.
    """
    if not part.path.is_file():
        raise DecodeError(part.name, "open", f"the shard {part.path} that holds it is missing")
    target, content, num_left = folder / f"video{Path(part.name).suffix[:10]}", hashlib.sha256(), part.num_bytes
    try:
        with part.path.open("rb", buffering=0) as shard, target.open("wb", buffering=0) as stream:
            shard.seek(part.start_byte)
            while num_left and (block := shard.read(min(num_left, _CHUNK_BYTES))):
                content.update(block)
                stream.write(block)
                num_left -= len(block)
    except OSError as error:
        cause = f"cannot be unpacked from {part.path} into {folder}: {error.strerror}"
        raise DecodeError(part.name, "open", cause) from error
    if num_left:
        cause = f"the shard {part.path} that holds it is cut off, {num_left} bytes before its end"
        raise DecodeError(part.name, "open", cause)
    if content.hexdigest() != part.sha256:
        cause = f"the shard {part.path} has other bytes than were packed: damaged, or replaced without its index"
        raise DecodeError(part.name, "open", cause)
    return target
