"""Indexes of files in the user's cache directory, for ``decode.index_cache``.

An index is used only for the very file it was made of, by path, size, time of change and inode, and only by the version
of PyAV that made it. One that is damaged or out of date is made anew; it may be deleted at any time.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.decode.index import INDEX_VERSION, VideoIndex
from pipeline.decode.wire import pack_index, unpack_index
from pipeline.files.cache import DamagedEntryError, Store, cache_folder, digest

_MAX_BYTES = 1_000_000_000
# A file that changed so recently may change again without a new time of change.
_MIN_AGE_SECONDS = 2.0

_Key = dict[str, Any]


def index_store() -> Store:
    """Where indexes are kept: ``index`` in the folder of the caches."""
    folder = cache_folder()
    return _store(folder and folder / "index")


@lru_cache(maxsize=4)
def _store(folder: Path | None) -> Store:
    """It knows how much there is: to be counted once in a process."""
    return Store(folder, _MAX_BYTES)


def key_of(path: Path, stream: int | None) -> _Key:
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


def load_index(path: Path, key: _Key) -> VideoIndex | None:
    """The index in the cache; None if there is none, or not of this file as it is now."""
    entry = index_store().get(_name(key))
    if entry is None or entry.facts["key"] != key:
        return None
    try:
        payload = entry.verified()
    except DamagedEntryError:
        return None
    return unpack_index(entry.facts["index"], bytearray(payload.tobytes()), path)


def save_index(index: VideoIndex, key: _Key) -> None:
    """Puts an index into the cache, whole or not at all. A cache that cannot be written is none."""
    if time.time() - key["changed_ns"] / 1e9 < _MIN_AGE_SECONDS:
        return
    message, payload = pack_index(index)
    index_store().put(_name(key), np.frombuffer(payload, np.uint8)[None], {"key": key, "index": message})


def _name(key: _Key) -> str:
    # By path alone: when the file changes, its index is replaced.
    return digest({"kind": "index", "path": key["path"]})
