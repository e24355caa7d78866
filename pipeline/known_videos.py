"""The videos that a model has learned from, in its file: names, sizes, digests of the content, labelled stretches.

A digest names the content and nothing else, so that a video is known under another name, in another folder, and packed
into a tar. It is SHA-256, of which 96 bits are kept: two of a billion videos are taken for one another with a
probability of one to 10^11. Of a file up to 64 MiB every byte counts, which a training has to read anyway and finds in
memory afterwards. Of a larger one its size and 64 blocks of 1 MiB count, the first and the last among them, so that a
few stretches of long recordings do not cost reading terabytes: another recording differs in every block, and a new
encoding in its size as well.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import UserError

DIGEST_LENGTH = 24
"""Hex digits of a digest."""
MAX_WHOLE_BYTES = 64 << 20
"""Of a larger file only blocks are read."""
_NUM_BLOCKS, _BLOCK_BYTES = 64, 1 << 20
# A digest has 12 random bytes, a row of text hardly ever more than 500: what unpacks to more was made to.
_MAX_UNPACKING, _ALWAYS_UNPACKED_BYTES = 40, 8_000_000


@dataclass(frozen=True)
class KnownVideo:
    """One video, or one labelled stretch ``[start, end)`` of it."""

    name: str
    """The path below the data's root."""
    num_bytes: int
    """0 if the file could not be read: then it is known by its name alone."""
    digest: str
    """Hex, of the content; empty if it could not be read."""
    start_seconds: float = 0.0
    end_seconds: float | None = None

    def overlaps(self, start_seconds: float, end_seconds: float | None) -> bool:
        """True if a stretch of the same video has a moment in common with this one."""
        ends = [math.inf if end is None else end for end in (self.end_seconds, end_seconds)]
        return self.start_seconds < ends[1] and start_seconds < ends[0]


@dataclass(frozen=True)
class KnownVideos:
    """Videos of a dataset that a model has seen."""

    train: tuple[KnownVideo, ...] = ()
    """Videos that the model learned from."""
    val: tuple[KnownVideo, ...] = ()
    """Videos that chose the epoch and calibrated the scores."""
    earlier: tuple[KnownVideo, ...] = ()
    """Videos of the models that this one started from."""

    def to_json(self) -> dict[str, str]:
        """Each part packed into a text, about 30 bytes a video: rows as JSON, zlib, base64."""
        return {part: _packed(getattr(self, part)) for part in ("train", "val", "earlier")}

    @classmethod
    def from_json(cls, value: object, where: str) -> KnownVideos:
        """Return the videos that ``to_json`` packed. ``where``: the file they are from, for errors.

        Raises:
            UserError: it is something else.
        """
        if not isinstance(value, dict) or value.keys() != {"train", "val", "earlier"}:
            raise UserError(f"{where}: its list of known videos is none: expected the parts train, val and earlier")
        return cls(**{part: _unpacked(text, f"{where}: known videos, {part}") for part, text in value.items()})


def content_digest(stream: BinaryIO, start_byte: int, num_bytes: int) -> str:
    """Return the digest of a video's bytes, as the module says.

    Args:
        stream: holds the video's bytes, alone or among others.
        start_byte: where they begin.
        num_bytes: how many they are.

    Raises:
        OSError: they cannot be read, or are fewer.
    """
    content = hashlib.sha256()
    if num_bytes <= MAX_WHOLE_BYTES:
        blocks = range(0, num_bytes, _BLOCK_BYTES)
    else:
        content.update(b"%d" % num_bytes)
        last = num_bytes - _BLOCK_BYTES
        blocks = [last * place // (_NUM_BLOCKS - 1) for place in range(_NUM_BLOCKS)]  # type: ignore[assignment]
    for block in blocks:
        stream.seek(start_byte + block)
        size = min(_BLOCK_BYTES, num_bytes - block)
        read = stream.read(size)
        if len(read) != size:
            raise OSError(f"it ends after {block + len(read)} of {num_bytes} bytes")
        content.update(read)
    return content.hexdigest()[:DIGEST_LENGTH]


def _packed(videos: Sequence[KnownVideo]) -> str:
    rows = [
        [video.name, video.num_bytes, video.digest]
        + ([video.start_seconds, video.end_seconds] if video.start_seconds or video.end_seconds is not None else [])
        for video in videos
    ]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "surrogatepass"))).decode()


def _unpacked(text: object, where: str) -> tuple[KnownVideo, ...]:
    try:
        packed = base64.b64decode(text, validate=True)  # type: ignore[arg-type]
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(packed, _MAX_UNPACKING * len(packed) + _ALWAYS_UNPACKED_BYTES)
        if not unpacking.eof:
            raise ValueError("it is cut off, or unpacks to more than such a list has")
        return tuple(_video(*row) for row in json.loads(content.decode("utf-8", "surrogatepass")))
    except (ValueError, TypeError, zlib.error, RecursionError) as error:
        raise UserError(f"{where}: not a list of videos, or a damaged one ({error})") from error


def _video(
    name: object, num_bytes: object, digest: object, start_seconds: object = 0.0, end_seconds: object = None
) -> KnownVideo:
    times = [start_seconds] if end_seconds is None else [start_seconds, end_seconds]
    is_right = (
        isinstance(name, str)
        and type(num_bytes) is int
        and num_bytes >= 0
        and isinstance(digest, str)
        and len(digest) in (0, DIGEST_LENGTH)
        and all(type(time) in (int, float) and 0 <= time < math.inf for time in times)  # type: ignore[operator]
    )
    if not is_right:
        raise ValueError(f"{[name, num_bytes, digest, start_seconds, end_seconds]!r:.200} is no video")
    return KnownVideo(name, num_bytes, digest, start_seconds, end_seconds)  # type: ignore[arg-type]
