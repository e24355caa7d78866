"""Tensors on disk by what they were made from: a bounded folder that several processes may use at once.

An entry's name is a digest of everything its content depends on, so that a stale entry is one that nobody asks for.
Entries are safetensors files, memory-mapped when read; each row of an entry carries a checksum that is verified
whenever it is read. A damaged entry is removed and counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.config import DataConfig
from pipeline.files import file_digest, write_atomically

FORMAT_VERSION = 1
_SUFFIX = ".safetensors"


class DamagedEntryError(Exception):
    """The bytes of an entry are not those that were written."""


@dataclass(frozen=True)
class Entry:
    """One entry, open for reading.

    Attributes:
        facts: small facts that were kept with it.
        rows: ``[N, ...]``, memory-mapped; use ``read``, which verifies.
    """

    facts: dict[str, Any]
    rows: Tensor
    checksums: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: Sequence[int]) -> Tensor:
        """A copy of these rows.

        Raises:
            DamagedEntryError: one of them is not what was written.
        """
        rows = self.rows[list(places)]
        if _checksums(rows).tolist() != self.checksums[list(places)].tolist():
            raise DamagedEntryError
        return rows

    def verified(self) -> Tensor:
        """All rows, memory-mapped, once each has been found as it was written.

        Raises:
            DamagedEntryError: one of them is not.
        """
        if _checksums(self.rows).tolist() != self.checksums.tolist():
            raise DamagedEntryError
        return self.rows


def _checksums(rows: Tensor) -> Tensor:
    return torch.tensor([zlib.crc32(row.view(np.uint8)) for row in rows.contiguous().numpy()], dtype=torch.int64)


def digest(facts: dict[str, Any]) -> str:
    """Hex digest of facts that JSON can write; the order of keys does not matter."""
    text = json.dumps(facts | {"format": FORMAT_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A folder of entries.

    Entries that were not used since this object was made give way to new ones, the longest unused first. When the
    folder is full of entries in use, new ones are not kept: a data set larger than the folder still hits for a part.

    Args:
        folder: made when first written to.
        max_bytes: of all entries together; passed for a moment at most by what one process writes.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._since_ns = time.time_ns()
        self._num_bytes: int | None = None  # in the folder, at the last look, and written since
        self._digests: dict[tuple[str, int, int, int, int], str] = {}

    def get(self, key: str) -> Entry | None:
        """The entry of that name, or None."""
        path = self._path(key)
        try:
            with safetensors.safe_open(str(path), framework="pt") as stream:
                facts = json.loads(stream.metadata()["facts"])
                entry = Entry(facts, stream.get_tensor("rows"), stream.get_tensor("checksums"))
            os.utime(path)
        except FileNotFoundError:
            return None
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError):
            self.remove(key)
            return None
        return entry

    def put(self, key: str, rows: Tensor, facts: dict[str, Any]) -> None:
        """Keeps ``rows [N, ...]``, if there is room."""
        num_bytes = rows.nbytes
        if num_bytes > self.max_bytes or not self._make_room(num_bytes):
            return
        tensors = {"rows": rows.contiguous(), "checksums": _checksums(rows)}
        write_atomically(self._path(key), safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))
        self._num_bytes = (self._num_bytes or 0) + num_bytes

    def remove(self, key: str) -> None:
        """Forgets an entry; it need not be there."""
        self._path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes every entry, and nothing else that may lie in the folder."""
        for path, _ in self.entries():
            path.unlink(missing_ok=True)

    def content_digest(self, path: Path) -> str:
        """Digest of a file's bytes, read once for as long as the file stays as it is.

        Raises:
            OSError: the file cannot be read.
        """
        status = path.stat()
        identity = str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if identity not in self._digests:
            self._digests[identity] = file_digest(path)
        return self._digests[identity]

    def entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Every entry's file. Others may remove some meanwhile."""
        for path in sorted(self.folder.glob(f"??/*{_SUFFIX}")):
            try:
                yield path, path.stat()
            except FileNotFoundError:  # noqa: PERF203 (removed between the two)
                continue

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / (key + _SUFFIX)

    def _make_room(self, num_bytes: int) -> bool:
        if self._num_bytes is not None and self._num_bytes + num_bytes <= self.max_bytes:
            return True
        present = list(self.entries())
        self._num_bytes = sum(status.st_size for _, status in present)
        for path, status in sorted(present, key=lambda item: item[1].st_mtime_ns):
            if self._num_bytes + num_bytes <= self.max_bytes or status.st_mtime_ns >= self._since_ns:
                break
            path.unlink(missing_ok=True)
            self._num_bytes -= status.st_size
        return self._num_bytes + num_bytes <= self.max_bytes


def cache_folder(cache_dir: str | None) -> Path:
    """Where the cache is: as given, else in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clipgru"


def cache_store(config: DataConfig) -> Store:
    """The store that the data settings name."""
    return Store(cache_folder(config.cache_dir), round(config.cache_max_gb * 1e9))
