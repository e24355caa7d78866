"""The three parts of a dataset: one vocabulary for all formats, and the choice of a tree's folders that are parts.

A folder called ``train`` may be a part, or a class of trains. It is a part if it holds class folders; ``val`` and
``test`` are parts beside such a ``train``, or where there is nothing but parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.annotations import name_some
from pipeline.errors import UserError

PARTS = ("train", "val", "test")
_SPELLINGS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val", "development": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""Spellings of the three parts in published data, in lower case."""
_NAME = re.compile(r"([a-z]+?)(?:[ _.-]*(?:sets?|data|split|part|videos|images))?(?:[ _.-]*20\d\d)?")


def part_of(name: str) -> str | None:
    """Return the part that a usual spelling names, such as ``Training`` or ``VALID_SET``; None for any other name."""
    match = _NAME.fullmatch(name.strip().lower())
    return _SPELLINGS.get(match[1]) if match else None


def part_word(path: Path) -> str:
    """Return the word of a file's name that may be a part: ``val`` of ``kinetics_400_val.csv``."""
    return path.stem if part_of(path.stem) else re.split(r"[\W_]", path.stem)[-1]


def choose_parts(folders: Mapping[str, bool], where: object) -> dict[str, str]:
    """Return part -> folder for the folders of a data root that are parts of it; nothing if they are classes.

    Args:
        folders: name of each -> False if it holds videos directly, and no class folders.
        where: the root, for errors.

    Raises:
        UserError: two folders stand for one part.
    """
    named = {name: part for name, has_classes in folders.items() if has_classes and (part := part_of(name))}
    if "train" not in named.values() and len(named) < len(folders):
        return {}
    parts: dict[str, str] = {}
    for name, part in named.items():
        if part in parts:
            raise UserError(f"{where} has two folders for the part {part}: {parts[part]} and {name}; join them")
        parts[part] = name
    return parts


def notes_on_folders(num_videos: Mapping[str, int], parts: Mapping[str, str]) -> list[str]:
    """Return texts about folders that look like a part and are none, or are not read beside the parts.

    Args:
        num_videos: in each folder of the root.
        parts: from ``choose_parts``.
    """
    others = {name: count for name, count in num_videos.items() if name not in parts.values() and count}
    if parts:
        beside = [f"{name} ({count} file{'s' if count > 1 else ''})" for name, count in others.items()]
        return [f"folders beside {', '.join(parts.values())} are not read. {name_some(beside)}"] if beside else []
    alike = [name for name in others if part_of(name)]
    if not alike:
        return []
    return [
        f"folders that are called like a part of the data are read as classes. {name_some(alike)}. If they are parts, "
        "sort the videos of each into class folders in it, and call one of them train"
    ]
