"""Indexes of files in the user's cache directory, for ``decode.index_cache``.

An index is used only for the very file it was made of, by path, size, time of change and inode, and only by the version
of PyAV that made it. One that is damaged or out of date is made anew; it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import av

from pipeline.decode.index import INDEX_VERSION, VideoIndex
from pipeline.decode.wire import pack_index, unpack_index
from pipeline.files import write_atomically

_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32
# A file that changed so recently may change again without a new time of change.
_MIN_AGE_SECONDS = 2.0

Key = dict[str, Any]


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/clipgru/index``, or below ``~/.cache``. Raises ``OSError`` for a user without a home."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return root / "clipgru" / "index"


def key_of(path: Path, stream: int | None) -> Key:
    """What an index must have been made of. To be taken before the file is read."""
    status = path.stat()
    return {
        "version": INDEX_VERSION,
        "pyav": av.__version__,
        "path": str(path.absolute()),
        "stream": stream,
        "num_bytes": status.st_size,
        "changed_ns": status.st_mtime_ns,
        "inode": status.st_ino,
    }


def load_index(path: Path, key: Key) -> VideoIndex | None:
    """The index in the cache; None if there is none, or not of this file as it is now."""
    try:
        content = _place(key).read_bytes()
    except OSError:
        return None
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return None
    (num_text,) = _LENGTH.unpack_from(body)
    start = _LENGTH.size + num_text
    message = json.loads(body[_LENGTH.size : start])
    return unpack_index(message, bytearray(body[start:]), path) if message.pop("key") == key else None


def save_index(index: VideoIndex, key: Key) -> None:
    """Puts an index into the cache, whole or not at all. A cache that cannot be written is none."""
    if time.time() - key["changed_ns"] / 1e9 < _MIN_AGE_SECONDS:
        return
    message, payload = pack_index(index)
    text = json.dumps(message | {"key": key}).encode()
    body = _LENGTH.pack(len(text)) + text + payload
    with suppress(OSError):
        write_atomically(_place(key), hashlib.sha256(body).digest() + body)


def _place(key: Key) -> Path:
    # By path alone: when the file changes, its index is replaced.
    return cache_folder() / f"{hashlib.sha256(key['path'].encode()).hexdigest()}.index"
