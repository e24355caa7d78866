"""The formats of labelled stretches by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.datasets.timelines.boris import read_boris, write_boris, write_boris_table
from pipeline.datasets.timelines.ethograms import (
    read_deepethogram,
    read_vtrace,
    write_deepethogram,
    write_vtrace,
)
from pipeline.datasets.timelines.frames import ClockOf, PathOf
from pipeline.datasets.timelines.json_datasets import (
    read_createml,
    read_fiftyone,
    write_createml,
    write_fiftyone,
    write_fiftyone_paths,
)
from pipeline.datasets.timelines.json_files import (
    read_activitynet,
    read_predicted_json,
    read_predicted_lines,
    read_segments,
    write_activitynet,
    write_segments,
)
from pipeline.datasets.timelines.label_studio import read_label_studio, write_label_studio
from pipeline.datasets.timelines.losses import KINDS
from pipeline.datasets.timelines.spans import head_of
from pipeline.datasets.timelines.subtitles import read_subtitles, write_srt, write_vtt
from pipeline.datasets.timelines.tables import (
    read_epic,
    read_manifest_spans,
    read_predicted_rows,
    write_epic,
    write_manifest,
)
from pipeline.datasets.timelines.text_files import (
    read_ms_tcn,
    read_thumos,
    write_ms_tcn,
    write_thumos,
)
from pipeline.datasets.timelines.via import read_via, write_via, write_via_table
from pipeline.datasets.timelines.xml_files import read_cvat, read_elan, write_cvat, write_elan
from pipeline.timeline.labelled import LabelledVideo


def _read_predicted(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read what ``clipgru predict`` writes with ``--json``, ``--jsonl`` or ``--csv``; ``split`` does nothing.

    Raises:
        UserError: the file is none of these, or malformed.
    """
    head = head_of(path)
    if '"event"' in head.partition("\n")[0]:
        return read_predicted_lines(path)
    return read_predicted_json(path) if head.startswith(("{", "[")) else read_predicted_rows(path)


_Read = Callable[[Path, str | None], list[LabelledVideo]]
_Write = Callable[[Sequence[LabelledVideo], ClockOf], dict[str, str]]


@dataclass(frozen=True)
class TimelineFormat:
    """A way to write down labelled stretches."""

    read: _Read
    """Reads a file or folder; a split takes a part of it. Raises ``UserError``."""
    suffixes: tuple[str, ...] = ()
    """Of its files; none: it is a folder."""
    write: _Write | None = None
    """Returns the texts of files by their names in a folder, "" for the one file; None: it is read only."""
    holds: frozenset[str] = frozenset()
    """Keys of ``losses.KINDS``: what it can hold besides stretches in seconds."""
    write_as: Mapping[str, tuple[_Write, frozenset[str]]] = field(default_factory=dict)
    """Other forms that it is written in, by the suffix of the file, and what these hold."""
    is_per_video: bool = False
    """A file is of one video; a folder of such files is read too."""
    in_frames: bool = False
    """Its times are numbers of frames."""
    not_with_scores: frozenset[str] = frozenset()
    """Of what it holds, that which its predictions do not."""
    write_paths: Callable[[Sequence[LabelledVideo], PathOf], dict[str, str]] | None = None
    """Returns the texts of files that say where the videos are."""


_ALL = frozenset(KINDS)
_APART = frozenset({"overlaps", "repeats", "touching", "moments"})
"""Each stretch is an entry of its own."""

TIMELINE_FORMATS: dict[str, TimelineFormat] = {
    "activitynet": TimelineFormat(
        read_activitynet,
        (".json",),
        write_activitynet,
        _APART | {"scores", "splits", "durations", "empty", "fine"},
        not_with_scores=frozenset({"splits", "durations"}),
    ),
    "boris": TimelineFormat(
        read_boris,
        (".boris", ".csv", ".tsv"),
        write_boris,
        frozenset({"overlaps", "touching", "moments", "durations", "empty", "fine"}),
        {".csv": (write_boris_table, _APART | {"durations", "fine"})},
    ),
    "createml": TimelineFormat(read_createml, (".json",), write_createml, _APART | {"fine"}),
    "cvat": TimelineFormat(
        read_cvat, (".xml",), write_cvat, frozenset({"overlaps", "empty"}), is_per_video=True, in_frames=True
    ),
    "deepethogram": TimelineFormat(
        read_deepethogram,
        (".csv",),
        write_deepethogram,
        frozenset({"overlaps", "empty", "durations", "unlabelled"}),
        is_per_video=True,
        in_frames=True,
    ),
    "elan": TimelineFormat(
        read_elan, (".eaf",), write_elan, frozenset({"overlaps", "repeats", "touching", "empty"}), is_per_video=True
    ),
    "epic": TimelineFormat(read_epic, (".csv",), write_epic, _APART | {"groups"}),
    "fiftyone": TimelineFormat(
        read_fiftyone, (), write_fiftyone, _APART | {"scores", "empty", "fine"}, write_paths=write_fiftyone_paths
    ),
    "label_studio": TimelineFormat(
        read_label_studio,
        (".json",),
        write_label_studio,
        frozenset({"scores", "overlaps", "repeats", "touching", "empty"}),
        in_frames=True,
    ),
    "manifest": TimelineFormat(read_manifest_spans, (".csv", ".jsonl", ".ndjson", ".json"), write_manifest, _ALL),
    "ms_tcn": TimelineFormat(
        read_ms_tcn, (), write_ms_tcn, frozenset({"splits", "empty", "durations", "unlabelled"}), in_frames=True
    ),
    "predict": TimelineFormat(_read_predicted, (".json", ".jsonl", ".csv")),
    "segments": TimelineFormat(
        read_segments, (".json",), write_segments, _APART | {"scores", "durations", "empty", "fine"}
    ),
    "srt": TimelineFormat(read_subtitles, (".srt",), write_srt, _APART | {"empty"}, is_per_video=True),
    "thumos": TimelineFormat(read_thumos, (), write_thumos, _APART | {"scores", "splits", "fine"}),
    "via": TimelineFormat(
        read_via,
        (".json", ".csv"),
        write_via,
        _APART | {"empty", "fine"},
        {".csv": (write_via_table, _APART | {"fine"})},
    ),
    "vtrace": TimelineFormat(
        read_vtrace, (".csv",), write_vtrace, _APART | {"scores", "empty", "fine"}, is_per_video=True
    ),
    "vtt": TimelineFormat(read_subtitles, (".vtt",), write_vtt, _APART | {"empty"}, is_per_video=True),
}
"""By name; data/README.md shows each."""
