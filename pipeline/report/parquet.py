"""The same rows as the CSV, typed, as Parquet. Needs pyarrow, which the extra ``parquet`` installs."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.errors import UserError
from pipeline.files.failures import failures_of
from pipeline.files.writing import OutputFile
from pipeline.report.records import SourceVideo, item_row, video_row

_ROWS_A_GROUP = 20_000

_TYPES = {
    "path": "string",
    "kind": "string",
    "start_seconds": "double",
    "end_seconds": "double",
    "label": "string",
    "score": "double",
    "status": "string",
    "error": "string",
}


class ParquetFile:
    """Columns as ``_TYPES``; null where a row has no such value. The header goes into the schema's metadata as JSON
    under ``clipgru``. The same rows give the same bytes.

    Raises:
        UserError: pyarrow is not installed, or the file cannot be made.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, no_clobber: bool = False) -> None:
        self._arrow, parquet = import_arrow("pyarrow"), import_arrow("pyarrow.parquet")
        columns = [(name, self._arrow.type_for_alias(kind)) for name, kind in _TYPES.items()]
        self._schema = self._arrow.schema(columns, {"clipgru": json.dumps(header, ensure_ascii=False)})
        self._rows: list[dict[str, Any]] = []
        self._video = SourceVideo("", "")
        self._pending = OutputFile(path, no_clobber=no_clobber)
        try:
            with failures_of(path):
                self._out = parquet.ParquetWriter(self._pending.stream, self._schema)
        except UserError:
            self._pending.discard()
            raise

    def begin_video(self, video: SourceVideo) -> None:
        """The next rows are its."""
        self._video = video

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """One row."""
        self.add(item_row(self._video.path, prediction))

    def segment(self, segment: Segment) -> None:
        """One row."""
        self.add(item_row(self._video.path, segment))

    def end_video(self, status: str, error: str) -> None:
        """One row."""
        self.add(video_row(self._video, status, error))

    def add(self, row: dict[str, Any]) -> None:
        """One row with the columns of ``_TYPES``, as ``records`` makes them."""
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
