"""The same rows as the CSV, typed, as Parquet. Needs pyarrow, which the extra ``parquet`` installs."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.failures import failures_of
from pipeline.files.writing import OutputFile
from pipeline.report.records import ROW_FIELDS, RowWriter

_ROWS_A_GROUP = 20_000

_DOUBLES = ("start_seconds", "end_seconds", "score")


class ParquetFile(RowWriter):
    """Columns ``ROW_FIELDS``; null where a row has no such value. The header goes into the schema's metadata as JSON
    under ``clipgru``. The same rows give the same bytes.

    Raises:
        UserError: pyarrow is not installed, or the file cannot be made.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, no_clobber: bool = False) -> None:
        self._arrow, parquet = import_arrow("pyarrow"), import_arrow("pyarrow.parquet")
        kinds = {name: "double" if name in _DOUBLES else "string" for name in ROW_FIELDS}
        columns = [(name, self._arrow.type_for_alias(kind)) for name, kind in kinds.items()]
        self._schema = self._arrow.schema(columns, {"clipgru": json.dumps(header, ensure_ascii=False)})
        self._rows: list[dict[str, Any]] = []
        self._pending = OutputFile(path, no_clobber=no_clobber)
        try:
            with failures_of(path):
                self._out = parquet.ParquetWriter(self._pending.stream, self._schema)
        except UserError:
            self._pending.discard()
            raise

    def add(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self._rows.append(row)
        if len(self._rows) == _ROWS_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        with failures_of(self._pending.path):
            self._out.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        """To disk, then to its name."""
        if self._rows:
            self._flush()
        with failures_of(self._pending.path):
            self._out.close()
        self._pending.commit()

    def discard(self) -> None:
        """No file."""
        with suppress(OSError):  # the footer does not fit either
            self._out.close()
        self._pending.discard()


def import_arrow(name: str) -> Any:
    """A module of pyarrow. Raises ``UserError`` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"Parquet needs pyarrow ({error}); pip install pyarrow, or write --csv") from error
