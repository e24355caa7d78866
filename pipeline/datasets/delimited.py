"""Tables of text as people and spreadsheets write them: lines of values, and the names of files in them."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from pipeline.datasets.annotations import read_text
from pipeline.errors import UserError

UNKNOWN_GROUPS = ("", "-1", "-1.0")
"""Values that stand for an unknown source: the video is then a group of its own."""

Record = tuple[str, Mapping[str, str]]
"""The place ``file:line`` of a line and its values by column; a value that is not given is empty."""


def composed(name: str) -> str:
    """Return a name with its accents composed (NFC): some file systems and programs write them apart."""
    return unicodedata.normalize("NFC", name)


def read_table(
    path: Path,
    required: tuple[str, ...],
    *,
    comment: str = "",
    header_after: str = "",
    skip_to: str = "",
    unnamed: str = "",
    as_written: bool = False,
) -> list[Record]:
    """Return the lines of a CSV file with a header line; separated by commas, semicolons or tabs, which the header
    tells. Columns are in lower case, values without spaces around them and with accents composed.

    Args:
        path: the file.
        required: columns that must be there.
        comment: lines that begin so are passed over.
        header_after: the header stands in such a comment, behind an equals sign.
        skip_to: lines before the first one with this column are passed over.
        unnamed: the name of the first column, if the header gives it none.
        as_written: columns are in the case in which they are written, as they are labels.

    Raises:
        UserError: a required column is missing or twice there, a line has more or fewer values than the header, or a
            quote is not closed on its line.
    """
    text = _without_preamble(read_text(path), comment, header_after, skip_to)
    announced = _ANNOUNCED_SEPARATOR.match(text)
    separator = announced[1] if announced else _separator(text, required)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    if announced:
        next(reader)
    records: list[Record] = []
    header: list[str] = []
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            values = [composed(value.strip()) for value in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(f"{place}: not a line of CSV: {error}. {_QUOTES}") from None
        if any("\n" in value or "\r" in value for value in values):
            raise UserError(f"{place}: a value goes on in the next line. {_QUOTES}")
        if not header and any(values):
            header = _checked_header(place, [values[0] or unnamed, *values[1:]], required, as_written)
        elif any(values):
            records.append(_checked(place, values, header))
    if not header:
        _checked_header(f"{path}:1", [], required)
    return records


def _without_preamble(text: str, comment: str, header_after: str, skip_to: str) -> str:
    """The text with other lines emptied, so that lines keep their numbers."""
    if not comment and not skip_to:
        return text
    lines = re.split(r"\r\n|\r|\n", text)
    for number, line in enumerate(lines):
        if header_after and line.startswith(header_after):
            lines[number] = line.partition("=")[2].strip()
        elif comment and line.lstrip().startswith(comment):
            lines[number] = ""
        elif skip_to:
            is_header = skip_to in [word.strip(' "').lower() for word in re.split(r"[,;\t]", line)]
            lines[number], skip_to = (line, "") if is_header else ("", skip_to)
    return "\n".join(lines)


_ANNOUNCED_SEPARATOR = re.compile(r"sep=([,;\t|])[\r\n]")  # the first line of some spreadsheets' files
_QUOTES = 'A double quote that opens a value must close it, on the same line; write a quote in a value as ""'


def _separator(text: str, required: tuple[str, ...]) -> str:
    """Return the separator that gives the header most of the required columns, else most columns."""
    first = next((line for line in text.splitlines() if line.strip()), "").lower()

    def columns(separator: str) -> tuple[int, int]:
        found = [part.strip().strip('"') for part in first.split(separator)]
        return sum(name in found for name in required), len(found)

    return max(",;\t", key=columns)


def _checked_header(place: str, values: list[str], required: tuple[str, ...], as_written: bool = False) -> list[str]:
    header = [value if as_written else value.lower() for value in values]
    while header and not header[-1]:
        header.pop()  # a comma at the end
    missing = [column for column in required if column not in header]
    if missing:
        raise UserError(
            f"{place}: no column {', '.join(missing)}; the header, which is the first line, has "
            f"{', '.join(header) or 'nothing'}"
        )
    double = [column for column in dict.fromkeys(header) if header.count(column) > 1]
    if double:
        raise UserError(f"{place}: the header has more than one column {', '.join(double)}; take one out or rename it")
    return header


def _checked(place: str, values: list[str], header: list[str]) -> Record:
    surplus = values[len(header) :]
    if len(values) < len(header) or any(surplus):
        raise UserError(
            f"{place}: the header has {len(header)} columns ({', '.join(header)}) and this line has more or fewer; "
            "put a value that holds a comma in double quotes"
        )
    return place, dict(zip(header, values, strict=False))


def name_below(place: str, text: str, root: Path) -> tuple[str, Path]:
    """Return the name below the root of a file that a table names, and its path.

    A table may come from another system: backslashes are read as slashes unless there is such a file, a path that
    begins with the root may be absolute, and accents may be written apart on the disk.

    Raises:
        UserError: the path leads out of the root.
    """
    if "\\" in text and not (root / text).exists():
        text = text.replace("\\", "/")
    path = PurePosixPath(text)
    homes = [home for home in (root.absolute(), root.resolve()) if path.is_relative_to(home)]
    if homes and ".." not in path.parts:
        path = path.relative_to(homes[0])
    is_of_windows = PureWindowsPath(text).drive and not (root / path).exists()
    if path.is_absolute() or is_of_windows or ".." in path.parts or "\0" in text:
        raise UserError(f"{place}: the path {text!r} leads out of the root {root}; paths are relative to it")
    return composed(path.as_posix()), _on_disk(root, path)


def _on_disk(root: Path, path: PurePosixPath) -> Path:
    if str(path).isascii() or (root / path).exists():
        return root / path
    here = root
    for part in path.parts:
        if not (here / part).exists() and here.is_dir():
            part = next((name for name in os.listdir(here) if composed(name) == composed(part)), part)
        here /= part
    return here


def number_of(text: str) -> float:
    """Return the number that a text in plain digits is; nan for any other. Python itself would read ``1_0`` as ten."""
    try:
        return float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan
