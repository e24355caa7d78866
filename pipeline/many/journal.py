"""The finished files, safely on disk: JSON lines beside the table, one for the run and then one for each file.

A line counts from the moment that it is whole on disk; a kill leaves a torn one at most, which is cut off. A file that
was done anew has a second line, and the last one counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.writing import LineFile
from pipeline.many.job import FileIdentity, FileResult, is_unchanged
from pipeline.report.records import OK
from pipeline.schema import read_checked, read_json


@dataclass(frozen=True)
class _Entry:
    """One finished file."""

    offset: int
    """Start of its line, in bytes."""
    status: str
    identity: FileIdentity | None


@dataclass(frozen=True)
class _Run:
    """The first line."""

    run: dict[str, Any]


@dataclass(frozen=True)
class _Done:
    """Every other line; the rows are read when they are asked for."""

    path: str
    status: str
    error: str
    rows: Any
    identity: FileIdentity | None


class Journal:
    """A journal of the one process that holds its table, until it is closed.

    Args:
        path: made if it is not there.
        run: facts that every file's rows depend on; the journal of another run is refused.

    Raises:
        UserError: it belongs to another run, is no journal, or cannot be written.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self._entries: dict[str, _Entry] = {}
        self._lines = LineFile(path, "a", to_disk=True)
        self._stream = path.open("rb")
        try:
            self._read(run)
        except UserError:
            self.close()
            raise

    def _read(self, run: dict[str, Any]) -> None:
        end = 0
        for number, line in enumerate(self._stream, start=1):
            if not line.endswith(b"\n"):  # torn
                break
            where = (
                f"{self.path}:{number}: not a journal of clipgru's, or damaged: move it away, or choose another table"
            )
            message = read_json(line, where)
            if end == 0:
                self._check_run(read_checked(_Run, message, where).run, run)
            else:
                known = read_checked(_Done, message, where)
                self._entries[known.path] = _Entry(end, known.status, known.identity)
            end += len(line)
        if end == 0 and self._stream.seek(0, os.SEEK_END) > len(_header(run)):
            raise UserError(f"{self.path}: not a journal of clipgru's; move it away, or choose another table")
        os.truncate(self.path, end)
        if end == 0:
            self._lines.write(_header(run))

    def _check_run(self, known: dict[str, Any], run: dict[str, Any]) -> None:
        differing = [name for name in {**known, **run} if known.get(name) != run.get(name)]
        if differing:
            raise UserError(
                f"{self.path}: of a run with another {', '.join(differing)}; its records and new ones do not belong in "
                "one table. Choose another table, or delete this file to begin anew"
            )

    def add(self, result: FileResult) -> None:
        """Add a finished file; it is on disk when this returns."""
        offset = self._stream.seek(0, os.SEEK_END)
        self._lines.write(_line(asdict(result)))
        self._entries[result.path] = _Entry(offset, result.status, result.identity)

    def is_done(self, path: str, retry: bool, source: str | None = None) -> bool:
        """True if the file is finished, and still has the bytes it had then.

        Args:
            path: its name in the journal.
            retry: files that could not be read, or crashed, do not count.
            source: path or address opened under that name; unset: the name is its path.
        """
        entry = self._entries.get(path)
        if entry is None or (retry and entry.status != OK):
            return False
        return is_unchanged(source or path, entry.identity)

    def status(self, path: str) -> str:
        """Return how a finished file ended: ok, error or crashed."""
        return self._entries[path].status

    def table_rows(self, path: str) -> Iterator[dict[str, Any]]:
        """Return the rows of a finished file."""
        self._stream.seek(self._entries[path].offset)
        line = self._stream.readline()
        return read_checked(FileResult, read_json(line, str(self.path)), str(self.path)).table_rows()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal."""
        self._lines.close()
        self._stream.close()


def _line(message: dict[str, Any]) -> str:
    return json.dumps(message) + "\n"


def _header(run: dict[str, Any]) -> str:
    return _line({"run": run})
