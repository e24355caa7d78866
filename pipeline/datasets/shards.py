"""Datasets packed into a few large tar files, for disks and networks that are slow with many small ones.

The tar files have the layout of WebDataset (github.com/webdataset/webdataset), for other readers: the members of a
sample stand together and share their name up to the first dot.

    00000012.avi    the video's own bytes
    00000012.cls    the index of its label, if it has one label only
    00000012.json   its name, and its rows: split, label, group, start_seconds, end_seconds

Here they are read through ``index.json``, which has all rows in their order and the place of each video in its tar. A
tar is not compressed, so any video can be read by itself: epochs, resuming and the shares of several processes are then
those of a dataset in files, exactly.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from pipeline.config import require
from pipeline.datasets.annotations import Annotations, VideoRow, read_text, require_folder
from pipeline.datasets.parts import part_of
from pipeline.errors import UserError
from pipeline.files.content import FilePart
from pipeline.files.failures import reason_of
from pipeline.files.lock import LOCK_NAME
from pipeline.files.writing import OutputFile, write_atomically
from pipeline.schema import check_labels, read_checked, read_json

FORMAT_VERSION = 1
_INDEX_NAME = "index.json"


@dataclass(frozen=True)
class _Packed:
    """Counts of the videos, tars and bytes written by ``write_shards``."""

    num_videos: int
    num_shards: int
    num_bytes: int


@dataclass(frozen=True)
class _Sample:
    """A video: its name, and its place in its tar."""

    name: str
    start_byte: int
    num_bytes: int
    sha256: str
    shard: str


@dataclass(frozen=True)
class _Facts:
    """A row: the number of its video, and the fields of its ``VideoRow``."""

    sample: int
    label: str
    group: str
    start_seconds: float
    end_seconds: float | None
    looked_at: bool = True


@dataclass(frozen=True)
class _Index:
    """Content of the index, in the order of the file."""

    format: int
    labels: tuple[str, ...]
    may_share_groups: bool
    absent: tuple[str, ...]
    shards: dict[str, int]
    """Name and bytes of each tar."""
    samples: tuple[_Sample, ...]
    splits: dict[str, tuple[_Facts, ...]]

    def __post_init__(self) -> None:
        check_labels(self.labels, "labels")
        labels = set(self.labels)
        for number, sample in enumerate(self.samples):
            end = sample.start_byte + sample.num_bytes
            is_inside = 0 <= sample.start_byte <= end <= self.shards.get(sample.shard, -1)
            is_named = Path(sample.shard).name == sample.shard and ".." not in sample.name.split("/")
            require(is_inside and is_named, f"samples[{number}]: its place in its tar, or its name, cannot be")
        for part, rows in self.splits.items():
            require(part == "all" or part_of(part) is not None, f"splits.{part}: no part of a dataset")
            for number, row in enumerate(rows):
                end_seconds = math.inf if row.end_seconds is None else row.end_seconds
                is_timed = 0 <= row.start_seconds < end_seconds
                is_known = row.label in labels | {""} and 0 <= row.sample < len(self.samples)
                require(is_timed and is_known, f"splits.{part}[{number}]: its video, label or times cannot be")


def write_shards(
    annotations: Annotations, folder: Path, max_shard_bytes: int, seed: int, progress: Callable[[], None]
) -> _Packed:
    """Packs every video of a dataset, each once, into ``<split>-<number>.tar``; the index comes last.

    Videos of a split are in an order drawn by the seed, so that a reader that goes from front to back meets all
    classes. The same videos and the same seed give the same bytes.

    Args:
        annotations: the rows; a video that several rows or splits share stands with the first.
        folder: new or empty.
        max_shard_bytes: a tar is closed before it passes this, unless one video alone does.
        seed: of the order.
        progress: called after each video.

    Raises:
        UserError: the folder is not empty, a video cannot be read, or the disk is full.
    """
    if folder.exists() and any(path.name != LOCK_NAME for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose a new folder for the shards")
    rows = _rows_by_path(annotations)
    samples: list[_Sample] = []
    numbers: dict[Path, int] = {}
    try:
        for part, videos in _videos_by_split(annotations, seed).items():
            for shard, row, tar in _fill_tars(part, videos, folder, max_shard_bytes):
                number = numbers[row.path] = len(samples)
                samples.append(_add_video(tar, f"{number:08d}", row, shard))
                _add_labels(tar, f"{number:08d}", samples[-1].name, rows[row.path], annotations.labels)
                progress()
        shards = {sample.shard: (folder / sample.shard).stat().st_size for sample in samples}
        index = _Index(
            format=FORMAT_VERSION,
            labels=annotations.labels,
            may_share_groups=annotations.may_share_groups,
            absent=tuple(str(path) for path in annotations.absent),
            shards=shards,
            samples=tuple(samples),
            splits={
                part: tuple(_Facts(numbers[row.path], **_facts(row)) for row in members)
                for part, members in annotations.splits.items()
            },
        )
        content = asdict(index)
        for facts in chain.from_iterable(content["splits"].values()):
            if facts["looked_at"]:  # earlier versions do not know the word
                del facts["looked_at"]
        write_atomically(folder / _INDEX_NAME, json.dumps(content, ensure_ascii=False).encode())
    except OSError as error:
        raise UserError(f"cannot pack {error.filename or folder}: {reason_of(error)}") from error
    return _Packed(len(samples), len(shards), sum(shards.values()))


def _videos_by_split(annotations: Annotations, seed: int) -> dict[str, list[VideoRow]]:
    """A row of each video, by the first split that has it."""
    seen: set[Path] = set()
    videos: dict[str, list[VideoRow]] = {}
    for part, rows in annotations.splits.items():
        fresh = list({row.path: row for row in rows if row.path not in seen}.values())
        seen |= {row.path for row in fresh}
        order = Random(f"{seed}/{len(videos)}").sample(range(len(fresh)), len(fresh))
        videos[part] = [fresh[place] for place in order]
    return videos


def _fill_tars(
    part: str, videos: Sequence[VideoRow], folder: Path, max_shard_bytes: int
) -> Iterator[tuple[str, VideoRow, tarfile.TarFile]]:
    """For each video, in order, the name of the tar it belongs into, and that tar, open for it."""
    left = deque(videos)
    for number in count():
        if not left:
            return
        name = f"{part}-{number:06d}.tar"
        with _new_tar(folder / name) as tar:
            while left and (tar.offset == 0 or tar.offset + left[0].path.stat().st_size <= max_shard_bytes):
                yield name, left.popleft(), tar


@contextmanager
def _new_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar that gets its name when it is complete."""
    with (
        OutputFile(path) as output,
        tarfile.open(fileobj=output.stream, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        yield tar


def _rows_by_path(annotations: Annotations) -> dict[Path, list[dict[str, Any]]]:
    rows: dict[Path, list[dict[str, Any]]] = {}
    for part, members in annotations.splits.items():
        for row in members:
            rows.setdefault(row.path, []).append({"split": part} | _facts(row))
    return rows


def _facts(row: VideoRow) -> dict[str, Any]:
    facts = {name: getattr(row, name) for name in ("label", "group", "start_seconds", "end_seconds")}
    return facts if row.looked_at else facts | {"looked_at": False}


class _Hashing(io.RawIOBase):
    """A stream that is read once, and the digest of what was read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.content = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.content.update(block)
        return block


def _add_video(tar: tarfile.TarFile, key: str, row: VideoRow, shard: str) -> _Sample:
    member = tarfile.TarInfo(key + (row.path.suffix.lower() or ".video"))
    with row.path.open("rb") as stream:
        member.size = os.fstat(stream.fileno()).st_size
        hashing = _Hashing(stream)
        tar.addfile(member, hashing)
    blocks = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    start_byte = tar.offset - blocks  # the offset is where the next header goes
    return _Sample(row.name or row.path.name, start_byte, member.size, hashing.content.hexdigest(), shard)


def _add_labels(
    tar: tarfile.TarFile, key: str, name: str, rows: Sequence[dict[str, Any]], labels: Sequence[str]
) -> None:
    contents = {".json": json.dumps({"name": name, "rows": rows}, ensure_ascii=False)}
    found = {row["label"] for row in rows}
    if len(found) == 1 and "" not in found:
        contents[".cls"] = str(labels.index(found.pop()))
    for suffix, text in contents.items():
        member = tarfile.TarInfo(key + suffix)
        member.size = len(text.encode())
        tar.addfile(member, io.BytesIO(text.encode()))


def read_shards(root: Path, annotations: Path | None = None, split: int = 1) -> Annotations:
    """Read a dataset packed by ``clipgru shard``: its rows, splits and groups, in their order.

    No tar is opened; a video whose tar is missing or damaged is a bad video when it is read.

    Args:
        root: the folder of the tars.
        annotations: the index, if it is not ``index.json`` in the root.
        split: does nothing.

    Raises:
        UserError: no index, or a damaged one.
    """
    require_folder(root)
    source = annotations or root / _INDEX_NAME
    if not source.exists():
        raise UserError(
            f"no {source}; clipgru shard writes it last, so what is there may have been cut off: pack again"
        )
    try:
        said = read_json(read_text(source), str(source))
        version = said.get("format") if isinstance(said, dict) else None
        if type(version) is int and version > FORMAT_VERSION:
            raise UserError(f"{source}: format {version}; this version reads format {FORMAT_VERSION}: update clipgru")
        index = read_checked(_Index, said, str(source))
    except UserError as error:
        raise UserError(f"{error}; it is no index of shards, or a damaged one: pack again") from None
    parts = [FilePart(root / it.shard, it.start_byte, it.num_bytes, it.sha256, it.name) for it in index.samples]
    splits: dict[str, tuple[VideoRow, ...]] = {}
    for name, rows in index.splits.items():
        part = part_of(name) or name
        splits[part] = splits.get(part, ()) + tuple(_row(root, parts, facts) for facts in rows)
    absent = tuple(Path(path) for path in index.absent)
    return Annotations(index.labels, splits, absent, index.may_share_groups)


def _row(root: Path, parts: Sequence[FilePart], facts: _Facts) -> VideoRow:
    part = parts[facts.sample]
    # The path that it would have in the root: what reports name and rows are sorted by.
    times = (facts.start_seconds, facts.end_seconds)
    return VideoRow(
        root / part.name, facts.label, facts.group, *times, name=part.name, part=part, looked_at=facts.looked_at
    )
