"""The same video under different names: a path in one file, a name without folder or suffix in another."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pipeline.errors import UserError
from pipeline.sources import VIDEO_SUFFIXES
from pipeline.timeline.labelled import LabelledVideo

_Spelling = Callable[[str], str]


def _path_without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _last_part(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


SPELLINGS: tuple[_Spelling, ...] = (
    str,
    _last_part,
    _path_without_suffix,
    lambda name: _path_without_suffix(_last_part(name)),
)
"""Ways to read a name, the strictest first."""


def flat_names(videos: Sequence[LabelledVideo]) -> dict[str, LabelledVideo]:
    """Name files after videos, without folders and suffixes where that tells them apart, and with them where not.

    Raises:
        UserError: two videos have one name.
    """
    for spelling in (lambda name: _path_without_suffix(_last_part(name)), _last_part, _joined):
        named = {_as_file_name(spelling(video.name)) or "video": video for video in videos}
        if len({name.lower() for name in named}) == len(videos):
            return named
    raise UserError("two videos have one name, so that each cannot have a file of its own; name each once")


def _as_file_name(name: str) -> str:
    return re.sub(r"[\x00-\x1f/\\:]", "_", name.lstrip("."))


def _joined(name: str) -> str:
    return "_".join(part for part in re.split(r"[\\/:]+", name) if part not in ("", ".", ".."))


def rename_as(truth: Sequence[LabelledVideo], predictions: Sequence[LabelledVideo]) -> list[LabelledVideo]:
    """Give predictions the names that the truth has for their videos.

    Names are compared whole, then without folders, without a video's suffix, without both: in the first way that
    matches the most videos among those in which no two videos of a side have the same name.
    """
    matches = [_matches(truth, predictions, spelling) for spelling in SPELLINGS]
    best = max(matches, key=len)  # the first of those
    return [replace(video, name=best.get(video.name, video.name)) for video in predictions]


def _matches(
    truth: Sequence[LabelledVideo], predictions: Sequence[LabelledVideo], spelling: _Spelling
) -> dict[str, str]:
    """Name of a prediction -> name in the truth."""
    names = [{video.name for video in side} for side in (truth, predictions)]
    theirs, ours = ({spelling(name): name for name in side} for side in names)
    if [len(theirs), len(ours)] != [len(side) for side in names]:
        return {}
    return {name: theirs[spelled] for spelled, name in ours.items() if spelled in theirs}
