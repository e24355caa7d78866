"""A row for each window, segment and video as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.files.writing import OutputFile
from pipeline.report.records import DECIMALS, ROW_FIELDS, SourceVideo, item_row, video_row


class CsvFile:
    """Columns ``ROW_FIELDS``; the rows of a video end with one of kind ``video``, which has its status."""

    def __init__(self, path: Path, *, no_clobber: bool = False) -> None:
        self._out = OutputFile(path, no_clobber=no_clobber)
        self._rows = csv.DictWriter(self._out, ROW_FIELDS)
        self._rows.writeheader()
        self._video = SourceVideo("", "")

    def begin_video(self, video: SourceVideo) -> None:
        """The next rows are its."""
        self._video = video

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """One row."""
        self._write(item_row(self._video.path, prediction))

    def segment(self, segment: Segment) -> None:
        """One row."""
        self._write(item_row(self._video.path, segment))

    def end_video(self, status: str, error: str) -> None:
        """One row."""
        self._write(video_row(self._video, status, error))

    def _write(self, row: dict[str, Any]) -> None:
        self._rows.writerow({k: f"{v:.{DECIMALS}f}" if isinstance(v, float) else v for k, v in row.items()})

    def close(self) -> None:
        """The table is complete."""
        self._out.commit()

    def discard(self) -> None:
        """No file."""
        self._out.discard()
