"""What every annotation format becomes: rows of a video, its label and the source it was cut from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.content import FilePart
from pipeline.report.mp4 import is_own

VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
"""What a video file's name ends with, in lower case. Other files beside the videos are no business of a reader."""

_NUM_NAMED = 5
"""An error names this many of the things that are wrong, and counts them all."""


@dataclass(frozen=True)
class VideoRow:
    """One labelled video, or one labelled stretch ``[start, end)`` of it."""

    path: Path
    label: str
    group: str
    """The source that the video was cut from. A video whose source is unknown is a group of its own."""
    start_seconds: float = 0.0
    end_seconds: float | None = None
    """None: until the video ends."""
    name: str = ""
    """The path below the root, with forward slashes, for reports."""
    part: FilePart | None = None
    """Where its bytes are, if they are packed into a larger file; then there is nothing at the path."""

    @property
    def source(self) -> Path | FilePart:
        """What to open."""
        return self.part or self.path


@dataclass(frozen=True)
class Annotations:
    """All that a format says of a dataset."""

    labels: tuple[str, ...]
    """In the order of the class index: as published where the dataset has one, else sorted."""
    splits: dict[str, tuple[VideoRow, ...]]
    """Keys are among ``train``, ``val`` and ``test`` where the format says which is which, else ``all`` alone."""
    absent: tuple[Path, ...] = ()
    """Files that are listed but not there, where this is normal (Kinetics). Report them."""
    may_share_groups: bool = False
    """The published split itself has one source on both sides, and is taken as it is (HMDB51)."""


def name_some(names: Iterable[object]) -> str:
    """The first few names and how many there are: ``12: a, b, c, d, e, ...``."""
    listed = [str(name) for name in names]
    dots = ", ..." if len(listed) > _NUM_NAMED else ""
    return f"{len(listed)}: {', '.join(listed[:_NUM_NAMED])}{dots}"


def require_folder(root: Path) -> None:
    """Refuses a data root that is not a folder.

    Raises:
        UserError: ``root`` is not there or is a file.
    """
    if not root.exists():
        raise UserError(f"the data root {root} does not exist; set data.root to the folder that holds the videos")
    if not root.is_dir():
        raise UserError(f"the data root {root} is a file; set data.root to the folder that holds the videos")


def folders_in(folder: Path) -> list[Path]:
    """The visible folders directly in ``folder``, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def is_video(name: str) -> bool:
    """True for a visible file name with a video's suffix."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def videos_below(folder: Path) -> list[Path]:
    """Every video file in ``folder`` and the visible folders below it, by path; but those with labels drawn in that
    ``predict`` wrote there."""
    found = []
    for parent, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if is_video(name)]
    return sorted(path for path in found if not is_own(path))


def annotation_files(root: str | Path, annotations: str | Path | None = None) -> list[Path]:
    """Return where annotations may be, there or not: the usual places in the root, and what was named in their place,
    if that is a folder with what is in it."""
    usual = [Path(root, name) for name in ("manifest.csv", "manifest.jsonl", "groups.csv")]
    named = [Path(annotations)] if annotations else []
    return usual + [file for path in named for file in (path.iterdir() if path.is_dir() else [path])]


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Raises:
        UserError: it is not there or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check data.annotations and data.root") from None


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines that are not blank, each after its place ``file:line``. Any line ending will do."""
    lines = read_text(path).splitlines()
    return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def refuse_absent(rows: Iterable[VideoRow], root: Path, source: Path) -> None:
    """Refuses rows without a file.

    Raises:
        UserError: names ``source``, which lists them, the first few such files, and how many there are.
    """
    absent = [row.name for row in rows if not row.path.is_file()]
    if absent:
        raise UserError(
            f"{source} lists videos that are not under {root}. {name_some(dict.fromkeys(absent))}. "
            "Check data.root, fetch the files, or take their lines out"
        )


def require_videos(rows: Sequence[object], root: Path, expected: str) -> None:
    """Refuses a dataset without any video.

    Raises:
        UserError: there is no row. ``expected`` says what the reader looked for.
    """
    if not rows:
        raise UserError(
            f"no video found under {root}; expected {expected} (see data/README.md). "
            f"Video files end in {' '.join(sorted(VIDEO_SUFFIXES))}"
        )
