"""A part of the files for each machine, and the tables of the parts joined."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import SamplingConfig
from pipeline.errors import UserError
from pipeline.files.failures import reason_of
from pipeline.report.parquet import ParquetFile, import_arrow
from pipeline.report.records import ROW_FIELDS, readable
from pipeline.schema import read_checked, read_json

_ROWS_AT_ONCE = 1024
_METADATA = b"clipgru"


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, from 1: of the files in order, the number-th and every count-th from there."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse a text such as "2/4", which the options have checked."""
        number, count = text.split("/")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, paths: Sequence[str]) -> Sequence[str]:
        """Return its share of the files."""
        return paths[self.number - 1 :: self.count]

    def table(self, table: Path) -> Path:
        """Return the path of its own table, beside that of the whole one."""
        return table.with_name(f"{table.stem}.shard-{self.number}-of-{self.count}{table.suffix}")


def list_facts(paths: Sequence[str]) -> dict[str, Any]:
    """Return the number of files of a run, and the digest of their names, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(readable(path).encode() + b"\0")
    return {"count": len(paths), "sha256": digest.hexdigest()}


def merge_shards(table: Path) -> int:
    """Joins the tables of all shards into the one that a single run would have made, to the byte. Returns the number
    of videos.

    Raises:
        UserError: shards are missing, are of different runs, or do not have the files they should.
    """
    shards = find_shards(table)
    header = _common_header(shards)
    names: list[str] = []
    tables = [_videos(path) for path in shards]
    merged = ParquetFile(table, header)
    try:
        for turn in range(header["videos"]["count"]):
            rows = next(tables[turn % len(tables)], None)
            if rows is None:
                break
            names.append(rows[0]["path"])
            for row in rows:
                merged.add(row)
        if list_facts(names) != header["videos"] or any(next(rows, None) for rows in tables):
            raise UserError(f"{table}: the shards do not hold the files that they should; run them again")
        merged.close()
    finally:
        merged.discard()
    return len(names)


def find_shards(table: Path) -> list[Path]:
    """Return the tables of all shards, in order. Raises ``UserError`` unless all are there."""
    pattern = re.compile(rf"{re.escape(table.stem)}\.shard-\d+-of-(\d+){re.escape(table.suffix)}")
    try:
        found = [match for path in table.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    except OSError as error:
        raise UserError(f"{table.parent}: cannot be read: {reason_of(error)}") from error
    counts = sorted({int(match[1]) for match in found})
    if not counts:
        raise UserError(f"{table}: no tables of shards there, such as {Shard(1, 4).table(table).name}")
    if len(counts) > 1:
        raise UserError(f"{table}: tables of {' and of '.join(map(str, counts))} shards; move away what is not meant")
    shards = [Shard(number + 1, counts[0]) for number in range(counts[0])]
    missing = [str(shard) for shard in shards if not shard.table(table).is_file()]
    if missing:
        raise UserError(f"{table}: no table yet of shard {', '.join(missing)}; run what is missing, then merge")
    return [shard.table(table) for shard in shards]


def _common_header(shards: Sequence[Path]) -> dict[str, Any]:
    headers = [_header(path) for path in shards]
    for path, header in zip(shards, headers, strict=True):
        differing = [name for name in header if name != "shard" and header[name] != headers[0].get(name)]
        if differing:
            names = ", ".join(differing)
            raise UserError(f"{path}: its {names} differ from those of {shards[0].name}; run the shards alike")
    return {name: value for name, value in headers[0].items() if name != "shard"}


@dataclass(frozen=True)
class _Videos:
    count: int
    sha256: str


@dataclass(frozen=True)
class _Header:
    """Metadata of a shard's table."""

    labels: tuple[str, ...]
    sampling: SamplingConfig
    run: dict[str, Any]
    videos: _Videos
    shard: str


def _header(path: Path) -> dict[str, Any]:
    with _damage_of(path):
        schema = import_arrow("pyarrow.parquet").read_schema(path)
        missing = [name for name in ROW_FIELDS if name not in schema.names]
        if missing or _METADATA not in (schema.metadata or {}):
            raise UserError(f"{path}: not the table of a shard, such as predict --shard makes")
        header = read_json(schema.metadata[_METADATA], str(path))
    read_checked(_Header, header, str(path))
    found: dict[str, Any] = header
    return found


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises into a ``UserError`` of one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, NotImplementedError) as error:  # pyarrow's own errors are among these
        raise UserError(f"{path}: not the table of a shard, or damaged ({error})") from error


def _videos(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of one video after the other."""
    rows: list[dict[str, Any]] = []
    with _damage_of(path), import_arrow("pyarrow.parquet").ParquetFile(path) as stream:
        for batch in stream.iter_batches(_ROWS_AT_ONCE, columns=list(ROW_FIELDS)):
            for row in batch.to_pylist():
                rows.append(row)
                if row["kind"] == "video":
                    yield rows
                    rows = []
