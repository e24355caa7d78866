"""Datasets as a table: Kinetics CSV files, and the manifest (CSV or JSON lines) for anything else.

Source of the Kinetics layout: Kay et al., "The Kinetics Human Action Video Dataset", 2017; file names as the usual
download tools write them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import BACKGROUND, UNLABELLED
from pipeline.datasets.annotations import (
    ANY_DEPTH,
    Annotations,
    VideoRow,
    list_videos,
    name_some,
    read_lines,
    refuse_absent,
    require_folder,
    require_videos,
    whole_video,
)
from pipeline.datasets.delimited import UNKNOWN_GROUPS, Record, composed, name_below, number_of, read_table
from pipeline.datasets.parts import PARTS, part_of, part_word
from pipeline.errors import UserError, unknown_name

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson")

MANIFEST_COLUMNS = (
    "path", "label", "start_seconds", "end_seconds", "group", "split", "uncovered", "score", "duration_seconds"
)  # fmt: skip
"""The first two are required; a training reads all but the last two. A column of another name is refused: a misspelt
``group`` would leak sources."""

_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
"""Required in each Kinetics CSV; ``split`` is read too, and other columns are left alone."""


def _read_json_lines(path: Path) -> list[Record]:
    """Return the lines of a file of JSON objects, as ``read_table`` those of a CSV file.

    Raises:
        UserError: a line is no object of texts and numbers, or has a key twice.
    """
    records: list[Record] = []
    for place, line in read_lines(path):
        try:
            pairs = json.loads(line, object_pairs_hook=list)
        except (json.JSONDecodeError, RecursionError) as error:
            cause = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
            raise UserError(f"{place}: not JSON: {cause}") from None
        if not line.startswith("{") or any(isinstance(value, list | bool) for _, value in pairs):
            raise UserError(f"{place}: expected one JSON object of texts and numbers, got {line[:80]}")
        values = {key.strip().lower(): _as_text(value) for key, value in pairs}
        if len(values) < len(pairs):
            raise UserError(f"{place}: a key is twice there: {line[:80]}")
        records.append((place, values))
    return records


def _as_text(value: object) -> str:
    return "" if value is None or value != value else composed(str(value).strip())


def read_manifest(
    root: Path, annotations: Path | None = None, split: int = 1, *, of_timelines: bool = False
) -> Annotations:
    """A table of videos: columns ``path,label`` and, where known, ``start_seconds,end_seconds,group,split,uncovered``.

    Paths are relative to the root and stay below it. Without a group, a file is its own. Either every line names a
    split (train, val, test) or none does. ``classes.txt`` beside the manifest, one label a line, is optional: it
    fixes the class order and refuses any other label.

    Rows of timelines are stretches of long videos: a line without label and times is a video in which nothing happens,
    a stretch may have several labels, and ``uncovered`` says of a video what its other moments are, ``background`` (the
    default) or ``unlabelled``. A video that is partly unlabelled has one more row, which is not ``looked_at``.

    Args:
        root: the folder that paths are relative to; or the manifest itself, and paths are relative to its folder.
        annotations: the manifest, if it is not ``manifest.csv`` or ``manifest.jsonl`` in the root.
        split: does nothing.
        of_timelines: for task timeline.

    Raises:
        UserError: a malformed line (named ``file:line``), an unknown label, a path out of the root, absent files.
    """
    if root.is_file():
        root, annotations = root.parent, annotations or root
    require_folder(root)
    source = annotations or _default_manifest(root)
    found = read_manifest_rows(root, source, of_timelines=of_timelines)
    refuse_absent([row for part in found.splits.values() for row in part], root, source)
    return found


def refuse_links(found: Annotations, root: Path) -> None:
    """Refuses rows whose files are outside the root once links are followed.

    Raises:
        UserError: names the first few.
    """
    folder = root.resolve()
    rows = [row for part in found.splits.values() for row in part]
    outside = [row.name for row in rows if not row.path.resolve().is_relative_to(folder)]
    if outside:
        raise UserError(
            f"videos of the manifest are links that lead out of the root {root}. {name_some(dict.fromkeys(outside))}. "
            "Set data.allow_links to true if that is meant"
        )


def read_manifest_rows(root: Path, annotations: Path | None = None, *, of_timelines: bool = False) -> Annotations:
    """``read_manifest`` without asking whether the files are there."""
    source = annotations or _default_manifest(root)
    records = read_manifest_records(source)
    labels = _listed_labels(source.parent / "classes.txt")
    videos = Agreement()
    splits: dict[str, list[VideoRow]] = defaultdict(list)
    places: dict[tuple[Any, ...], str] = {}
    for place, values in records:
        row = _manifest_row(place, values, root, labels, of_timelines)
        stretch = row.name, row.start_seconds, row.end_seconds, row.label if of_timelines else ""
        if places.setdefault(stretch, place) != place:  # it would count twice
            raise UserError(f"{place}: {row.name} with these times is listed already at {places[stretch]}")
        part = _split_name(place, values.get("split", "")) if values.get("split") else "all"
        uncovered = uncovered_moments(place, values)
        if of_timelines and videos.add(place, row.name, group=row.group, split=part, uncovered=uncovered):
            splits[part] += [whole_video(row, looked_at=False)] if uncovered == UNLABELLED else []
        splits[part] += [row] if row.label or uncovered == BACKGROUND else []
    require_videos(records, root, f"lines in {source}, and it has none")
    if "all" in splits and len(splits) > 1:
        raise UserError(f"{source}: {len(splits['all'])} lines have no split and others have; fill in all or none")
    found = tuple(sorted({row.label for part in splits.values() for row in part} - {""}))
    return Annotations(labels or found, {part: tuple(rows) for part, rows in splits.items()})


class Agreement:
    """Facts that the lines of a table tell of whole videos, in which they must agree."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, dict[str, str]]] = {}

    def add(self, place: str, video: str, **facts: str) -> bool:
        """Note what a line says of its video. Returns true for the first line of a video.

        Raises:
            UserError: an earlier line says something else; names both places.
        """
        first_place, first = self._first.setdefault(video, (place, facts))
        for column, value in facts.items():
            if first[column] != value:
                raise UserError(
                    f"{place}: {column} of {video} is {value!r} here and {first[column]!r} at {first_place}; all lines "
                    "of a video say the same"
                )
        return first_place == place


def read_manifest_records(source: Path) -> list[Record]:
    """Return the lines of a manifest, CSV or JSON lines, with the columns that it may have.

    Raises:
        UserError: a malformed line, or an unknown column.
    """
    is_json = source.suffix.lower() in (".jsonl", ".ndjson", ".json")
    records = _read_json_lines(source) if is_json else read_table(source, MANIFEST_COLUMNS[:2])
    for place, values in records:
        for number, column in enumerate(values, 1):
            if not column:
                raise UserError(
                    f"{place}: the header has no name for column {number} (pandas: to_csv with index=False)"
                )
            if column not in MANIFEST_COLUMNS:
                raise UserError(f"{place}: {unknown_name('column', column, MANIFEST_COLUMNS)}")
    return records


def uncovered_moments(place: str, values: Mapping[str, str]) -> str:
    """Return what no row of a video covers: ``background`` or ``unlabelled``. Raises ``UserError`` for another word."""
    said = values.get("uncovered", "").lower() or BACKGROUND
    if said not in (BACKGROUND, UNLABELLED):
        raise UserError(f"{place}: {unknown_name('value of uncovered', said, (BACKGROUND, UNLABELLED))}")
    return said


def manifest_in(root: Path) -> Path | None:
    """Return the manifest of a folder, if it has one."""
    return next((root / name for name in ("manifest.csv", "manifest.jsonl") if (root / name).is_file()), None)


def _default_manifest(root: Path) -> Path:
    if found := manifest_in(root):
        return found
    raise UserError(f"no manifest.csv or manifest.jsonl in {root}; set data.annotations to the manifest")


def _listed_labels(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    labels: dict[str, str] = {}
    for place, line in read_lines(path):
        if labels.setdefault(composed(line), place) != place:
            raise UserError(f"{place}: the label {line!r} is listed already at {labels[composed(line)]}")
    return tuple(labels)


def _manifest_row(
    place: str, values: Mapping[str, str], root: Path, labels: tuple[str, ...], of_timelines: bool
) -> VideoRow:
    name, label = values.get("path", ""), values.get("label", "")
    if not name:
        raise UserError(f"{place}: path is empty; each line names its video")
    if not label:
        _check_without_label(place, values, of_timelines)
    special = ("", BACKGROUND, UNLABELLED) if of_timelines else ()
    if labels and label not in (*labels, *special):
        raise UserError(f"{place}: {unknown_name('label', label, labels)}")
    start = _seconds(place, "start_seconds", values, 0.0)
    end = _seconds(place, "end_seconds", values, math.inf)
    if not 0 <= start < end:
        raise UserError(f"{place}: need 0 <= start_seconds < end_seconds, got {start:g} and {end:g}")
    name, path = name_below(place, name, root)
    group = values.get("group", "")
    end_seconds = None if math.isinf(end) else end
    return VideoRow(path, label, name if group in UNKNOWN_GROUPS else group, start, end_seconds, name)


def _check_without_label(place: str, values: Mapping[str, str], of_timelines: bool) -> None:
    if not of_timelines:
        raise UserError(
            f"{place}: label is empty; write one, such as {BACKGROUND}. A line without label is a video in which "
            "nothing happens, for --task timeline"
        )
    if values.get("start_seconds") or values.get("end_seconds"):
        raise UserError(
            f"{place}: label is empty, and there are times; write {BACKGROUND} if nothing happens in this stretch, or "
            "take the times out if nothing happens in the whole video"
        )


def _seconds(place: str, column: str, values: Mapping[str, str], default: float) -> float:
    text = values.get(column, "")
    number = number_of(text) if text else default
    if math.isnan(number):
        raise UserError(f"{place}: {column} is {text!r}, which is no number of seconds, such as 12.5")
    return number


def _split_name(place: str, text: str) -> str:
    part = part_of(text)
    if part is None:
        raise UserError(f"{place}: {unknown_name('split', text, PARTS)}")
    return part


def read_kinetics(
    root: Path, annotations: Path | None = None, split: int = 1, *, allow_links: bool = False
) -> Annotations:
    """Kinetics CSV files, ``label,youtube_id,time_start,time_end,split``, and files
    ``<youtube_id>_<start:06d>_<end:06d>.mp4`` anywhere below the root. Group: the YouTube video.

    Some videos have always gone since; ``Annotations.absent`` lists them as paths below the root.

    Args:
        root: the folder with the videos, in class folders or not.
        annotations: one CSV, or a folder of them named after their part (train.csv, kinetics_400_val.csv);
            if not given, such files in the root or in ``annotations/`` there.
        split: does nothing.
        allow_links: enter linked folders.

    Raises:
        UserError: no CSV, a malformed line, no file at all, or none of some class.
    """
    require_folder(root)
    listing = list_videos(root, link_depth=ANY_DEPTH * allow_links)
    files: dict[str, list[Path]] = defaultdict(list)
    for path in listing.videos:
        files[path.stem].append(path)
    splits: dict[str, list[VideoRow]] = defaultdict(list)
    absent: dict[str, list[VideoRow]] = defaultdict(list)
    for source in _kinetics_tables(root, annotations):
        for place, values in read_table(source, _KINETICS_COLUMNS):
            part = _split_name(place, values.get("split") or part_word(source))
            row = _kinetics_row(place, values, root, files)
            (splits if row.path.stem in files else absent)[part].append(row)
    rows = [row for part in splits.values() for row in part]
    notes = listing.notes(root)
    require_videos(rows, root, "files <youtube_id>_<start:06d>_<end:06d>.mp4 as the CSV lists them", notes)
    labels = {row.label for row in rows}
    lost = sorted({row.label for part in absent.values() for row in part} - labels)
    if lost:
        raise UserError(
            f"classes without a single video under {root}. {name_some(lost)}. Fetch some, or take their lines out "
            "of the CSV"
        )
    gone = {part: len(lacking) for part, lacking in absent.items() if part not in splits}
    notes += [f"none of the {count} videos of the part {part} is there" for part, count in gone.items()]
    return Annotations(
        tuple(sorted(labels)),
        {part: tuple(rows) for part, rows in splits.items()},
        absent=tuple(row.path for part in absent.values() for row in part),
        notes=tuple(notes),
    )


def _kinetics_tables(root: Path, annotations: Path | None) -> list[Path]:
    if annotations is not None and not annotations.is_dir():
        return [annotations]
    places = [annotations] if annotations is not None else [root, root / "annotations"]
    for place in places:
        tables = [path for path in sorted(place.glob("*.csv")) if part_of(part_word(path))]
        if tables:
            return tables
    raise UserError(f"no train.csv, val.csv or test.csv in {name_some(places)}; set data.annotations to the CSV")


def _kinetics_row(place: str, values: Mapping[str, str], root: Path, files: Mapping[str, list[Path]]) -> VideoRow:
    label, source = values["label"], values["youtube_id"]
    start, end = (_seconds(place, column, values, math.nan) for column in ("time_start", "time_end"))
    if not label or not source or not 0 <= start < end < math.inf:
        raise UserError(f"{place}: expected a label, a video id and 0 <= time_start < time_end, got {dict(values)}")
    stem = f"{source}_{int(start):06d}_{int(end):06d}"
    found = files.get(stem, [root / label / f"{stem}.mp4"])
    # A clip with two labels may lie in two class folders; folders are named with spaces or underscores.
    same_label = [path for path in found if composed(path.parent.name).replace("_", " ") == label.replace("_", " ")]
    path = (same_label or found)[0]
    return VideoRow(path, label, source, name=composed(path.relative_to(root).as_posix()))
