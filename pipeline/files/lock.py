"""One process at a time: a file beside the output, locked by the kernel, which lets go when its owner ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.failures import failures_of
from pipeline.sources import has_address, shown_path

# Where the file system knows no such locks, there is none.
_NO_LOCKS = frozenset([errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
_STALE_SECONDS = 60.0
_MAX_NAME_BYTES = 255
LOCK_NAME = ".lock"
TEMPORARY = ".clipgru.tmp"
"""Ending of the names of unfinished files."""


def beside(path: Path, ending: str) -> Path:
    """Return the hidden file ``.<name><ending>`` next to a path; with a digest where the name is too long."""
    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        import hashlib

        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{ending}"
    return path.with_name(name)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file without waiting. Returns False if another holds it, None where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def locked_folder(folder: Path) -> AbstractContextManager[None]:
    """Hold a folder, made if it is not there, for this process alone. Unfinished files of killed runs directly in it
    are removed.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    return _held(folder / LOCK_NAME, folder)


def locked_file(path: Path) -> AbstractContextManager[None]:
    """Hold an output file, which need not exist, for this process alone. Its folder is made if it is not there.

    Raises:
        UserError: another process holds it, or no file can be made there.
    """
    return _held(beside(Path(os.path.realpath(path)), ".lock"), path)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files that killed processes left directly in a folder."""
    with suppress(OSError):
        for temporary in folder.glob(f".*{TEMPORARY}"):
            _remove_stale(temporary)


def _remove_stale(temporary: Path) -> None:
    """Remove a temporary file unless a process writes it, which locks it from a moment after it was made."""
    with suppress(OSError):
        if time.time() - temporary.stat().st_mtime > _STALE_SECONDS:
            descriptor = os.open(temporary, os.O_RDWR)
            try:
                if try_lock(descriptor):
                    temporary.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def _held(path: Path, what: Path) -> Iterator[None]:
    made: list[Path] = []
    held: list[int] = []
    try:
        with failures_of(what):
            made = make_folders(path.parent)
            held.append(_acquire(path, what))
        # A forked process must not keep the lock when this one is killed. What is let go is no longer in the list.
        os.register_at_fork(after_in_child=lambda: held and os.close(held.pop()))  # type: ignore[func-returns-value]
        remove_stale(path.parent)
        yield
    finally:
        if held:
            with suppress(OSError):
                path.unlink()  # before it is let go: who waits for it finds another file of that name, or none
            os.close(held.pop())
        for folder in reversed(made):  # a run that was refused leaves no empty folders
            with suppress(OSError):
                folder.rmdir()


def _acquire(path: Path, what: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if try_lock(descriptor) is False:
            owner = os.read(descriptor, 20).decode(errors="replace") or "unknown"
            os.close(descriptor)
            raise UserError(
                f"{what}: another process writes there (process {owner}); wait until it has ended, stop it, or choose "
                "another name"
            )
        with suppress(OSError):  # removed between opening and locking, it is no longer what others look at
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)
    with suppress(OSError):  # a full disk has no room for the number, and the lock holds all the same
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it. Returns those that were not there, the topmost first.

    Raises:
        OSError: it cannot be made; ``NotADirectoryError`` where a part of the path is a file.
        UserError: it is an address.
    """
    if has_address(folder):
        raise UserError(f"{shown_path(folder)} is an address, where a folder is wanted; name a folder")
    missing = [part for part in (folder, *folder.parents) if not os.path.exists(part)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
    return missing[::-1]
