"""Names of sources for people, files and messages: an address without anything that may be a secret.

A password may stand anywhere in an address: before the host, in the query, in the path, unencoded. So what is known to
be harmless is shown, and all else is hidden: scheme, host, port, and the path's last part if it consists of words that
cameras use and small numbers, or is the plain name of a video.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

HIDDEN = "***"
"""Stands for what is not shown."""

VIDEO_SUFFIXES = frozenset([
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".dvr-ms", ".f4v", ".flv", ".gif", ".gxf",
    ".h264", ".h265", ".hevc", ".insv", ".ivf", ".lrv", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2",
    ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt",
    ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vob", ".vro", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
])  # fmt: skip
"""Suffixes of video files, in lower case. Other files beside the videos are ignored."""

_SCHEMES = "rtsps?|rtspu|rtmps?|https?|ftps?|udp|tcp|rtp|srt|mmsh?|wss?|mqtts?|s3|gs|az"
# One slash is what is left of two in a path.
_ADDRESS = re.compile(rf"({_SCHEMES}):[/\\]{{1,2}}([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_ADDRESS_IN_PATH = re.compile(
    rf"(?<![a-z])(?:(?:{_SCHEMES})(?::|%3a)(?:[/\\]|%2f)|[a-z][\w+.-]+:(?://|/[^@]{{0,500}}@)).*",
    re.IGNORECASE | re.DOTALL,
)
# Up to a quote or a space, without what ends a sentence.
_ADDRESS_IN_TEXT = re.compile(rf"(?<![a-z])(?:{_SCHEMES}):[/\\]{{1,2}}[^\s'\"<>|]*[^\s'\"<>|.,:;)]", re.IGNORECASE)
_ADDRESS_AS_TYPED = re.compile(rf"(?<![a-z])(?:{_SCHEMES}|hf):/", re.IGNORECASE)
_HUB_WORD = r"\w(?:[\w.-]{0,94}\w)?"
# A token of the hub, which somebody may paste there, begins with hf_ and is longer.
HUB_NAME = re.compile(rf"(?!.*(?:--|\.\.|\.git(?:/|\Z)|hf_\w{{20}}))(?=.{{3,96}}\Z){_HUB_WORD}/{_HUB_WORD}", re.ASCII)
HUB_REVISION = re.compile(rf"(?!.*(?:\.\.|hf_\w{{20}}))(?=.{{1,100}}\Z){_HUB_WORD}(?:/{_HUB_WORD})*", re.ASCII)
BUCKET_ADDRESS = re.compile(r"(?:s3|gs|az)://[\w.-]+(?:/[^/?#@\0]+)*/?", re.ASCII)
"""An object or a folder in a bucket, by a name that a path can have."""
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9a-f:.]+(?:%\w+)?\])(?::\d{1,5})?", re.IGNORECASE)
_AT = re.compile("@|%(?:25)*40")
_PATH = re.compile(r"[\w ./*-]*", re.ASCII)
# What says that its neighbour is a secret.
_TELLING = re.compile(
    "(?<![a-z])(?:user(?:name)?|login|passw(?:or)?d|pwd?|tokens?|keys?|auth|secret|pin|credentials?|sig(?:nature)?|sid|"
    "session)(?![a-z])",
    re.IGNORECASE,
)
_CAMERA_WORDS = (
    "(?:amp|asp|audio|av|axis|cam(?:era)?s?|cgi|ch(?:annel)?s?|feed|h26[45]|hd|high|image|img|index|jpe?g|live|low|m3u8|"
    "main|media|mjpe?g|mp4|mpeg4?|onvif|play(?:list)?|preview|profile|realmonitor|s|sd|sdp|snap(?:shot)?|stream(?:ing)?s?|"
    r"sub|unicast|video|webcam){1,3}\d{0,3}"
)
_CAMERA_PART = re.compile(
    rf"\d{{1,3}}|{_CAMERA_WORDS}(?:[._-]?(?:{_CAMERA_WORDS}|\d{{1,3}})){{0,3}}", re.IGNORECASE | re.ASCII
)
_SUFFIX = r"(?i:\.(?:3gp|asf|avi|flv|gif|jpe?g|m4v|mkv|mov|mp4|mpe?g|mts|ogv|png|ts|vob|webm|wmv))"
# No mixture of letters, digits and cases, as tokens are.
_FILE_WORD = r"(?:(?:[a-z]{1,24}|[A-Z]{1,24}|[A-Z]?[a-z]{2,}(?:[A-Z][a-z]{2,}){0,6})\d{0,4}|\d{1,8})"
_FILE_NAME = re.compile(rf"(?=.{{1,100}}$){_FILE_WORD}(?:[ ._-]{{1,3}}{_FILE_WORD})*{_SUFFIX}", re.ASCII)
# Nothing that parts a name from a secret.
_PLAIN_PATH = re.compile(r"(?:[a-z]:)?[\w .,~/\\+*()\[\]-]+", re.IGNORECASE)


@dataclass(frozen=True)
class _Address:
    """The parts of an address that may be shown."""

    scheme: str
    login: str
    """``***@``, or empty."""
    host: str
    """Host with its port; ``***`` if nobody can tell which part is the host."""
    path: str
    """The path as typed, not to be shown."""
    mark: str
    """``?***`` or ``#***`` where there is more, or empty."""


def shown_source(source: str) -> str:
    """Return what anybody may see of a source as it was typed; of that, the same again.

    Args:
        source: an address, the path of a file that need not be there, or anything else, which is hidden.
    """
    if hub_parts(source):
        return source
    if plain := _plain_object(source):
        return plain
    address = _parse(source)
    if address is None:
        return source if _PLAIN_PATH.fullmatch(source) or source == HIDDEN else HIDDEN
    return f"{address.scheme}://{address.login}{address.host}{_shown_path(address.path)}{address.mark}"


def _plain_object(address: str) -> str | None:
    """The address of an object whose name has no word that tells of a secret, as it opens to those alone who have keys
    to the bucket; None for anything else."""
    whole = re.sub(r"^(s3|gs|az):/(?!/)", r"\1://", address)
    is_plain = BUCKET_ADDRESS.fullmatch(whole) and _PLAIN_PATH.fullmatch(whole.partition("://")[2])
    return whole if is_plain and not _TELLING.search(whole.replace("_", " ")) else None


def hub_parts(address: str) -> tuple[str, str] | None:
    """Return ``owner/name`` and the revision, empty if there is none, of an address such as ``hf://owner/name@v2``;
    None for anything else."""
    name, at, revision = address.removeprefix("hf://").partition("@")
    is_one = HUB_NAME.fullmatch(name) and (HUB_REVISION.fullmatch(revision) or not at)
    return (name, revision) if address.startswith("hf://") and is_one else None


def shown_path(path: str | Path) -> str:
    """Return the path of a file as it is; if it was made of an address, what may be seen of that."""
    found = _ADDRESS_IN_PATH.search(str(path))
    return shown_source(found[0]) if found else str(path)


def has_address(path: str | Path) -> bool:
    """Return True if an address was given where the path of a file is wanted."""
    return _ADDRESS_AS_TYPED.search(str(path)) is not None


def shown_text(text: str) -> str:
    """Return a message with what may be seen of each network address in it."""
    return _ADDRESS_IN_TEXT.sub(lambda found: shown_source(found[0]), text)


def file_name_of(address: str) -> str:
    """Return a name for a file with what an address names: that in its path if it is harmless, else "video" with the
    same suffix."""
    parsed = _parse(address)
    path = parsed.path if parsed and parsed.host != HIDDEN else ""
    suffix = re.search(f"{_SUFFIX}$", path)
    return _harmless_part(path).replace(" ", "_") or "video" + (suffix[0] if suffix else "")


def distinct_names(names: Iterable[str]) -> list[str]:
    """Return the names in order, a repeated one with a number."""
    taken: dict[str, None] = {}
    counts: Counter[str] = Counter()
    for name in names:
        candidate = name
        while candidate in taken:
            counts[name] += 1
            candidate = f"{name} ({counts[name] + 1})"
        taken[candidate] = None
    return list(taken)


def _parse(text: str) -> _Address | None:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return None
    scheme, authority, path, rest = found.groups()
    login, at, host = authority.rpartition("@")
    # An @ further on may end a password with a / ? or # in it, or be a part of one that is given after the host: then
    # what looks like the host may be a part of the password.
    is_clear = _HOST.fullmatch(host) and not _AT.search(path + rest) and not re.search(r"[;&]\w*=", login)
    if not is_clear:
        return _Address(scheme.lower(), "", HIDDEN, "", "")
    return _Address(scheme.lower(), at and f"{HIDDEN}@", host, path, rest[:1] + HIDDEN if len(rest) > 1 else "")


def _shown_path(path: str) -> str:
    path = path.rstrip("/") or path[:1]
    *before, last = path.split("/")
    name = _harmless_part(path)
    if last and not name:
        return f"/{HIDDEN}"
    return (f"/{HIDDEN}" if any(before) else "") + "/" * bool(path) + name


def _harmless_part(path: str) -> str:
    """The path's last part, or nothing if it is not known to be harmless."""
    path = unquote(path)
    last = path.rpartition("/")[2]
    if not _PATH.fullmatch(path) or _TELLING.search(path.replace("_", " ")):
        return ""
    return last if _CAMERA_PART.fullmatch(last) or _FILE_NAME.fullmatch(last) else ""


def is_video(name: str, suffixes: Set[str] = VIDEO_SUFFIXES) -> bool:
    """True for a visible file name with a video's suffix."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
