"""Sources as they are typed: a camera, a URL, or a file that plays the part of a camera."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError
from pipeline.options import name_sources
from pipeline.sources import shown_source

_SCHEMES = ("rtsp", "rtsps", "http", "https")

Kind = Literal["camera", "network", "replay", "file"]


@dataclass(frozen=True)
class Source:
    """An origin of pictures."""

    kind: Kind
    """camera: an index or a device; network: a URL; replay: a file at its own speed; file: as fast as it goes."""
    address: str
    """The address as typed, with passwords: for opening, never for showing."""
    name: str
    """Name for people, files and events; no other source of a run has the same."""


def parse_sources(
    texts: Sequence[str], replay: bool = False, fast: bool = False, names: Sequence[str] = ()
) -> list[Source]:
    """Return the sources that these words mean; without names of their own a repeated one gets a number.

    Args:
        texts: camera indices, device paths, URLs, or files.
        replay: they are files, to be played at their own speed.
        fast: they are files, to be read as fast as the model goes.
        names: of all of them, in order, or none.

    Raises:
        UserError: a word means nothing, or something that these settings do not fit.
    """
    sources = [_file(text, fast) if replay else _live(text) for text in texts]
    all_names = name_sources([source.name for source in sources], names)
    return [replace(source, name=name) for source, name in zip(sources, all_names, strict=True)]


def _file(text: str, fast: bool) -> Source:
    if "://" in text:
        raise UserError(f"{shown_source(text)}: --replay is for files, and this is an address; leave --replay out")
    if not os.path.isfile(text):  # of a text that is too long for a path the methods of Path raise
        raise UserError(f"{shown_source(text)}: no such file; --replay plays a video file as if it were a camera")
    return Source("file" if fast else "replay", text, text)


def _live(text: str) -> Source:
    if "://" in text:
        return _network(text)
    if text.isascii() and text.isdigit():
        return _camera(int(text))
    if os.path.isfile(text):
        raise UserError(
            f"{text} is a file, not a camera: add --replay to play it at its own speed, or --replay --fast to read it "
            "as fast as the model goes"
        )
    if not os.path.exists(text):
        cure = "a source is a camera index, a device path, a URL or a file"
        raise UserError(f"{shown_source(text)}: no such device or file; {cure}")
    if not stat.S_ISCHR(os.stat(text).st_mode):
        raise UserError(f"{text} is neither a camera device nor a file")
    return Source("camera", text, text)


def _camera(index: int) -> Source:
    devices = sorted(Path("/dev").glob("video*"))
    if Path("/proc").is_dir() and not Path(f"/dev/video{index}").exists():  # Linux: what there is can be seen
        there = ", ".join(map(str, devices)) or "none"
        raise UserError(f"camera {index}: there is no /dev/video{index}. Cameras here: {there}")
    return Source("camera", str(index), f"camera {index}")


def _network(text: str) -> Source:
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in _SCHEMES:
        raise UserError(f"{shown_source(text)}: no address that is read; they begin with {', '.join(_SCHEMES)}")
    if not re.match(r"[^/?#]*[\w\]]", rest):
        raise UserError(f"{shown_source(text)}: no host in this URL; write rtsp://host/path")
    return Source("network", text, shown_source(text))
