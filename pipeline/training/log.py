"""The figures of a training as CSV: a row each time that some are logged, whole at any moment."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from pipeline.files.writing import LineFile, write_atomically


class CsvLog(Logger):
    """``metrics.csv`` with a column for each figure, in the order of their names. A row with a new one rewrites the
    file, with another head line; others are added at its end.

    Args:
        folder: made with the first row.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "metrics.csv"
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """Name of the folder above."""
        return self._path.parent.parent.name

    @property
    def version(self) -> str:
        """Name of the folder."""
        return self._path.parent.name

    def log_hyperparams(self, params: Any, *args: Any, **settings: Any) -> None:
        """Do nothing: ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row. Raises ``UserError`` where the disk takes no more; the rows before are still there then."""
        row: dict[str, Any] = metrics | {"step": step}
        if row.keys() <= set(self._columns):
            log = LineFile(self._path, "a")
            log.write(self._text([row]))
            log.close()
            return
        before = []
        if self._columns:
            with self._path.open(newline="", encoding="utf-8") as stream:
                before = list(csv.DictReader(stream))
        self._columns = sorted({*self._columns, *row})
        write_atomically(self._path, ",".join(self._columns) + "\r\n" + self._text([*before, row]))

    def _text(self, rows: list[dict[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue()
