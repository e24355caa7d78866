"""Output files that get their names when they are complete, and what stops them said in words."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pipeline.errors import UserError

STDOUT = "-"

_CURES = {
    errno.ENOSPC: "the disk is full: make room, or write somewhere else",
    errno.EDQUOT: "your share of the disk is used up: make room, or write somewhere else",
    errno.EFBIG: "the file may not grow further (ulimit -f, or the file system's limit)",
    errno.EACCES: "you may not write there: choose another place, or change its permissions",
    errno.EPERM: "you may not write there: choose another place, or change its permissions",
    errno.EROFS: "that disk is read-only: choose another place",
    errno.EEXIST: "a part of the path is a file, not a folder",  # what making a folder there says
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "that is a folder: name a file",
}


@contextmanager
def failures_of(path: Path) -> Iterator[None]:
    """An error of the operating system becomes a ``UserError`` that names the output."""
    try:
        yield
    except OSError as error:
        reason = _CURES.get(error.errno or 0, error.strerror or str(error))
        raise UserError(f"{path}: cannot be written: {reason}") from error


def check_folder(folder: Path) -> None:
    """Makes the folder, and proves that files can be made in it.

    Raises:
        UserError: they cannot.
    """
    with failures_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


class PendingFile:
    """A file that is written as ``.<name>.tmp`` beside ``path`` and renamed when it is complete. What a killed run
    leaves is a ``.tmp`` that the next one overwrites.

    Raises:
        UserError: its folder cannot be made, or ``path`` is a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.tmp")
        with failures_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self.temporary.open("wb").close()

    def commit(self) -> None:
        """To disk, then to its name."""
        with failures_of(self.path):
            with self.temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(self.temporary, self.path)

    def discard(self) -> None:
        """Nothing is left. May be called after ``commit``, and then does nothing."""
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)


class TextOutput(Protocol):
    """Text that is being written."""

    def write(self, text: str) -> object:
        """Adds to it."""

    def close(self) -> None:
        """It is complete."""

    def discard(self) -> None:
        """It will not be completed."""


class TextFile:
    """A UTF-8 file that gets its name when it is closed."""

    def __init__(self, path: Path) -> None:
        self._pending = PendingFile(path)
        self._stream = self._pending.temporary.open("w", encoding="utf-8", newline="")

    def write(self, text: str) -> int:
        """Raises ``UserError`` where the disk takes no more; the file is then discarded."""
        try:
            with failures_of(self._pending.path):
                return self._stream.write(text)
        except UserError:
            self.discard()
            raise

    def close(self) -> None:
        """To disk, then to its name."""
        with failures_of(self._pending.path):
            self._stream.close()
        self._pending.commit()

    def discard(self) -> None:
        """Nothing is left under its name."""
        with suppress(OSError):  # what is still in the buffer does not fit either
            self._stream.close()
        self._pending.discard()


class StandardOutput:
    """Standard output as a text that is never renamed."""

    def write(self, text: str) -> int:
        """At once: whoever reads the pipe sees it."""
        return sys.stdout.write(text)

    def close(self) -> None:
        """Leaves the stream open: it belongs to the process."""
        sys.stdout.flush()

    def discard(self) -> None:
        """What was written was written."""
        sys.stdout.flush()


def open_text(target: str) -> TextOutput:
    """The file of that name, or standard output for ``-``."""
    return StandardOutput() if target == STDOUT else TextFile(Path(target))


def write_text(path: Path, text: str) -> None:
    """A whole text at once, complete or not at all."""
    output = TextFile(path)
    try:
        output.write(text)
        output.close()
    except UserError:
        output.discard()
        raise
