"""``Spool``: events on disk until they are delivered, in an SQLite file, which a kill or a full disk leaves whole."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from pipeline.errors import UserError
from pipeline.files.failures import reason_of
from pipeline.files.lock import locked_file
from pipeline.schema import read_json, to_json

_APPLICATION_ID = 0x636C6701  # says whose file it is; the last digit counts its versions
_SCHEMA = f"""
BEGIN;
CREATE TABLE spool (id TEXT NOT NULL);
CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, attempts INTEGER NOT NULL);
PRAGMA application_id = {_APPLICATION_ID};
COMMIT;
"""


@dataclass(frozen=True)
class SpooledEvent:
    """An event that is to be delivered next."""

    number: int
    """Counts up by one for each event of the spool, those that were lost too; never used twice."""
    message: bytes
    """The event as JSON, with ``id``, ``sequence`` and ``attempt`` beside its own values."""


class Spool:
    """Numbered events in order, as many as are allowed, for this process alone. For several threads.

    Args:
        path: the file; made, with its folder, if it is not there.
        max_events: that may wait.

    Attributes:
        path: the file.
        num_waiting: events that are not delivered yet.

    Raises:
        UserError: it cannot be written, another process holds it, or it is no spool.
    """

    def __init__(self, path: Path, max_events: int) -> None:
        self.path, self.num_waiting = path, 0
        self._max_events, self._lock, self._stack = max_events, Lock(), ExitStack()
        self._tried: tuple[int, int] = (0, 0)  # a number, and how often it was; also where the disk did not take it
        self._num_done = 0  # number of the last event delivered, likewise
        try:
            with self._failures():
                self._stack.enter_context(locked_file(path))
                self._open()
        except UserError:
            self._stack.close()
            raise

    def _open(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._stack.callback(connection.close)
        self._connection: sqlite3.Connection | None = connection
        # The process has it alone, so that no shared memory is needed, which network disks do not have.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO spool VALUES (?)", (secrets.token_hex(6),))
        elif connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise sqlite3.DatabaseError("of another program, or version")
        connection.execute("PRAGMA journal_mode = WAL")
        self._id = connection.execute("SELECT id FROM spool").fetchone()[0]
        self.num_waiting = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        last = connection.execute("SELECT seq FROM sqlite_sequence").fetchone()
        self._number = last[0] if last else 0

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of SQLite into a ``UserError`` that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            is_full = "full" in str(error)
            reason = reason_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) if is_full else str(error)
            raise UserError(f"{self.path}: cannot be written: {reason}") from error
        except sqlite3.DatabaseError as error:
            cure = "move it away, or choose another folder"
            raise UserError(f"{self.path}: no spool of clipgru's, or damaged ({error}): {cure}") from error

    def add(self, event: dict[str, Any]) -> None:
        """Keep an event, on disk when this returns.

        Raises:
            UserError: there is no room; the event is lost, and its number is not used again.
        """
        with self._lock, self._failures():
            self._number += 1
            if self._connection is None:
                raise UserError(f"{self.path}: closed")
            if self.num_waiting >= self._max_events:
                raise UserError(f"{self.path}: {self.num_waiting} events wait, as many as delivery.max_events allows")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("INSERT INTO events VALUES (?, ?, 0)", (self._number, to_json(event)))
            self.num_waiting += 1

    def next(self) -> SpooledEvent | None:
        """Return the oldest event that waits, and count an attempt to deliver it; None if there is none.

        Raises:
            UserError: the file cannot be read.
        """
        with self._lock, self._failures():
            query = "SELECT number, event, attempts FROM events WHERE number > ? ORDER BY number LIMIT 1"
            row = self._connection and self._connection.execute(query, (self._num_done,)).fetchone()
            if not row or self._connection is None:
                return None
            number, text, attempts = row
            attempts = 1 + max(attempts, self._tried[1] if self._tried[0] == number else 0)
            self._tried = number, attempts
            # What a power cut takes from here on is delivered again, and no more.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            with suppress(sqlite3.OperationalError):  # a full disk hinders no delivery
                self._connection.execute("UPDATE events SET attempts = ? WHERE number = ?", (attempts, number))
        head = {"id": f"{self._id}-{number}", "sequence": number, "attempt": attempts}
        return SpooledEvent(number, to_json(head | read_json(text, str(self.path)), ensure_ascii=False).encode())

    def remove(self, number: int) -> None:
        """Forget the event of that number, which ``next`` gave and which is delivered."""
        with self._lock:
            if self._connection is None:  # closed meanwhile: it is delivered again, and says so
                return
            self._num_done, self.num_waiting = number, self.num_waiting - 1
            with suppress(sqlite3.OperationalError):
                self._connection.execute("DELETE FROM events WHERE number <= ?", (number,))

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        with self._lock:
            self._connection = None
            self._stack.close()
