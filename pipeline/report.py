"""What people and programs read: JSON and CSV of predictions, tables, the confusion matrix as CSV and picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from torch import Tensor

from pipeline.clip import Prediction, Segment

CSV_FIELDS = ("path", "kind", "start_seconds", "end_seconds", "label", "score", "error")


class PredictionWriter:
    """Writes predictions as they come, so that memory does not grow, and gives files their names when all is done.

    The JSON is one object: ``{"model": ..., "videos": [{"path", "status", "windows", "segments"} ...]}``; a video that
    could not be read has status ``error`` and the reason. The CSV has a row for each window, segment and error.

    Args:
        json_path: or None.
        csv_path: or None.
        header: facts about the model, put first in the JSON.
    """

    def __init__(self, json_path: Path | None, csv_path: Path | None, header: dict[str, Any]) -> None:
        self._targets = [path for path in (json_path, csv_path) if path is not None]
        self._json = _open_temporary(json_path) if json_path else None
        self._csv = _open_temporary(csv_path) if csv_path else None
        self._csv_rows = csv.DictWriter(self._csv, CSV_FIELDS) if self._csv else None
        self._num_videos = self._num_windows = 0
        self._put(json.dumps(header, ensure_ascii=False)[:-1] + ', "videos": [')
        if self._csv_rows:
            self._csv_rows.writeheader()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put("\n]}\n")
        for stream in (self._json, self._csv):
            if stream is not None:
                stream.close()
        for path in self._targets:
            temporary = _temporary(path)
            if kind is None:
                temporary.replace(path)
            else:
                temporary.unlink()

    def _put(self, text: str) -> None:
        if self._json is not None:
            self._json.write(text)

    def _row(self, path: str, kind: str, item: Prediction | Segment | None, error: str = "") -> None:
        if self._csv_rows is None:
            return
        values: dict[str, Any] = {"path": path, "kind": kind, "error": error}
        if item is not None:
            values |= {
                "start_seconds": f"{item.start_seconds:.3f}",
                "end_seconds": f"{item.end_seconds:.3f}",
                "label": item.label,
                "score": f"{item.score:.4f}",
            }
        self._csv_rows.writerow(values)

    def begin_video(self, path: str, duration_seconds: float) -> None:
        """The windows that follow are this video's."""
        comma = "," if self._num_videos else ""
        self._num_videos += 1
        self._num_windows = 0
        start = {"path": path, "status": "ok", "duration_seconds": round(duration_seconds, 6)}
        self._put(f"{comma}\n" + json.dumps(start, ensure_ascii=False)[:-1] + ', "windows": [')

    def window(self, prediction: Prediction) -> None:
        """One more window."""
        item = asdict(prediction)
        path = item.pop("path")
        item["top_k"] = [{"label": label, "score": round(score, 6)} for label, score in prediction.top_k]
        item["score"] = round(prediction.score, 6)
        self._put(("," if self._num_windows else "") + "\n " + json.dumps(item, ensure_ascii=False))
        self._num_windows += 1
        self._row(path, "window", prediction)

    def end_video(self, path: str, segments: Sequence[Segment], error: str = "") -> None:
        """The video's segments. An error met on the way takes the place of a good end, and what was seen stays."""
        items = [asdict(segment) | {"score": round(segment.score, 6)} for segment in segments]
        tail = ', "status": "error", "error": ' + json.dumps(error, ensure_ascii=False) if error else ""
        self._put('], "segments": ' + json.dumps(items, ensure_ascii=False) + tail + "}")
        for segment in segments:
            self._row(path, "segment", segment)
        if error:
            self._row(path, "error", None, error)

    def failed_video(self, path: str, error: str) -> None:
        """A video that could not be opened."""
        comma = "," if self._num_videos else ""
        self._num_videos += 1
        self._put(f"{comma}\n" + json.dumps({"path": path, "status": "error", "error": error}, ensure_ascii=False))
        self._row(path, "error", None, error)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _open_temporary(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return _temporary(path).open("w", encoding="utf-8", newline="")


def confusion_csv(confusion: Tensor, labels: Sequence[str]) -> str:
    """``[K, K]`` counts as CSV: true class down, predicted class across."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true \\ predicted", *labels])
    for label, row in zip(labels, confusion.tolist(), strict=True):
        writer.writerow([label, *row])
    return text.getvalue()


def confusion_picture(confusion: Tensor, labels: Sequence[str], title: str) -> bytes:
    """The same as a PNG: shares of the true class in colour, counts as text where they fit."""
    from matplotlib.figure import Figure

    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp_min(1)
    side = min(30.0, 2.5 + 0.45 * len(labels))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    if len(labels) <= 30:
        for i, row in enumerate(confusion.tolist()):
            for j, count in enumerate(row):
                if count:
                    colour = "white" if float(shares[i, j]) > 0.5 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def results_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Dicts with the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["path"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
