"""Videos that a model has seen: the digests of a dataset's videos, and the rows that are left out of a judgement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath

from pipeline.config import DataConfig, DecodeConfig
from pipeline.datasets.annotations import VideoRow, name_some
from pipeline.datasets.formats import format_of
from pipeline.datasets.images import PictureFiles
from pipeline.errors import DecodeError
from pipeline.known_videos import DIGEST_LENGTH, MAX_WHOLE_BYTES, KnownVideo, KnownVideos, content_digest
from pipeline.machine import num_cores
from pipeline.ranks import ALONE, Ranks

_VIDEOS_A_ROUND = 256  # no rank has to wait long for the others


class Contents:
    """The content of videos and pictures, each read once.

    Args:
        data: where they are.
    """

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self._sizes: dict[Path, int] = {}
        self._digests: dict[Path, str] = {}
        self._open_pictures = format_of(data).open_pictures
        self._pictures: PictureFiles | None = None

    def _picture(self, row: VideoRow) -> bytes:
        """Return the bytes of a picture in an archive."""
        if self._pictures is None:
            assert self._open_pictures is not None
            self._pictures = self._open_pictures(self._data, DecodeConfig())
        return self._pictures.content(row.path.relative_to(self._data.root).as_posix())

    def _is_in_archive(self, row: VideoRow) -> bool:
        return self._open_pictures is not None and not row.path.is_file()

    def num_bytes(self, row: VideoRow) -> int:
        """Return the size of a row's file; 0 if it cannot be read."""
        if row.path not in self._sizes:
            self._sizes[row.path] = self._measure(row)
        return self._sizes[row.path]

    def _measure(self, row: VideoRow) -> int:
        try:
            if row.part:
                return row.part.num_bytes
            return len(self._picture(row)) if self._is_in_archive(row) else row.path.stat().st_size
        except (OSError, DecodeError):
            return 0

    def digest(self, row: VideoRow) -> str:
        """Return the ``content_digest`` of a row's file; empty if it cannot be read, or is empty."""
        if row.path not in self._digests:
            self._digests[row.path] = self._read(row)
        return self._digests[row.path]

    def _read(self, row: VideoRow) -> str:
        num_bytes, part = self.num_bytes(row), row.part
        if not num_bytes:
            return ""
        if part and num_bytes <= MAX_WHOLE_BYTES:
            return part.sha256[:DIGEST_LENGTH]
        try:
            if self._is_in_archive(row):
                return content_digest(BytesIO(self._picture(row)), 0, num_bytes)
            with (part.path if part else row.path).open("rb") as stream:
                return content_digest(stream, part.start_byte if part else 0, num_bytes)
        except (OSError, DecodeError):
            return ""

    def digest_all(
        self, rows: Iterable[VideoRow], progress: Callable[[], None] = lambda: None, ranks: Ranks = ALONE
    ) -> None:
        """Read the rows that were not read yet, several at a time; of several ranks each its share. ``progress`` is
        called after each."""
        left = list({row.path: row for row in rows}.values())
        with ThreadPoolExecutor(max(1, num_cores() // ranks.local_count)) as threads:
            for start in range(0, len(left), _VIDEOS_A_ROUND * ranks.count):
                mine = left[start : start + _VIDEOS_A_ROUND * ranks.count][ranks.index :: ranks.count]
                for _ in threads.map(self.digest, mine):
                    progress()
                ranks.wait()
        for others in ranks.gather(self._digests):
            self._digests |= others
        self._pictures = None  # an archive may hold all of its pictures in memory

    def known(self, rows: Iterable[VideoRow]) -> tuple[KnownVideo, ...]:
        """Return the facts about rows that a model file keeps."""
        return tuple(
            KnownVideo(
                row.name or row.path.name, self.num_bytes(row), self.digest(row), row.start_seconds, row.end_seconds
            )
            for row in rows
        )


def join_copies(rows: Sequence[VideoRow], contents: Contents) -> tuple[list[VideoRow], list[str]]:
    """Return the rows with all copies of a file, and all rows of their sources, in one group; and texts to report.

    Folds that have copies on both sides would praise a model for what it has learned by heart.
    """
    joined: dict[str, str] = {}  # a group -> the one that it is counted to

    def group_of(row: VideoRow) -> str:
        group = row.group
        while group in joined:
            group = joined[group]
        return group

    first: dict[str, VideoRow] = {}
    copies = []
    for row in rows:
        digest = contents.digest(row)
        other = first.setdefault(digest, row) if digest else row
        if other.path != row.path:
            copies.append(f"{row.name} = {other.name}")
        if group_of(other) != group_of(row):
            joined[group_of(row)] = group_of(other)
    notes = [f"copies of one video count as one source. {name_some(copies)}"] if copies else []
    return [replace(row, group=group_of(row)) for row in rows], notes


def _stem(name: str) -> str:
    """Return a name without its suffix: a video in another container is mostly the same one."""
    return PurePosixPath(name).with_suffix("").as_posix() if name else name


TRAINED, VALIDATED = "trained on", "validated on"
CHANGED, SAME_SOURCE = "trained on, and changed since", "of the source of one of those"


@dataclass(frozen=True)
class LeftOut:
    """A video that a model cannot be judged by."""

    name: str
    """Path below the data's root."""
    why: str
    """``TRAINED``, ``VALIDATED``, ``CHANGED`` or ``SAME_SOURCE``."""


@dataclass(frozen=True)
class Judgeable:
    """Rows that a model may be judged by, and those that it may not."""

    rows: tuple[VideoRow, ...]
    left_out: tuple[LeftOut, ...]
    namesakes: tuple[str, ...] = ()
    """Among the rows, those that have the name of a known video and nothing else in common with it."""
    by_video: bool = False
    """True where all rows of a video are judged together, as those of timelines are: they count as one."""

    def notes(self) -> list[str]:
        """Return texts about the rows left out, and about namesakes."""
        notes = []
        if self.left_out:
            names: dict[str, list[str]] = defaultdict(list)
            for left in self.left_out:
                names[left.why].append(left.name)
            reasons = "; ".join(f"{why}, {name_some(some)}" for why, some in names.items())
            num_kept = len({row.name for row in self.rows}) if self.by_video else len(self.rows)
            notes.append(f"left out {len(self.left_out)} of {len(self.left_out) + num_kept} videos: {reasons}")
        if self.namesakes:
            notes.append(
                f"judged as new, though their names are those of training videos: {name_some(self.namesakes)}. If they "
                "are the same videos, encoded anew, the figures flatter"
            )
        return notes


class Unseen:
    """Tells the rows of a dataset that a model may be judged by.

    A video is known by its content, under whatever name; a stretch of it if it overlaps one that is known. In the data
    that the model was trained on, it is also known by its name, if the file has been changed since; and so is every
    video of a source of which one is known, because a split never has one source on both sides.

    Args:
        known: videos that the model has seen.
        every_row: rows of the whole dataset.
        contents: content of its videos.
        may_share_groups: one source on both sides is as it should be (``Annotations.may_share_groups``).
    """

    def __init__(
        self,
        known: KnownVideos,
        every_row: Sequence[VideoRow],
        contents: Contents,
        *,
        may_share_groups: bool = False,
    ) -> None:
        self._every_row, self._contents, self._may_share_groups = every_row, contents, may_share_groups
        self._by_content: dict[tuple[int, str], list[tuple[str, KnownVideo]]] = defaultdict(list)
        self._by_name: dict[str, list[tuple[str, KnownVideo]]] = defaultdict(list)
        for why, videos in ((TRAINED, known.train + known.earlier), (VALIDATED, known.val)):
            for video in videos:
                if video.digest:
                    self._by_content[video.num_bytes, video.digest].append((why, video))
                    self._by_name[_stem(video.name)].append((why, video))
        self._sizes = {num_bytes for num_bytes, _ in self._by_content}

    def judgeable(self, rows: Sequence[VideoRow], *, validated: bool = False) -> Judgeable:
        """Return those of some rows that may be judged by, and those left out.

        Args:
            rows: those asked for.
            validated: those that chose the epoch may be judged by, too.
        """
        groups = {row.group for row in rows}
        related = [row for row in self._every_row if row.group in groups]
        self._contents.digest_all(row for row in related if self._contents.num_bytes(row) in self._sizes)
        causes: dict[VideoRow, str] = {}
        namesakes: set[VideoRow] = set()
        for row in related:
            why, same_content = self._why(row)
            if why is None or (validated and why == VALIDATED):
                continue
            if same_content or self._is_trained_on:
                causes[row] = why if same_content else CHANGED
            else:
                namesakes.add(row)
        if not self._may_share_groups:
            known_groups = {row.group for row in causes}
            causes = {row: SAME_SOURCE for row in rows if row.group in known_groups} | causes
        left_out = tuple(LeftOut(row.name, causes[row]) for row in rows if row in causes)
        names = tuple(row.name for row in rows if row in namesakes)
        return Judgeable(tuple(row for row in rows if row not in causes), left_out, names)

    def _why(self, row: VideoRow) -> tuple[str | None, bool]:
        """Return the way in which a row is known, None if it is not; and True if by its content."""
        of_content = self._of_content(row)
        for why, video in of_content or self._by_name.get(_stem(row.name), []):
            if video.overlaps(row.start_seconds, row.end_seconds):
                return why, bool(of_content)
        return None, False

    def _of_content(self, row: VideoRow) -> list[tuple[str, KnownVideo]]:
        num_bytes = self._contents.num_bytes(row)
        return self._by_content.get((num_bytes, self._contents.digest(row)), []) if num_bytes in self._sizes else []

    @cached_property
    def _is_trained_on(self) -> bool:
        """True if this is the data of the training, or was: one video at least is there as it was."""
        named = (row for row in self._every_row if _stem(row.name) in self._by_name)
        return any(video.name == row.name for row in named for _, video in self._of_content(row))
