"""``LabelJournal``: every change, on disk before all else, so that a killed program loses the one in flight at most.

Lines of JSON: a change, or ``{"saved": N}`` once the manifest holds the changes up to N. It lies beside the manifest;
where nothing can be written there, in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.cache import cache_folder
from pipeline.files.failures import failures_of
from pipeline.files.lock import beside
from pipeline.files.writing import LineFile
from pipeline.labelling.stretches import LabelChange, change_from_json, change_to_json

_DAMAGES = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, UserError)
"""Of a line that another hand damaged, or a later version wrote."""


class LabelJournal:
    """The journal of one manifest.

    Args:
        manifest: the file.

    Attributes:
        changes: all that was ever done, in order.
        num_saved: number of the last change that the manifest holds.
    """

    def __init__(self, manifest: Path) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(manifest))).hexdigest()[:32]
        caches = cache_folder()
        self._places = [beside(manifest, ".journal"), *([caches / "labels" / f"{name}.jsonl"] if caches else [])]
        self._open: dict[Path, LineFile] = {}
        self.num_saved = 0
        by_number: dict[int, LabelChange] = {}
        for place in self._places:
            by_number |= {change.number: change for change in self._read(place)}
        self.changes = [by_number[number] for number in sorted(by_number)]

    def _read(self, place: Path) -> Iterator[LabelChange]:
        if place.is_symlink():
            return
        try:
            text = place.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        for line in text.split("\n")[:-1]:  # what has no line end was in flight
            yield from self._entry(line)

    def _entry(self, line: str) -> Iterator[LabelChange]:
        with suppress(*_DAMAGES):
            values = json.loads(line)
            if "saved" in values:
                self.num_saved = max(self.num_saved, int(values["saved"]))
            else:
                yield change_from_json(values)

    @property
    def unsaved(self) -> list[LabelChange]:
        """The changes that the manifest may lack."""
        return [change for change in self.changes if change.number > self.num_saved]

    def add(self, change: LabelChange) -> None:
        """Keep a change, on disk when this returns.

        Raises:
            UserError: it can be kept nowhere; it is in ``changes`` all the same.
        """
        self.changes.append(change)
        self._write(change_to_json(change))

    def note_saved(self) -> None:
        """Note that the manifest holds all changes. Raises ``UserError`` as ``add``."""
        if self.changes and self.num_saved != self.changes[-1].number:
            self.num_saved = self.changes[-1].number
            self._write({"saved": self.num_saved})

    def _write(self, values: dict[str, object]) -> None:
        line = json.dumps(values, ensure_ascii=False) + "\n"
        problems = []
        for place in self._places:
            if (problem := self._try_to_write(place, line)) is None:
                return
            problems.append(problem)
        raise problems[0]

    def _try_to_write(self, place: Path, line: str) -> UserError | None:
        try:
            self._file(place).write(line)
        except UserError as error:
            self._open.pop(place, None)
            return error
        return None

    def _file(self, place: Path) -> LineFile:
        if place not in self._open:
            if place.is_symlink():  # of a folder from elsewhere it may lead to any file
                raise UserError(f"{place}: the journal of labels is a link, which is not followed; remove it")
            with failures_of(place):
                is_torn = place.exists() and place.stat().st_size > 0 and not _ends_line(place)
            self._open[place] = LineFile(place, "a")
            if is_torn:
                self._open[place].write("\n")
        return self._open[place]

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()


def _ends_line(place: Path) -> bool:
    with place.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
