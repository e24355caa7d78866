"""Datasets as folders: one per class, or train/, val/ and test/ with one per class in each."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.datasets.annotations import (
    Annotations,
    VideoRow,
    folders_in,
    is_video,
    name_some,
    require_folder,
    require_videos,
    videos_below,
)
from pipeline.datasets.tables import read_table
from pipeline.errors import UserError

GROUP_COLUMNS = ("source_group", "group")
"""What the column of ``groups.csv`` with the source may be called."""

_UNKNOWN_SOURCE = ("", "-1")
_CUT_NAME = re.compile(r"(.+_g\d+)_c\d+")
"""UCF101 and kin: clips c01, c02, ... are cut from the source g01. As a plain folder these would leak."""


def read_folder(root: Path, annotations: Path | None = None, split: int = 1) -> Annotations:
    """A folder per class; or ``train/`` and, where there are such, ``val/`` and ``test/``, with a folder per class in
    each (other folders beside these three are left alone).

    A file is a group of its own, unless ``groups.csv`` (columns ``file`` and ``source_group`` or ``group``) names its
    source, where ``-1`` or nothing means unknown, or its own name does as UCF101's do (``v_X_g01_c02``).

    Args:
        root: the folder of the class folders, or of ``train/``.
        annotations: ``groups.csv``, if it is not in the root.
        split: does nothing.

    Raises:
        UserError: no video, an empty class folder, videos outside a class folder, groups.csv that does not name
            exactly the files that are there.
    """
    require_folder(root)
    parts = {part: root / part for part in ("train", "val", "test") if _has_folders(root / part)}
    if "train" not in parts:  # a folder "train" with videos in it is a class
        parts = {"all": root}
    found = {part: _class_videos(folder) for part, folder in parts.items()}
    files = [path for classes in found.values() for paths in classes.values() for path in paths]
    require_videos(files, root, "a folder of videos for each class, or train/, val/ and test/ with such folders")
    groups = _read_groups(root, annotations, files)
    splits = {
        part: tuple(_row(path, label, root, groups) for label, paths in classes.items() for path in paths)
        for part, classes in found.items()
    }
    labels = {label for classes in found.values() for label in classes}
    return Annotations(tuple(sorted(labels)), splits)


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and bool(folders_in(folder))


def _class_videos(folder: Path) -> dict[str, list[Path]]:
    loose = sorted(path.name for path in folder.iterdir() if is_video(path.name) and path.is_file())
    if loose:
        raise UserError(f"videos in {folder} outside a class folder. {name_some(loose)}. Move each into its class")
    videos = {path.name: videos_below(path) for path in folders_in(folder)}
    empty = [label for label, paths in videos.items() if not paths]
    if empty and len(empty) < len(videos):
        raise UserError(
            f"class folders in {folder} without a video. {name_some(empty)}. Add videos, or take the folder out"
        )
    return videos


def _row(path: Path, label: str, root: Path, groups: dict[str, str]) -> VideoRow:
    name = path.relative_to(root).as_posix()
    cut = _CUT_NAME.fullmatch(path.stem)
    return VideoRow(path, label, groups.get(name, f"{label}/{cut[1]}" if cut else name), name=name)


def _read_groups(root: Path, annotations: Path | None, files: list[Path]) -> dict[str, str]:
    """The source of each file by its name below the root; nothing where there is no groups.csv."""
    source = annotations or root / "groups.csv"
    if annotations is None and not source.exists():
        return {}
    records = read_table(source, ("file",))
    columns = [column for column in GROUP_COLUMNS if records and column in records[0][1]]
    if not columns:
        raise UserError(f"{source}:1: expected the columns file and {' or '.join(GROUP_COLUMNS)}, and a line per video")
    groups = {values["file"]: values[columns[0]] for _, values in records}
    names = {path.relative_to(root).as_posix() for path in files}
    _refuse_difference(source, names - groups.keys(), "does not name videos that are there", "Add them, with -1 for")
    _refuse_difference(source, groups.keys() - names, "names videos that are not there", "Take them out, or check")
    return {name: name if group in _UNKNOWN_SOURCE else group for name, group in groups.items()}


def _refuse_difference(source: Path, names: set[str], what: str, cure: str) -> None:
    if names:
        ending = "an unknown source" if cure.startswith("Add") else "data.root"
        raise UserError(f"{source} {what}. {name_some(sorted(names))}. {cure} {ending}")
