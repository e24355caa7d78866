"""The job that a worker is given, and the result that it gives back for a file."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import require, to_dict
from pipeline.decode.remote import is_url
from pipeline.errors import UserError
from pipeline.files.content import file_digest
from pipeline.options import PredictOptions
from pipeline.report.records import CRASHED, ROW_FIELDS, SourceVideo, readable, video_row
from pipeline.schema import read_checked


@dataclass(frozen=True)
class Job:
    """Settings of the work on every file."""

    model_path: str
    model_sha256: str
    folder: str
    """Folder that relative paths start from; empty if there are none."""
    options: PredictOptions
    addresses: dict[str, str] = field(default_factory=dict)
    """Addresses by their names, which alone are recorded: an address may hold a password."""

    def source(self, name: str) -> str:
        """Return the source opened under a name: its address, or else the path that the name is."""
        return self.addresses.get(name, name)

    def enter_folder(self) -> None:
        """Change to the folder, so that relative paths mean what the user meant. Raises ``UserError`` if that fails."""
        try:
            os.chdir(self.folder or ".")
        except OSError as error:
            where = f"{self.folder}: no such folder on {platform.node()}"
            raise UserError(f"{where}; name the videos by paths that hold on every machine") from error

    def to_message(self) -> dict[str, Any]:
        """Return the fields as JSON values, for ``read_checked``."""
        return asdict(self) | {"options": to_dict(self.options)}


@dataclass(frozen=True)
class FileIdentity:
    """Identity of a file's bytes."""

    status: tuple[int, int, int, int]
    """Inode, bytes, and the times of the last change of content and of anything, in nanoseconds."""
    sha256: str


def identify(path: str) -> FileIdentity | None:
    """Return the identity of a file or an address; None if it is no readable file."""
    if is_url(path):
        return FileIdentity((0, 0, 0, 0), _fingerprint(path))
    try:
        status = _status(path)
        return FileIdentity(status, file_digest(Path(path))) if status else None
    except OSError:
        return None


def is_unchanged(path: str, known: FileIdentity | None) -> bool:
    """True if a file has the bytes it had, or an address is the same. Bytes are read only if the disk says that
    something changed."""
    if is_url(path):
        return identify(path) == known
    try:
        status = _status(path)
        if known is None or status is None:
            return known is None and status is None
        return status == known.status or (status[1] == known.status[1] and file_digest(Path(path)) == known.sha256)
    except OSError:
        return known is None


def _fingerprint(address: str) -> str:
    """Return a digest of an address that takes milliseconds on purpose: from a plain one a password could be
    guessed."""
    return hashlib.scrypt(address.encode(), salt=b"clipgru", n=2**11, r=8, p=1, dklen=16).hex()


def _status(path: str) -> tuple[int, int, int, int] | None:
    """Return the status of a regular file, else None: to read a pipe would never end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True)
class FileResult:
    """Record of one file."""

    path: str
    """Path as the user named it, unreadable bytes as Python escapes them."""
    status: str
    """ok, error or crashed."""
    error: str
    rows: tuple[tuple[bool | int | float | str | None, ...], ...]
    """Values of ``ROW_FIELDS`` but for the path; the last row is the video's own."""
    identity: FileIdentity | None

    def __post_init__(self) -> None:
        require(all(len(row) == len(ROW_FIELDS) - 1 for row in self.rows), "a row has too few values, or too many")

    @classmethod
    def of_crash(cls, path: str, error: str, source: str) -> FileResult:
        """Return the result of a file whose worker crashed; ``source`` is the path or address that was opened."""
        row = video_row(SourceVideo(readable(path), ""), CRASHED, error)
        return cls(path, CRASHED, error, (values_of(row),), identify(source))

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Return its rows of the table."""
        path = readable(self.path)
        return (dict(zip(ROW_FIELDS, (path, *row), strict=True)) for row in self.rows)


def result_of(answer: dict[str, Any], where: str) -> FileResult:
    """Return the result that a worker gives, as JSON values. Raises its ``UserError``, if it gives one instead."""
    if "user_error" in answer:
        raise UserError(answer["user_error"])
    return read_checked(FileResult, answer, where)


def values_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return a row of the table without its path."""
    return tuple(row[name] for name in ROW_FIELDS[1:])
