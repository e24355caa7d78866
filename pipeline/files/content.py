"""The bytes of a file: their digest, and a part of a larger file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FilePart:
    """Bytes of a larger file that are a file of their own, as in a tar."""

    path: Path
    """The larger file."""
    start_byte: int
    num_bytes: int
    sha256: str
    """Hex digest of the bytes."""
    name: str
    """Name of the part, for people; its suffix is the file's."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises ``OSError`` if it cannot be read."""
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            content.update(block)
    return content.hexdigest()
