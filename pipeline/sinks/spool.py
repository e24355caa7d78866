"""``Spool``: events in memory and on disk until they are delivered.

The file has lines of JSON: what it is, then each event, each attempt to deliver it and each success. An event
counts from the moment that its line is whole on disk; a kill leaves a torn line at most, which is cut off. Lines that
nobody needs any more are left out when the file is written anew, now and then.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from pipeline.errors import UserError
from pipeline.files.failures import failures_of
from pipeline.files.lock import locked_file
from pipeline.files.writing import LineFile, write_atomically
from pipeline.schema import read_checked, read_json, to_json

_VERSION = 1
_BEGINNING = b'{"spool": '
_MAX_SPENT_BYTES = 1 << 20
"""Of lines that nobody needs any more; then the file is written anew."""


@dataclass
class _Entry:
    """An event that waits."""

    id: str
    sequence: int
    event: dict[str, Any]
    attempts: int = 0
    is_saved: bool = False

    def line(self) -> str:
        return _line(id=self.id, sequence=self.sequence, event=self.event, attempts=self.attempts)


@dataclass(frozen=True)
class _Line:
    """Any line of the file."""

    spool: int = 0
    """Version of the file, in its first line; ``sequence`` is then the last number that was used before."""
    id: str = ""
    sequence: int = 0
    event: dict[str, Any] | None = None
    attempts: int = 0
    """Of an event: before this line."""
    tried: int = 0
    """Number of an event that is about to be sent."""
    delivered: int = 0
    """Number of the last event that was delivered."""


class Spool:
    """Numbered events in order, as many as are allowed, for this process alone. For several threads.

    Args:
        path: the file; made, with its folder, if it is not there.
        max_events: that may wait.

    Attributes:
        path: the file.
        refused_path: beside it, the messages that the receiver refused for good, one a line.

    Raises:
        UserError: it cannot be written, another process holds it, or it is no spool.
    """

    def __init__(self, path: Path, max_events: int) -> None:
        self.path, self._max_events = path, max_events
        self.refused_path = path.with_name(f"{path.stem}.refused{path.suffix}")
        self._waiting: deque[_Entry] = deque()
        # Anew in each run: what a full disk did not take must not be mistaken for an event of a later one.
        self._run, self._number = secrets.token_hex(4), 0
        self._lock, self._stack, self._is_closed = Lock(), ExitStack(), False
        self._open: dict[bool, LineFile] = {}
        self._num_spent_bytes = 0
        self._stack.enter_context(locked_file(path))
        try:
            self._read()
        except UserError:
            self.close()
            raise

    def _read(self) -> None:
        delivered, entries = 0, dict[int, _Entry]()
        with failures_of(self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
        *whole, torn = content.split(b"\n")
        cure = "no spool of clipgru's, or damaged: move it away, or choose another folder"
        if not whole and torn[: len(_BEGINNING)] != _BEGINNING[: len(torn)]:
            raise UserError(f"{self.path}:1: {cure}")
        for number, text in enumerate(whole, start=1):
            where = f"{self.path}:{number}: {cure}"
            line = read_checked(_Line, read_json(text, where), where)
            if line.spool != (_VERSION if number == 1 else 0):
                raise UserError(where)
            self._take(line, entries)
            delivered = max(delivered, line.delivered)
        self._waiting.extend(entries[number] for number in sorted(entries) if number > delivered)
        self._num_spent_bytes = len(content)
        if not whole:
            self._empty()
        elif torn:
            with failures_of(self.path):
                os.truncate(self.path, len(content) - len(torn))

    def _take(self, line: _Line, entries: dict[int, _Entry]) -> None:
        self._number = max(self._number, line.sequence, line.tried, line.delivered)
        if line.event is not None:
            entries[line.sequence] = _Entry(line.id, line.sequence, line.event, line.attempts, is_saved=True)
        elif line.tried in entries:
            entries[line.tried].attempts += 1

    @property
    def num_waiting(self) -> int:
        """Events that are not delivered yet."""
        return len(self._waiting)

    @property
    def num_unsaved(self) -> int:
        """Events among these that are in memory alone."""
        with self._lock:
            return sum(not entry.is_saved for entry in self._waiting)

    def add(self, event: dict[str, Any]) -> str:
        """Keep an event, and return why it is not on disk: an empty text if it is.

        Raises:
            UserError: too many wait; the event is lost, and its number is not used again.
        """
        with self._lock:
            self._number += 1
            if len(self._waiting) >= self._max_events:
                raise UserError(f"{len(self._waiting)} wait already, as many as delivery.max_events allows")
            entry = _Entry(f"{self._run}-{self._number}", self._number, event)
            self._waiting.append(entry)
            return self._save(entry)

    def next(self) -> tuple[int, bytes] | None:
        """Return the number of the oldest event that waits, and a message: the event as JSON with ``id``, ``sequence``
        and ``attempt``, which is counted before it is made. None if no event waits."""
        with self._lock:
            if self._is_closed or not self._waiting:
                return None
            entry = self._waiting[0]
            entry.attempts += 1
            self._mark(tried=entry.sequence)
            head = {"id": entry.id, "sequence": entry.sequence, "attempt": entry.attempts}
        return entry.sequence, to_json(head | entry.event, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def remove(self, number: int) -> None:
        """Forget the event that ``next`` gave, which is delivered."""
        with self._lock:
            if self._is_closed:  # meanwhile: it is delivered again, and says so
                return
            assert self._waiting[0].sequence == number
            self._waiting.popleft()
            is_noted = self._mark(delivered=number)
            if self._num_spent_bytes > _MAX_SPENT_BYTES or not (is_noted or self._waiting):
                self._write_anew()

    def set_aside(self, number: int, message: bytes) -> None:
        """Keep what ``next`` gave in ``refused_path``, and forget it.

        Raises:
            UserError: it cannot be written there; the event waits as before.
        """
        lines = LineFile(self.refused_path, "a", to_disk=True)
        lines.write(message.decode() + "\n")
        lines.close()
        self.remove(number)

    def close(self) -> None:
        """Save what can be saved, and let go of the file. May be called twice."""
        with self._lock:
            if not self._is_closed:
                for entry in self._waiting:
                    self._save(entry)
            self._is_closed = True
            while self._open:
                self._open.popitem()[1].close()
            self._stack.close()

    # Under the lock. No failure here loses what is in memory.

    def _save(self, entry: _Entry) -> str:
        try:
            if not entry.is_saved:
                self._append(entry.line(), to_disk=True)
        except UserError as error:
            return str(error)
        entry.is_saved = True
        return ""

    def _mark(self, **values: int) -> bool:
        """Note an attempt or a success. What a power cut takes of these is delivered again, and no more."""
        with suppress(UserError):
            self._append(_line(**values), to_disk=False)
            return True
        return False

    def _append(self, line: str, to_disk: bool) -> None:
        try:
            if to_disk not in self._open:
                self._open[to_disk] = LineFile(self.path, "a", to_disk=to_disk)
            self._open[to_disk].write(line)
        except UserError:
            self._open.pop(to_disk, None)
            raise
        self._num_spent_bytes += len(line)

    def _write_anew(self) -> None:
        """The file without what nobody needs any more; where that fails, it stays as it is for now."""
        self._num_spent_bytes = 0
        with suppress(UserError):
            if not self._waiting:
                self._empty()
                return
            saved = [entry.line() for entry in self._waiting if entry.is_saved]
            write_atomically(self.path, "".join([self._first_line(), *saved]))
            self._forget_streams()

    def _empty(self) -> None:
        """In place, as a full disk has no room for another file."""
        self._forget_streams()
        lines = LineFile(self.path, "w", to_disk=True)
        lines.write(self._first_line())
        lines.close()

    def _forget_streams(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _first_line(self) -> str:
        return _line(spool=_VERSION, sequence=self._number)


def _line(**values: Any) -> str:
    return to_json(values) + "\n"
