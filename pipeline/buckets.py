"""Objects in buckets as paths: ``s3://``, ``gs://`` and ``az://``, by the packages of fsspec.

A ``BucketPath`` measures, lists and opens what it names as the path of a file does, so that readers need not know where
a file lies. An open object is read by ranges, a few of which are kept. Each request has so many seconds, and what fails
is an ``OSError`` in words of ours: those of the packages may hold addresses and keys. Credentials come from where each
package looks for them, never from an address.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Generator
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path, PosixPath
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.sources import BUCKET_ADDRESS, shown_source

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
_TIMES = ("LastModified", "mtime", "last_modified", "created")  # names that the packages give to it
_BLOCK_BYTES, _MAX_BLOCKS = 1 << 20, 16
_OF_KINDS = {
    FileNotFoundError: (errno.ENOENT, "there is no such object, or no such bucket"),
    PermissionError: (errno.EACCES, "the store forbids it (403); check the credentials in the environment"),
}

T = TypeVar("T")


def is_bucket_address(source: str) -> bool:
    """True for an address of an object or a folder in a bucket, such as ``s3://bucket/videos``."""
    return source.startswith(tuple(f"{scheme}://" for scheme in _PACKAGES))


def source_path(source: str) -> Path:
    """Return the path that a text names: of a file, or of an object in a bucket.

    Raises:
        UserError: an address of a bucket with a login, a query or other marks in it.
    """
    if not is_bucket_address(source):
        return Path(source)
    if not BUCKET_ADDRESS.fullmatch(source):
        raise UserError(
            f"{shown_source(source)}: an object is named scheme://bucket/folder/file.mp4, without any of ? # @ and "
            "without two slashes in a row; keys belong into the environment or the profile of the store"
        )
    return BucketPath(source)


class BucketPath(PosixPath):
    """The path of an object, or of the folder that a prefix makes. Methods raise ``OSError`` as those of a file's path
    do; its message names no address."""

    timeout_seconds = 60.0
    """Seconds that the store may take for an answer, or for each MiB of content."""
    _keeps = False
    _status: os.stat_result | None = None
    _block: Callable[[int], bytes] | None = None

    def opened(self, timeout_seconds: float) -> BucketPath:
        """Return the same path for one opening: with another limit for each request, and its facts and content asked
        for once by all who open it."""
        path = BucketPath(self)
        path.timeout_seconds, path._keeps = timeout_seconds, True
        return path

    def __str__(self) -> str:
        """The address, with the two slashes that a path loses."""
        return super().__str__().replace(":/", "://", 1)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return kind, size and, as far as the store tells, the time of the last change."""
        if self._status is not None:
            return self._status
        facts = self._ask(lambda store, key: store.info(key))
        mode = stat.S_IFDIR if facts["type"] == "directory" else stat.S_IFREG
        changed = next((facts[name] for name in _TIMES if isinstance(facts.get(name), datetime)), None)
        seconds = changed.timestamp() if changed else 0
        status = os.stat_result((mode | 0o444, 0, 0, 1, 0, 0, facts["size"] or 0, seconds, seconds, seconds))
        self._status = status if self._keeps else None
        return status

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """False if the store says that there is nothing; what it forbids, or does not answer, is told on opening."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """True if there is anything below."""
        try:
            return stat.S_ISDIR(self.stat().st_mode)
        except OSError:
            return False

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """True for an object, and where the store does not say; False for a folder."""
        try:
            return stat.S_ISREG(self.stat().st_mode)
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def is_symlink(self) -> bool:
        """There are none."""
        return False

    def absolute(self) -> BucketPath:
        """Return the same path, which no folder changes."""
        return self

    def resolve(self, strict: bool = False) -> BucketPath:
        """Return the same path."""
        return self

    def iterdir(self) -> Generator[BucketPath, None, None]:
        """Yield what is directly below, in order. Raises ``UserError`` if it cannot be listed."""
        found = self._list(lambda store, key: store.ls(key, detail=False))
        yield from sorted(self / name.rstrip("/").rpartition("/")[2] for name in found)

    def objects(self) -> list[BucketPath]:
        """Return all objects below, in order. Those whose names are no paths, as with two slashes, are left out. Raises
        ``UserError`` if they cannot be listed."""
        key, found = self._list(lambda store, key: (key, store.find(key)))
        names = [name.removeprefix(key).strip("/") for name in found]
        return sorted(self / name for name in names if name and "//" not in name)

    def _list(self, do: Callable[[Any, str], T]) -> T:
        """The answer, as ``_ask`` has it. Without a list there is nothing to go on with: raises ``UserError``."""
        try:
            return self._ask(do)
        except OSError as error:
            raise UserError(f"{shown_source(str(self))}: cannot be listed: {error.strerror}") from None

    def open(self, mode: str = "r", *args: Any, encoding: str | None = None, **settings: Any) -> Any:
        """Open for reading, as text unless the mode is ``rb``."""
        if "w" in mode or "a" in mode:
            raise OSError(errno.EROFS, "objects in buckets are only read")
        status = self.stat()
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, "it is a folder")
        block = self._block or lru_cache(_MAX_BLOCKS)(partial(self._read_block, status.st_size))
        self._block = block if self._keeps else None
        stream = io.BufferedReader(_ObjectStream(self.name, status.st_size, block))
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding=encoding or "utf-8")

    def read_bytes(self) -> bytes:
        """Return the content."""
        with self.open("rb") as stream:
            content: bytes = stream.read()
        return content

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """Return the content as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def _read_block(self, num_bytes: int, number: int) -> bytes:
        """One block of the content, which has so many bytes."""
        start = number * _BLOCK_BYTES
        stop = min(start + _BLOCK_BYTES, num_bytes)
        content: bytes = self._ask(lambda store, key: store.cat_file(key, start=start, end=stop))
        if len(content) != stop - start:
            raise OSError(errno.EIO, f"cut off: the store sends {len(content)} of {stop - start} bytes")
        return content

    def _ask(self, do: Callable[[Any, str], T]) -> T:
        """Return what the store answers in time. It is asked in a thread: nothing else ends a wait for all of them."""
        store, key = _store_of(str(self))
        answers: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put((do(store, key), None))
            except Exception as error:  # noqa: BLE001 (each package has kinds of its own; raised again below)
                answers.put((None, error))

        Thread(target=ask, name="clipgru-bucket", daemon=True).start()
        try:
            answer, error = answers.get(timeout=self.timeout_seconds)
        except Empty:
            cause = f"no answer within {self.timeout_seconds:g} s (decode.timeout_seconds)"
            raise OSError(errno.ETIMEDOUT, cause) from None
        if error is not None:
            raise _in_our_words(error) from None
        return answer  # type: ignore[return-value]


def _store_of(address: str) -> tuple[Any, str]:
    """The store of an address, and the name of the object there."""
    package = _PACKAGES[address.partition(":")[0]]
    try:
        from fsspec.core import url_to_fs

        found: tuple[Any, str] = url_to_fs(address)
    except ImportError as error:
        cure = "pip install 'clipgru[buckets]'" if package == "s3fs" else f"pip install {package}"
        raise UserError(f"{shown_source(address)}: needs the package {package} ({error}); {cure}") from error
    return found


def _in_our_words(error: Exception) -> OSError:
    for kind, (number, words) in _OF_KINDS.items():
        if isinstance(error, kind):
            return OSError(number, words)
    if "Credential" in type(error).__name__:
        return OSError(errno.EACCES, "there are no credentials; set those of the store in the environment")
    return OSError(errno.EIO, f"the store cannot be read ({type(error).__name__}); check its address and the network")


class _ObjectStream(io.RawIOBase):
    """The content of an object, by blocks."""

    def __init__(self, name: str, num_bytes: int, block: Callable[[int], bytes]) -> None:
        self.name, self._num_bytes, self._block, self._position = name, num_bytes, block, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(origin + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        number, offset = divmod(self._position, _BLOCK_BYTES)
        if self._position >= self._num_bytes:
            return 0
        content = self._block(number)[offset : offset + len(buffer)]
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
