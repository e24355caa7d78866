"""The common form of all annotation formats: rows of a video, its label and the source it was cut from."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from glob import escape, glob
from pathlib import Path

from pipeline.buckets import BucketPath
from pipeline.config import SequenceConfig
from pipeline.errors import UserError
from pipeline.files.content import FilePart
from pipeline.report.own import is_own
from pipeline.sources import VIDEO_SUFFIXES, has_address, is_video, shown_path

_UNREAD_SUFFIXES = frozenset([
    ".amv", ".apng", ".bik", ".braw", ".crdownload", ".flc", ".fli", ".ismv", ".m3u8", ".mjpeg", ".mjpg", ".mng",
    ".mpd", ".part", ".r3d", ".roq", ".smk", ".swf", ".yuv",
])  # fmt: skip
"""Videos of kinds that the decoders do not read, lists of videos, and halves of a download."""

ANY_DEPTH = 1000
"""For ``list_videos``: enter every linked folder."""

_NUM_NAMED = 5
"""Number of faulty things that an error names; it counts them all."""


@dataclass(frozen=True)
class VideoRow:
    """One labelled video, or one labelled stretch ``[start, end)`` of it."""

    path: Path
    label: str
    """Empty: a stretch, or a whole video, in which nothing of interest happens (task timeline)."""
    group: str
    """The source that the video was cut from. A video whose source is unknown is a group of its own."""
    start_seconds: float = 0.0
    end_seconds: float | None = None
    """None: until the video ends."""
    name: str = ""
    """The path below the root, with forward slashes, for reports."""
    part: FilePart | None = None
    """Place of its bytes, if they are packed into a larger file; then there is nothing at the path."""
    looked_at: bool = True
    """False: nobody has looked at this stretch, which has no label; where it overlaps others, they count."""

    @property
    def source(self) -> Path | FilePart:
        """The file to open, or the part of one."""
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
    may_lack_classes: bool = False
    """A held-out part of the published split may lack a class: few long videos do not show everything."""
    notes: tuple[str, ...] = ()
    """Texts to report: files left alone though they look like data, or read as something that they may not be."""


def whole_video(row: VideoRow, *, looked_at: bool = True) -> VideoRow:
    """Return a row of a stretch's whole video, without label."""
    return replace(row, label="", start_seconds=0.0, end_seconds=None, looked_at=looked_at)


def as_stretch(row: VideoRow, config: SequenceConfig) -> VideoRow:
    """Return a row of a timeline without the labels that stand for none: of the background, of what is unlabelled."""
    if row.label == config.unlabelled_label:
        return replace(row, label="", looked_at=False)
    return replace(row, label="") if row.label == config.background_label else row


def name_some(names: Iterable[object]) -> str:
    """The first few names and how many there are: ``12: a, b, c, d, e, ...``."""
    listed = [shown_path(str(name)) for name in names]
    dots = ", ..." if len(listed) > _NUM_NAMED else ""
    return f"{len(listed)}: {', '.join(listed[:_NUM_NAMED])}{dots}"


def local_folder(name: str) -> Path:
    """Return the folder of this machine that a name stands for.

    Raises:
        UserError: it is an address.
    """
    if has_address(name):
        raise UserError(
            f"{shown_path(name)}: labels are kept beside the videos, so these must be in a folder of this machine; "
            "copy them there, or train on them where they are with clipgru train --data.root"
        )
    return Path(name)


def require_folder(root: Path) -> None:
    """Refuse a data root that is not a folder.

    Raises:
        UserError: ``root`` is not there or is a file.
    """
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        raise UserError(f"the data root {root} does not exist; name the folder that holds the videos") from None
    except OSError as error:
        raise UserError(f"the data root {root} cannot be looked at: {error.strerror}") from error
    if not is_folder:
        raise UserError(f"the data root {root} is a file; name the folder that holds the videos")


def folders_in(folder: Path) -> list[Path]:
    """The visible folders directly in ``folder``, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


@dataclass(frozen=True)
class Listing:
    """The videos in a folder and in the visible folders below it, and files that look like some but are left alone."""

    videos: tuple[Path, ...]
    """By path."""
    links: tuple[Path, ...] = ()
    """Linked folders that were not entered."""
    unread: tuple[Path, ...] = ()
    """Files of kinds that are not read."""
    own: tuple[Path, ...] = ()
    """Videos with labels drawn in that ``predict`` wrote."""

    def notes(self, root: Path, cure: str = "Set data.allow_links true, or put the files there") -> list[str]:
        """Return texts about the things left alone, by their names below ``root``; ``cure`` is for linked folders."""
        said = {
            f"linked folders are not entered. {{}}. {cure}": self.links,
            "files are of kinds that are not read. {}. Convert them, or take them out": self.unread,
            "videos were written by clipgru predict, and are left alone. {}": self.own,
        }
        return [
            text.format(name_some(path.relative_to(root).as_posix() for path in paths))
            for text, paths in said.items()
            if paths
        ]


def list_videos(
    folder: Path, suffixes: Set[str] = VIDEO_SUFFIXES, unread: Set[str] = _UNREAD_SUFFIXES, *, link_depth: int = 0
) -> Listing:
    """Look for videos in ``folder`` and below: the one rule for which files of a folder are videos. Of a bucket all
    objects below count.

    Args:
        folder: may itself be a link.
        suffixes: of the files that are wanted.
        unread: of those that are worth a note.
        link_depth: linked folders so many levels below are entered, each folder once.
    """
    if isinstance(folder, BucketPath):
        objects = folder.objects()
        seen, left_out = (tuple(path for path in objects if is_video(path.name, some)) for some in (suffixes, unread))
        return Listing(seen, unread=left_out)
    found: tuple[list[Path], list[Path], list[Path]] = [], [], []
    videos, links, left = found
    entered = {os.path.realpath(folder)}
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        depth = len(Path(parent).relative_to(folder).parts) + 1
        visible = [Path(parent, name) for name in sorted(subfolders) if not name.startswith(".")]
        subfolders.clear()
        for path in visible:
            if path.is_symlink() and depth > link_depth:
                links.append(path)
            elif os.path.realpath(path) not in entered:
                entered.add(os.path.realpath(path))
                subfolders.append(path.name)
        videos += [Path(parent, name) for name in files if is_video(name, suffixes)]
        left += [Path(parent, name) for name in files if is_video(name, unread)]
    own = [path for path in videos if is_own(path)]
    videos[:] = [path for path in videos if path not in own]
    return Listing(*(tuple(sorted(paths)) for paths in (*found, own)))


_MS_TCN_FILES = ("mapping.txt", "splits/*.bundle", "groundTruth/*")


def annotation_files(root: str | Path, annotations: str | Path | None = None) -> list[Path]:
    """Return the paths where annotations may be, existing or not: the usual files in the root, those of MS-TCN's
    layout, and the file named, or the files in the folder named."""
    usual = [Path(root, name) for name in ("manifest.csv", "manifest.jsonl", "groups.csv")]
    roots = escape(str(root)).replace("{split}", "*")
    usual += [Path(name) for part in _MS_TCN_FILES for name in glob(f"{roots}/{part}")]
    named = [Path(annotations)] if annotations else []
    return usual + [file for path in named for file in (path.iterdir() if path.is_dir() else [path])]


def is_labelled_folder(folder: Path) -> bool:
    """Return true for a folder of long videos with a manifest of stretches, as ``clipgru label`` writes it."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return False
    with manifest.open(encoding="utf-8-sig", errors="replace") as lines:
        return "end_seconds" in next(lines, "").lower()


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

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
    lines = read_text(path).split("\n")  # not splitlines: a label may hold one of Unicode's other line ends
    return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def refuse_absent(rows: Iterable[VideoRow], root: Path, source: Path) -> None:
    """Refuse rows without a file.

    Raises:
        UserError: names ``source``, which lists them, the first few such files, and how many there are.
    """
    absent = [row.name for row in rows if not row.path.is_file()]
    if absent:
        raise UserError(
            f"{source} lists videos that are not under {root}. {name_some(dict.fromkeys(absent))}. "
            "Check data.root, fetch the files, or take their lines out"
        )


def require_videos(rows: Sequence[object], root: Path, expected: str, notes: Iterable[str] = ()) -> None:
    """Refuse a dataset without any video.

    Raises:
        UserError: there is no row. ``expected`` says what the reader looked for, ``notes`` what it found instead.
    """
    if not rows:
        found = "".join(f". There are {note}" for note in notes)
        raise UserError(f"no video found under {root}; expected {expected} (see data/README.md){found}")
