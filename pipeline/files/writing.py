"""Writing of files, whole or not at all, or line by line; and standard output, which is always UTF-8."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from io import FileIO, RawIOBase
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal

from pipeline.errors import UserError
from pipeline.files.failures import STDOUT, failures_of
from pipeline.files.lock import TEMPORARY, beside, make_folders, remove_stale, try_lock
from pipeline.terminal import printable

# How a program is told of a file that another one, mostly the shell, has opened.
_OPEN_FILE = re.compile(r"/dev/(?:fd/|std(?:in|out|err)$)|/proc/[^/]+/(?:task/\d+/)?fd/")


class OutputFile:
    """A file that gets its name when it is complete; until then it is ``.<name>.<process>.clipgru.tmp`` beside it.

    Where a link stands, the file that it names is written; one that is there already keeps its mode. Any other
    file (a pipe, a device, ``/dev/fd/63`` of a shell's ``>(command)``, ``-`` for standard output) is written through.

    Args:
        path: its folder is made if it is not there.
        no_clobber: refuse to replace a file, even one that appears meanwhile.

    Attributes:
        temporary: where the bytes are until ``commit``.
        stream: open for writing there.

    Raises:
        UserError: it cannot be made.
    """

    def __init__(self, path: Path, *, no_clobber: bool = False) -> None:
        self.path, self._no_clobber = path, no_clobber
        with failures_of(path):
            self._is_plain = not is_special(path)
            if self._is_plain:
                self._target = Path(os.path.realpath(path))
                make_folders(self._target.parent)
                self.temporary, self.stream = _make_temporary(self._target, no_clobber)
            else:
                self.temporary = path
                self.stream = _StandardOutput() if str(path) == STDOUT else path.open("wb")

    def write(self, content: bytes | memoryview | str) -> int:
        """Add to it; text as UTF-8. Raises ``UserError`` where the disk takes no more, and then nothing is left."""
        # What UTF-8 cannot hold, halves of surrogate pairs, becomes "\\ud800", as JSON has it.
        encoded = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        try:
            with failures_of(self.path):
                return self.stream.write(encoded)
        except UserError:
            self.discard()
            raise

    def commit(self) -> None:
        """Complete the file: to disk, then to its name. Raises ``UserError``, and then nothing is left."""
        try:
            with failures_of(self.path):
                self.stream.flush()
                if self._is_plain:
                    os.fsync(self.stream.fileno())
                self.stream.close()
                if self._is_plain and self._no_clobber:
                    os.link(self.temporary, self._target)
                elif self._is_plain:
                    os.replace(self.temporary, self._target)
        finally:
            self.discard()  # after a success nothing but a second link is left to remove

    def discard(self) -> None:
        """Leave nothing. May be called after ``commit``, and then does nothing."""
        with suppress(OSError):  # what is still in the buffer does not fit either
            self.stream.close()
        if self._is_plain:
            with suppress(OSError):
                self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.commit()
        self.discard()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file, as ``OutputFile`` does.

    Raises:
        UserError: it cannot be written; what was there before is still there.
    """
    with OutputFile(path) as output:
        output.write(content)


def is_special(path: Path) -> bool:
    """True for standard output and for what must be written through: pipes, devices, another program's open file."""
    if str(path) == STDOUT or _OPEN_FILE.match(os.path.abspath(path)):
        return True
    mode = os.stat(path).st_mode if os.path.exists(path) else stat.S_IFREG
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _make_temporary(target: Path, no_clobber: bool) -> tuple[Path, BinaryIO]:
    before = None
    with suppress(FileNotFoundError):
        before = target.stat()
    if before and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if before and no_clobber:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    for number in count():  # processes of two containers may have one number
        temporary = beside(target, f".{os.getpid()}{f'-{number}' if number else ''}{TEMPORARY}")
        with suppress(FileExistsError):
            descriptor = os.open(temporary, flags, stat.S_IMODE(before.st_mode) if before else 0o666)
            break
    stream = os.fdopen(descriptor, "wb")
    try_lock(descriptor)  # as long as this process lives; a temporary file without a lock is a dead one's
    if before and os.name == "posix":
        with suppress(PermissionError):  # of another owner, or a disk that knows no modes
            os.fchown(descriptor, before.st_uid, before.st_gid)
        with suppress(PermissionError):
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
    return temporary, stream


class _StandardOutput(RawIOBase, BinaryIO):
    """Standard output: the very bytes, whatever encoding the terminal has; on a terminal without control characters."""

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None or sys.stdout.isatty():
            lines = content.decode("utf-8", "backslashreplace").split("\n")
            sys.stdout.write("\n".join(printable(line) for line in lines))
        else:
            sys.stdout.flush()
            binary.write(content)
        sys.stdout.flush()  # who reads the pipe sees it at once
        return len(content)


class LineFile:
    """Whole lines only, each handed to the system at once, so that the file can be read at any moment and a killed run
    leaves whole lines. A line that does not fit is taken back, and the file closed.

    Args:
        path: its folder is made if it is not there.
        mode: ``w`` begins anew, ``a`` adds, ``x`` refuses a file that is there.
        to_disk: a line is on disk, not with the system alone, when ``write`` returns.

    Raises:
        UserError: it cannot be made.
    """

    def __init__(self, path: Path, mode: Literal["w", "a", "x"] = "w", *, to_disk: bool = False) -> None:
        self._path, self._is_synced = path, to_disk
        with failures_of(path):
            make_folders(path.parent)
            self._stream: RawIOBase | FileIO = _StandardOutput() if str(path) == STDOUT else FileIO(path, mode)

    def write(self, line: str) -> None:
        """Add a line, which ends with its line end. Raises ``UserError`` where the disk takes no more."""
        left = memoryview(content := line.encode("utf-8", "backslashreplace"))
        try:
            with failures_of(self._path):
                while left:
                    left = left[self._stream.write(left) or 0 :]
                if self._is_synced:
                    os.fsync(self._stream.fileno())
        except UserError:
            with suppress(OSError):  # no plain file: nothing to take back
                descriptor = self._stream.fileno()
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - (len(content) - len(left)))
            self.close()
            raise

    def close(self) -> None:
        """Write no more lines."""
        self._stream.close()


def check_folder(folder: Path) -> None:
    """Make the folder, and prove that files can be made in it. Unfinished files of killed runs there are removed.

    Raises:
        UserError: they cannot.
    """
    with failures_of(folder):
        make_folders(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    remove_stale(folder)
