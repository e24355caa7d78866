"""What somebody types as a source: a camera, a URL, or a file that plays the part of a camera."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pipeline.errors import UserError

SCHEMES = ("rtsp", "rtsps", "http", "https")
_SECRET_KEY = re.compile(r"pass|pwd|token|secret|auth|key|sig|credential", re.IGNORECASE)

Kind = Literal["camera", "network", "replay", "file"]


@dataclass(frozen=True)
class Source:
    """Where pictures come from."""

    kind: Kind
    """camera: an index or a device; network: a URL; replay: a file at its own speed; file: as fast as it goes."""
    address: str
    """As typed, passwords and all: for opening, never for showing."""
    name: str
    """For people, files and events; no other source of a run has the same."""


def parse_sources(texts: Sequence[str], replay: bool = False, fast: bool = False) -> list[Source]:
    """The sources that these words name; a repeated one gets a number.

    Args:
        texts: camera indices, device paths, URLs, or files.
        replay: they are files, to be played at their own speed.
        fast: they are files, to be read as fast as the model goes.

    Raises:
        UserError: a word names nothing, or something that these settings do not fit.
    """
    sources: list[Source] = []
    for text in texts:
        source = _file(text, fast) if replay else _live(text)
        sources.append(replace(source, name=_unused(source.name, {other.name for other in sources})))
    return sources


def _unused(name: str, names: set[str]) -> str:
    candidates = (name if number == 1 else f"{name} ({number})" for number in range(1, len(names) + 2))
    return next(candidate for candidate in candidates if candidate not in names)


def _file(text: str, fast: bool) -> Source:
    if "://" in text:
        raise UserError(f"{shown(text)}: --replay is for files, and this is a URL; leave --replay out")
    if not Path(text).is_file():
        raise UserError(f"{text}: no such file; --replay plays a video file as if it were a camera")
    return Source("file" if fast else "replay", text, text)


def _live(text: str) -> Source:
    if "://" in text:
        return _network(text)
    if text.isascii() and text.isdigit():
        return _camera(int(text))
    path = Path(text)
    if path.is_file():
        raise UserError(
            f"{text} is a file, not a camera: add --replay to play it at its own speed, or --replay --fast to read it "
            "as fast as the model goes"
        )
    if not path.exists():
        raise UserError(f"{text}: no such device or file; a source is a camera index, a device path, a URL or a file")
    if not stat.S_ISCHR(path.stat().st_mode):
        raise UserError(f"{text} is neither a camera device nor a file")
    return Source("camera", text, text)


def _camera(index: int) -> Source:
    devices = sorted(Path("/dev").glob("video*"))
    if Path("/proc").is_dir() and not Path(f"/dev/video{index}").exists():  # Linux: what there is can be seen
        there = ", ".join(map(str, devices)) or "none"
        raise UserError(f"camera {index}: there is no /dev/video{index}. Cameras here: {there}")
    return Source("camera", str(index), f"camera {index}")


def _network(text: str) -> Source:
    parts = urlsplit(text)
    if parts.scheme.lower() not in SCHEMES:
        raise UserError(f"{shown(text)}: scheme {parts.scheme!r} is not read; use one of {', '.join(SCHEMES)}")
    if not parts.hostname:
        raise UserError(f"{shown(text)}: no host in this URL; write rtsp://host/path")
    return Source("network", text, shown(text))


def shown(url: str) -> str:
    """A URL with its user's password, and what its query calls a secret, left out."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    user = login.partition(":")[0] + (":***" if ":" in login else "")
    query = parts.query
    if any(_SECRET_KEY.search(key) for key, _ in parse_qsl(query, keep_blank_values=True)):
        pairs = parse_qsl(query, keep_blank_values=True)
        query = urlencode([(key, "***" if _SECRET_KEY.search(key) else value) for key, value in pairs], safe="*")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=query))
