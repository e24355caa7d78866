"""What can be made anew, kept on disk: arrays by what they were made from, in a bounded folder that processes share.

An entry is one file: a magic word, the digest of its header, the header as JSON (kind, shape and checksums of the rows,
and small facts), then the rows, each with a checksum that is verified whenever it is read. So no byte of it is believed
unverified; what is damaged counts as absent. A cache that cannot be written is said once, and is none from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.files.content import file_digest
from pipeline.files.writing import OutputFile, check_folder

FORMAT_VERSION = 2
_MAGIC = b"clipgru\x02"
_START = struct.Struct("<8s32sQ")  # magic, SHA-256 of the header, length of the header
_ALIGNMENT = 64
_SUFFIXES = (".entry", ".safetensors", ".index")  # only the first is written; the others are of earlier versions
_log = logging.getLogger("clipgru")


class DamagedEntryError(Exception):
    """The bytes of an entry are not those that were written."""


@dataclass(frozen=True)
class _Entry:
    """One entry, open for reading.

    Attributes:
        facts: small facts that were kept with it.
        rows: ``[N, ...]``, memory-mapped; use ``read``, which verifies.
    """

    facts: dict[str, Any]
    rows: NDArray[Any]
    checksums: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: Sequence[int]) -> NDArray[Any]:
        """Return a copy of these rows.

        Raises:
            DamagedEntryError: one of them is not what was written.
        """
        rows = np.asarray(self.rows[list(places)])
        if _checksums(rows) != [self.checksums[place] for place in places]:
            raise DamagedEntryError
        return rows

    def verified(self) -> NDArray[Any]:
        """Return all rows, memory-mapped, once each has been found as it was written.

        Raises:
            DamagedEntryError: one of them is not.
        """
        if _checksums(self.rows) != self.checksums:
            raise DamagedEntryError
        return self.rows


def _checksums(rows: NDArray[Any]) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(row).data) for row in rows]


def digest(facts: dict[str, Any]) -> str:
    """Hex digest of facts that JSON can write; the order of keys does not matter."""
    text = json.dumps(facts | {"format": FORMAT_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=16)
def _was_said(folder: Path | None) -> Any:
    """A flag that this process shares with those that it forks: what one of them has said, no other says again."""
    return multiprocessing.RawValue("b", 0)


class Store:
    """A folder of entries.

    Entries that were not used since this object was made give way to new ones, the longest unused first. When the
    folder is full of entries in use, new ones are not kept: a data set larger than the folder still hits for a part.

    Args:
        folder: made when first written to. None, or one that cannot be written, is said then, and nothing is kept.
        max_bytes: of all entries together; passed for a moment at most by what one process writes.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._since_ns = time.time_ns()
        self._num_bytes: int | None = None  # in the folder, at the last look, and written since
        self._digests: dict[tuple[str, int, int, int, int], str] = {}
        self._has_failed, self._was_said = False, _was_said(folder)

    def check(self) -> None:
        """Say now if nothing can be kept, in the process that people started, before others work for it."""
        try:
            check_folder(self._home())
        except UserError as error:
            self._give_up(error)

    def _home(self) -> Path:
        if self.folder is None:
            raise UserError("there is no home folder to keep a cache in; set XDG_CACHE_HOME")
        return self.folder

    def _give_up(self, error: UserError) -> None:
        self._has_failed = True
        if not self._was_said.value:
            self._was_said.value = 1
            from pipeline.terminal import printable

            _log.warning("nothing more is cached: %s", printable(str(error)))

    def get(self, key: str) -> _Entry | None:
        """Return the entry of that name, or None."""
        try:
            path = self._path(key)
            entry = _opened(path, key)
        except (FileNotFoundError, UserError):
            return None
        except (OSError, ValueError, KeyError, TypeError, struct.error, DamagedEntryError):
            self.remove(key)
            return None
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return entry

    def put(self, key: str, rows: NDArray[Any], facts: dict[str, Any]) -> None:
        """Keep ``rows [N, ...]``, if there is room."""
        if self._has_failed or not self._make_room(rows.nbytes):
            return
        about = {"key": key, "dtype": rows.dtype.str, "shape": rows.shape, "checksums": _checksums(rows)}
        header = json.dumps(about | {"facts": facts}).encode()
        header += b" " * (-(_START.size + len(header)) % _ALIGNMENT)
        try:
            with OutputFile(self._path(key)) as output:
                output.write(_START.pack(_MAGIC, hashlib.sha256(header).digest(), len(header)) + header)
                output.write(np.ascontiguousarray(rows).data)
        except UserError as error:
            self._give_up(error)
            return
        self._num_bytes = (self._num_bytes or 0) + rows.nbytes

    def remove(self, key: str) -> None:
        """Forget an entry; it need not be there."""
        with suppress(OSError, UserError):
            self._path(key).unlink()

    def clear(self) -> None:
        """Remove every entry, and nothing else that may lie in the folder."""
        for path, _ in self.entries():
            with suppress(OSError):
                path.unlink()

    def content_digest(self, path: Path) -> str:
        """Return the digest of a file's bytes, read once for as long as the file stays as it is.

        Raises:
            OSError: the file cannot be read.
        """
        status = path.stat()
        identity = str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if identity not in self._digests:
            self._digests[identity] = file_digest(path)
        return self._digests[identity]

    def entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield every entry's file. Others may remove some meanwhile."""
        for path in sorted([*self.folder.glob("??/*"), *self.folder.glob("*")]) if self.folder else ():
            if path.suffix in _SUFFIXES:
                with suppress(FileNotFoundError):  # removed between the two
                    yield path, path.stat()

    def _path(self, key: str) -> Path:
        return self._home() / key[:2] / (key + _SUFFIXES[0])

    def _make_room(self, num_bytes: int) -> bool:
        if num_bytes > self.max_bytes:
            return False
        if self._num_bytes is not None and self._num_bytes + num_bytes <= self.max_bytes:
            return True
        present = list(self.entries())
        self._num_bytes = sum(status.st_size for _, status in present)
        for path, status in sorted(present, key=lambda item: item[1].st_mtime_ns):
            if self._num_bytes + num_bytes <= self.max_bytes or status.st_mtime_ns >= self._since_ns:
                break
            with suppress(OSError):
                path.unlink()
                self._num_bytes -= status.st_size
        return self._num_bytes + num_bytes <= self.max_bytes


def _opened(path: Path, key: str) -> _Entry:
    """Raises ``FileNotFoundError``, or some other error where the header is not that of this entry."""
    with path.open("rb") as stream:
        magic, sha256, num_bytes = _START.unpack(stream.read(_START.size))
        header = stream.read(min(num_bytes, path.stat().st_size))
    if magic != _MAGIC or hashlib.sha256(header).digest() != sha256:
        raise DamagedEntryError
    about = json.loads(header)
    if about["key"] != key:
        raise DamagedEntryError
    shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
    if path.stat().st_size != _START.size + num_bytes + math.prod(shape) * dtype.itemsize:
        raise DamagedEntryError
    # Copy on write: no entry changes, whatever is done with the rows.
    rows = np.memmap(path, dtype, "c", _START.size + num_bytes, shape) if math.prod(shape) else np.empty(shape, dtype)
    return _Entry(about["facts"], rows, about["checksums"])


def cache_folder(cache_dir: str | None = None) -> Path | None:
    """Where caches are: as given, else in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``); None where
    there is no home."""
    try:
        if cache_dir:
            return Path(cache_dir).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clipgru"
    except RuntimeError:  # no home
        return None
