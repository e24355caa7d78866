"""The file of rejected drafts beside a manifest, which has no place for stretches in which a label does not happen."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from pipeline.datasets.delimited import read_table
from pipeline.datasets.timelines.spans import read_bytes, read_number
from pipeline.files.writing import write_atomically
from pipeline.labelling.manifest import as_text
from pipeline.labelling.stretches import Span, VideoLabels

_COLUMNS = ("path", "label", "start_seconds", "end_seconds")


def read_rejected(path: Path) -> dict[str, list[Span]]:
    """Return the rejected drafts by video; none where there is no file. Raises ``UserError`` if it is no such table."""
    found: dict[str, list[Span]] = {}
    for place, values in read_table(path, _COLUMNS) if path.exists() else ():
        start = read_number(place, "start_seconds", values["start_seconds"])
        end = read_number(place, "end_seconds", values["end_seconds"]) if values["end_seconds"] else math.inf
        found.setdefault(values["path"], []).append(Span(values["label"], start, end))
    return found


def write_rejected(path: Path, videos: Iterable[VideoLabels]) -> None:
    """Write the rejected drafts of the videos if they are not what the file says. Raises ``UserError``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    rows = [
        (video.name, span.label, as_text(span.start_seconds), as_text(span.end_seconds))
        for video in videos
        for span in video.rejected
    ]
    writer.writerows(rows)
    content = text.getvalue().encode()
    before = read_bytes(path) if path.exists() else None
    if content != before and (before is not None or rows):
        write_atomically(path, content)
