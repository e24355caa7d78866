"""Dockerfiles as lists of instructions, and what ``.dockerignore`` leaves of a folder: as much as is needed here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple


class Instruction(NamedTuple):
    """``RUN``, and what is to run."""

    keyword: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """Of a Dockerfile, in its order: continuation lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines()]


def usual_command(text: str) -> list[str]:
    """The words that the ``docker run`` of a Dockerfile's comments gives to ``clipgru``."""
    comments = re.findall(r"^#(.*)", text, flags=re.MULTILINE)
    (line,) = re.findall(r"docker run .*", re.sub(r"\\\n\s*", "", "\n".join(comments)))
    words = shlex.split(line)
    image = next(number for number, word in enumerate(words) if word.partition(":")[0] == "clipgru")
    return words[image + 1 :]


def exec_form(rest: str) -> list[str]:
    """The words of a command in its JSON form, which runs without a shell.

    Raises:
        ValueError: it is written in another form, or is not a list of strings.
    """
    words = json.loads(rest)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"not a list of strings: {rest}")
    return words


def assignments(rest: str) -> dict[str, str]:
    """The names and values of an ``ENV``."""
    return {name: value for name, _, value in (word.partition("=") for word in shlex.split(rest))}


def copies(rest: str, files: Sequence[str]) -> dict[str, str]:
    """What a ``COPY`` takes: file -> where it goes. A folder stands for what is in it, as Docker has it.

    Raises:
        ValueError: a source that is not among the files, or an option.
    """
    *sources, target = rest.split()
    found: dict[str, str] = {}
    for source in sources:
        inside = [file for file in files if file.startswith(source.rstrip("/") + "/")]
        if source in files:
            found[source] = str(PurePosixPath(target) / PurePosixPath(source).name) if target.endswith("/") else target
        elif inside:
            found |= {file: str(PurePosixPath(target) / PurePosixPath(file).relative_to(source)) for file in inside}
        else:
            raise ValueError(f"COPY {source}: not in the build context")
    return found


def context(files: Iterable[str], ignore: str) -> list[str]:
    """The files that are left when those that the text of a ``.dockerignore`` names are taken out."""
    lines = [line.strip() for line in ignore.splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    return [file for file in files if not _is_ignored(file, patterns)]


def _is_ignored(file: str, patterns: Iterable[str]) -> bool:
    """The last pattern that names the file, or a folder that it is in, decides; ``!`` takes the file back."""
    ignored = False
    for pattern in patterns:
        if re.fullmatch(_expression(pattern.removeprefix("!").strip("/")), file):
            ignored = not pattern.startswith("!")
    return ignored


def _expression(pattern: str) -> str:
    """``**`` is any number of folders, ``*`` and ``?`` stop at a slash."""
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(meanings.get(part) or re.escape(part) for part in parts) + "(?:/.*)?"
