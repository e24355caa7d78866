"""A row for each window, segment and video as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pipeline.files.writing import OutputFile
from pipeline.report.records import DECIMALS, ROW_FIELDS, RowWriter


class CsvFile(RowWriter):
    """Columns ``ROW_FIELDS``; the rows of a video end with one of kind ``video``, which has its status."""

    def __init__(self, path: Path, *, no_clobber: bool = False) -> None:
        self._out = OutputFile(path, no_clobber=no_clobber)
        self._rows = csv.DictWriter(self._out, ROW_FIELDS)
        self._rows.writeheader()

    def add(self, row: dict[str, Any]) -> None:
        """Write a row."""
        self._rows.writerow({k: f"{v:.{DECIMALS}f}" if isinstance(v, float) else v for k, v in row.items()})

    def close(self) -> None:
        """The table is complete."""
        self._out.commit()

    def discard(self) -> None:
        """No file."""
        self._out.discard()
