"""Errors of the operating system in words: one line with the path, the reason and a cure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError

_REASONS = {
    errno.ENOSPC: "the disk is full: make room, or write somewhere else",
    errno.EDQUOT: "your share of the disk is used up: make room, or write somewhere else",
    errno.EFBIG: "the file may not grow further (ulimit -f, or the file system's limit)",
    errno.EROFS: "that disk is read-only: choose another place",
    errno.EACCES: "permission denied: choose another place, or change its permissions",
    errno.EPERM: "permission denied: choose another place, or change its permissions",
    errno.EEXIST: "a file of that name is there already: choose another name, or move it away",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "that is a folder: name a file",
    errno.ENAMETOOLONG: "the name is longer than this disk allows (255 bytes on most): choose a shorter one",
    errno.EMFILE: "too many files are open at a time: raise the limit (ulimit -n)",
    errno.EPIPE: "the program that read it has ended",
}
# What befalls one file, by its name or size, while others in the same folder can be written.
_OF_ONE_FILE = frozenset(
    [errno.EFBIG, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EPIPE]
)


STDOUT = "-"
"""The name of standard output as an output."""


class OutputError(UserError):
    """One output file cannot be written; others beside it may be."""


def reason_of(error: OSError) -> str:
    """Return the reason and a cure, without the path."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error) or type(error).__name__)


@contextmanager
def failures_of(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a ``UserError`` that names the output. Standard output that nobody
    reads any more (``| head``) stays a ``BrokenPipeError``."""
    try:
        yield
    except OSError as error:
        name = "standard output" if str(path) == STDOUT else path
        if name != path and error.errno == errno.EPIPE:
            raise
        kind = OutputError if error.errno in _OF_ONE_FILE else UserError
        raise kind(f"{name}: cannot be written: {reason_of(error)}") from error
