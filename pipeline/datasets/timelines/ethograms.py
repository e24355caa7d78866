"""Labelled stretches as tables of behaviour: V-TRACE's CSV, and DeepEthogram's with a line a frame.

Sources: the README of vtrace-behavior 1.2 (Animal behaviour from untrimmed video); docs/file_structure.md of
github.com/jbohnslav/deepethogram (Bohnslav et al., eLife 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import BACKGROUND, UNLABELLED
from pipeline.datasets.delimited import read_table
from pipeline.datasets.timelines.frames import ClockOf
from pipeline.datasets.timelines.names import flat_names
from pipeline.datasets.timelines.spans import csv_lines, read_number, read_span
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo, unlabelled_parts

VTRACE_COLUMNS = ("labelid", "timestamp", "endtimestamp")
_PREDICTED, _LABELS = ".pred", "_labels"


def read_vtrace(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read V-TRACE's CSV, ``labelId,timestamp,endTimestamp`` in seconds and perhaps ``score`` and ``review``: rejected
    drafts are left out. The video has the name of the file, without ``.pred``. ``split`` does nothing.

    Raises:
        UserError: a malformed line, named ``file:line``.
    """
    records = read_table(path, VTRACE_COLUMNS, comment="#")
    kept = [record for record in records if record[1].get("review", "").lower() != "rejected"]
    spans = tuple(_vtrace_span(*record) for record in kept)
    left_out = ("rejected drafts",) if len(kept) < len(records) else ()
    return [LabelledVideo(path.stem.removesuffix(_PREDICTED), spans, left_out=left_out)]


def _vtrace_span(place: str, values: Mapping[str, str]) -> LabelledSpan:
    label, start, end = (values[column] for column in VTRACE_COLUMNS)
    return read_span(place, start, end, label, values.get("score") or 1.0)


def write_vtrace(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write V-TRACE's CSV a video, with ``score`` where there are scores."""
    return {f"{name}.csv": _vtrace(video) for name, video in flat_names(videos).items()}


def _vtrace(video: LabelledVideo) -> str:
    scored = any(span.score != 1 for span in video.spans)
    rows = [
        [span.label, span.start_seconds, span.end_seconds, *([span.score] if scored else [])] for span in video.spans
    ]
    return csv_lines([["labelId", "timestamp", "endTimestamp", *(["score"] if scored else [])], *rows])


def read_deepethogram(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read DeepEthogram's CSV: a line a frame, a column a label with 1 where it is shown, 0 where not, -1 where nobody
    has looked. The first column is the number of the frame. The video has the name of the file, without ``_labels``.
    ``split`` does nothing.

    Raises:
        UserError: a malformed line, named ``file:line``.
    """
    records = read_table(path, (), unnamed="frame", as_written=True)
    if not records:
        raise UserError(f"{path}: there is no line; each is a frame of the video")
    for number, (place, values) in enumerate(records):
        if read_number(place, "the frame", values["frame"]) != number:
            raise UserError(f"{place}: expected the line of frame {number}; each frame has one, from 0, in order")
    columns = list(records[0][1])[1:]
    table = {column: [_shown(place, values[column]) for place, values in records] for column in columns}
    spans = [span for column in columns if column != BACKGROUND for span in _runs_of(table[column], 1, column)]
    spans += _runs_of(table[columns[0]], -1, UNLABELLED) if columns else []  # all columns of a frame have it at once
    spans.sort(key=lambda span: (span.start_seconds, span.end_seconds, span.label))
    return [LabelledVideo(path.stem.removesuffix(_LABELS), tuple(spans), in_frames=True)]


def _runs_of(values: Sequence[int], wanted: int, label: str) -> list[LabelledSpan]:
    found: list[LabelledSpan] = []
    begun: int | None = None
    for frame, value in enumerate([*values, None]):
        if value == wanted and begun is None:
            begun = frame
        elif value != wanted and begun is not None:
            found.append(LabelledSpan(begun, frame, label))
            begun = None
    return found


def _shown(place: str, text: str) -> int:
    number = read_number(place, "a label", text)
    if number not in (-1, 0, 1):
        raise UserError(f"{place}: {text[:80]!r} is neither 0, 1 nor -1, as the labels of a frame are")
    return int(number)


def write_deepethogram(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write ``NAME_labels.csv`` a video, with the column background first and the same labels in all."""
    labels = sorted({span.label for video in videos for span in video.spans} - {BACKGROUND, UNLABELLED})
    return {
        f"{name}{_LABELS}.csv": _deepethogram(video, labels, clock_of) for name, video in flat_names(videos).items()
    }


def _deepethogram(video: LabelledVideo, labels: Sequence[str], clock_of: ClockOf) -> str:
    clock = clock_of(video)
    num_frames = clock.num_frames or max((clock.frame(span.end_seconds) for span in video.spans), default=0)
    shown = {label: [0] * num_frames for label in labels}
    for span in video.spans:
        for frame in range(clock.frame(span.start_seconds), min(clock.frame(span.end_seconds), num_frames)):
            if span.label in shown:
                shown[span.label][frame] = 1
    background = [int(not any(shown[label][frame] for label in labels)) for frame in range(num_frames)]
    for start, end in unlabelled_parts(video, clock.seconds(num_frames), (UNLABELLED,)):
        for frame in range(clock.frame(start), clock.frame(end)):
            background[frame] = -1
            for label in labels:
                shown[label][frame] = -1
    columns = [background, *shown.values()]
    rows = [[frame, *(column[frame] for column in columns)] for frame in range(num_frames)]
    return csv_lines([["", BACKGROUND, *labels], *rows])
