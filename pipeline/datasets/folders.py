"""Datasets as folders: one per class, or train/, val/ and test/ with one per class in each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.annotations import (
    ANY_DEPTH,
    Annotations,
    Listing,
    VideoRow,
    folders_in,
    list_videos,
    name_some,
    require_folder,
    require_videos,
)
from pipeline.datasets.delimited import UNKNOWN_GROUPS, composed, name_below, read_table
from pipeline.datasets.parts import choose_parts, notes_on_folders, part_of
from pipeline.errors import UserError
from pipeline.sources import is_video

_GROUP_COLUMNS = ("source_group", "group")
"""Names that the source column of ``groups.csv`` may have."""

_CUT_NAME = re.compile(r"(.+_g\d+)_c\d+")
"""UCF101 and kin: clips c01, c02, ... are cut from the source g01. As a plain folder these would leak."""


def read_folder(
    root: Path, annotations: Path | None = None, split: int = 1, *, allow_links: bool = False
) -> Annotations:
    """A folder per class; or ``train/`` and, where there are such, ``val/`` and ``test/``, by any usual spelling, with
    a folder per class in each (other folders beside these three are left alone, and named in the notes).

    A file is a group of its own, unless ``groups.csv`` (columns ``file`` and ``source_group`` or ``group``) names its
    source, where ``-1`` or nothing means unknown, or its own name does as UCF101's do (``v_X_g01_c02``).

    Args:
        root: the folder of the class folders, or of ``train/``.
        annotations: ``groups.csv``, if it is not in the root.
        split: does nothing.
        allow_links: enter linked folders inside a class folder.

    Raises:
        UserError: no video, an empty part or class folder, videos outside a class folder, groups.csv that does not name
            exactly the files that are there.
    """
    require_folder(root)
    chosen = choose_parts({path.name: bool(folders_in(path)) or not _loose(path) for path in folders_in(root)}, root)
    parts = {part: root / name for part, name in chosen.items()} or {"all": root}
    found = [one for part, folder in parts.items() for one in _classes(part, folder, allow_links)]
    notes = _notes(root, chosen, found)
    files = [path for one in found for path in one.listing.videos]
    require_videos(files, root, "a folder of videos for each class, or train/, val/ and test/ with such folders", notes)
    _refuse_empty(parts, found)
    groups = _read_groups(root, annotations, files)
    splits: dict[str, list[VideoRow]] = {part: [] for part in parts}
    for one in found:
        splits[one.part] += [_row(path, one.label, root, groups) for path in one.listing.videos]
    labels = tuple(sorted({one.label for one in found}))
    return Annotations(labels, {part: tuple(rows) for part, rows in splits.items()}, notes=tuple(notes))


@dataclass(frozen=True)
class _Class:
    """One class folder of one part."""

    part: str
    folder: Path
    listing: Listing

    @property
    def label(self) -> str:
        """The folder's name."""
        return composed(self.folder.name)


def _loose(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if is_video(path.name) and path.is_file())


def _classes(part: str, folder: Path, allow_links: bool) -> list[_Class]:
    loose = _loose(folder)
    if loose:
        raise UserError(f"videos in {folder} outside a class folder. {name_some(loose)}. Move each into its class")
    return [_Class(part, path, list_videos(path, link_depth=ANY_DEPTH * allow_links)) for path in folders_in(folder)]


def _refuse_empty(parts: Mapping[str, Path], found: list[_Class]) -> None:
    for part, folder in parts.items():
        classes = [one for one in found if one.part == part]
        if not any(one.listing.videos for one in classes):
            raise UserError(f"the part {part} has no video: put class folders with videos into {folder}, or remove it")
        empty = [one.folder.name for one in classes if not one.listing.videos]
        if empty:
            raise UserError(
                f"class folders in {folder} without a video. {name_some(empty)}. Add videos, or take the folder out"
            )


def _notes(root: Path, chosen: Mapping[str, str], found: list[_Class]) -> list[str]:
    notes = notes_on_folders({path.name: len(list_videos(path).videos) for path in folders_in(root)}, chosen)
    inner = [path for one in found for path in folders_in(one.folder) if part_of(path.name)]
    if inner:
        names = name_some(path.relative_to(root).as_posix() for path in inner)
        notes.append(f"folders in a class that are called like a part of the data are read as its videos. {names}")
    links, unread = ([path for one in found for path in getattr(one.listing, name)] for name in ("links", "unread"))
    return notes + Listing((), tuple(links), tuple(unread)).notes(root)


def _row(path: Path, label: str, root: Path, groups: Mapping[str, str]) -> VideoRow:
    name = composed(path.relative_to(root).as_posix())
    cut = _CUT_NAME.fullmatch(path.stem)
    return VideoRow(path, label, groups.get(name, f"{label}/{cut[1]}" if cut else name), name=name)


def _read_groups(root: Path, annotations: Path | None, files: list[Path]) -> dict[str, str]:
    """Return the source of each file by its name below the root; nothing where there is no groups.csv."""
    source = annotations or root / "groups.csv"
    if annotations is None and not source.exists():
        return {}
    records = read_table(source, ("file",))
    columns = [column for column in _GROUP_COLUMNS if records and column in records[0][1]]
    if not columns:
        raise UserError(
            f"{source}:1: expected the columns file and {' or '.join(_GROUP_COLUMNS)}, and a line per video"
        )
    groups: dict[str, str] = {}
    for place, values in records:
        name, _ = name_below(place, values["file"], root)
        group = name if values[columns[0]] in UNKNOWN_GROUPS else values[columns[0]]
        if groups.setdefault(name, group) != group:
            raise UserError(f"{place}: {name} has the source {group!r} here and {groups[name]!r} above; keep one line")
    names = {composed(path.relative_to(root).as_posix()) for path in files}
    for what, differing, cure in (
        ("does not name videos that are there", names - groups.keys(), "Add them, with -1 for an unknown source"),
        ("names videos that are not there", groups.keys() - names, "Take them out, or check data.root"),
    ):
        if differing:
            raise UserError(f"{source} {what}. {name_some(sorted(differing))}. {cure}")
    return groups
