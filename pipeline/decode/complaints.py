"""Errors that FFmpeg reports while it reads a file, whatever else the process has done or set."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from threading import Lock

import av

# FFmpeg has one log for the whole process: who listens for errors has it alone.
_LOG = Lock()


@contextmanager
def log_alone() -> Iterator[None]:
    """Let all errors that FFmpeg reports within be captured, whatever was set or said before."""
    with _LOG:
        level, does_skip = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # a message like the last one, of another file, would be lost
        try:
            with av.logging.Capture():
                av.logging.log(av.logging.ERROR, "clipgru", "")  # brings out what is left of skipped ones
            yield
        finally:
            av.logging.set_skip_repeated(does_skip)
            av.logging.set_level(level)


@contextmanager
def complaints(found: list[str], of: str = "", but: Container[str] = ()) -> Iterator[None]:
    """Collect the errors that FFmpeg reports on this thread: those of one of its parts, or of all but some."""
    with av.logging.Capture() as messages:
        yield
    heard = [text.strip() for _, name, text in messages if of in ("", name) and name not in but]
    found.extend(text.splitlines()[0] for text in heard if text)
