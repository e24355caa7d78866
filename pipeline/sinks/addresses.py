"""Receivers as they are typed: an address, or a file that holds it, so that it stands in no list of processes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError
from pipeline.sources import shown_source

_MAX_CHARACTERS = 16_384
_HEADER = re.compile(r"([!#$%&'*+.^_`|~\w-]+):[ \t]*([\x20-\x7e]*)", re.ASCII)


@dataclass(frozen=True)
class Address:
    """An address with all its secrets: for connecting, never for showing."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The part that anybody may see."""
        return shown_source(self.url)


def read_address(text: str, option: str, schemes: Sequence[str]) -> Address:
    """Return the address that a word means.

    Args:
        text: a URL, or the path of a text file with a URL in its first line and ``Name: value`` in those that follow.
        option: where the word comes from, for messages.
        schemes: what the URL may begin with.

    Raises:
        UserError: it is neither; no part of it that may be secret is in the message.
    """
    lines = [text] if "://" in text else _lines_of(text, option)
    url = lines[0].strip() if lines else ""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in schemes or not re.match(r"[^/?#]*[\w\]]", rest) or re.search(r"[\s\x00-\x1f]", url):
        kinds = " or ".join(f"{name}://HOST/..." for name in schemes)
        raise UserError(f"{option} {shown_source(url)}: write {kinds}, or name a file with that in its first line")
    return Address(url, dict(_header(line, option) for line in lines[1:] if line.strip()))


def _lines_of(path: str, option: str) -> list[str]:
    try:
        with Path(path).open(encoding="utf-8") as stream:
            return stream.read(_MAX_CHARACTERS).splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise UserError(
            f"{option} {shown_source(path)}: neither an address nor a file that can be read ({reason})"
        ) from None


def _header(line: str, option: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(line.strip())
    if found is None:
        raise UserError(
            f"{option}: a line of its file is no header; write Name: value, such as Authorization: Bearer ..."
        )
    return found[1], found[2]
