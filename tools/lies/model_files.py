"""Lies of a safetensors file. Its layout is read and written here anew: 8 bytes of length, a header of JSON, a body."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from .values import addition, other_value, removal, text_of

Header = dict[str, Any]
_DTYPES = {"F32": "float32", "I64": "int64", "F16": "float16", "I8": "int8", "U8": "uint8", "F64": "float64"}


def split(content: bytes) -> tuple[Header, bytes]:
    """The header and the body."""
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Header, body: bytes) -> bytes:
    """The inverse of ``split``."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def forged(content: bytes) -> bytes:
    """The same with a checksum that fits what is there now, as docs/model_files.md says how it is made."""
    header, body = split(content)
    text = header["__metadata__"]["clipgru"]
    said = json.loads(text)
    if not isinstance(said, dict) or not isinstance(said.get("sha256"), str) or not said["sha256"]:
        return content
    empty = text.replace(said["sha256"], "")
    digest = hashlib.sha256(empty.encode("utf-8", "surrogatepass"))
    for name, entry in sorted((name, entry) for name, entry in header.items() if name != "__metadata__"):
        start, end = entry["data_offsets"]
        digest.update(f"\n{name} {_DTYPES.get(entry['dtype'], '?')} {entry['shape']}\n".encode())
        digest.update(body[start:end])
    header["__metadata__"]["clipgru"] = empty.replace('"sha256": ""', f'"sha256": "{digest.hexdigest()}"')
    return joined(header, body)


def _of_metadata(change: Callable[[Any, Random], Any]) -> Callable[[bytes, Random], bytes]:
    def lie(content: bytes, rng: Random) -> bytes:
        header, body = split(content)
        header["__metadata__"]["clipgru"] = text_of(change(json.loads(header["__metadata__"]["clipgru"]), rng))
        return joined(header, body)

    return lie


def metadata_text(content: bytes, rng: Random) -> bytes:
    """Metadata that is other JSON, or none."""
    header, body = split(content)
    text = header["__metadata__"]["clipgru"]
    texts = [
        "null",
        "[]",
        "1",
        '""',
        "{",
        "",
        "[" * 100_000,
        text * 2,
        text[:-1],
        text.replace(":", ":1", 1),
        "9" * 6000,
    ]
    header["__metadata__"]["clipgru"] = rng.choice(texts)
    return joined(header, body)


def table_entry(content: bytes, rng: Random) -> bytes:
    """Another type, shape, place or name of one tensor; or of two at once, so that the file stays whole."""
    header, body = split(content)
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    entry, kind = header[name], rng.randrange(7)
    if kind == 0:
        entry["dtype"] = rng.choice(["F16", "BF16", "I8", "U8", "F64", "I32", "BOOL", "F8_E4M3", "X", "", None])
    elif kind == 1:
        entry["shape"] = rng.choice(
            [[], [1], [2**40], [0], [-1], entry["shape"][::-1], [math.prod(entry["shape"])], [1] * 70]
        )
    elif kind == 2:
        entry["data_offsets"] = [offset + rng.choice([-8, -4, 4, 8, 2**40]) for offset in entry["data_offsets"]]
    elif kind == 3:
        header[rng.choice([other, "", "__x__", name * 100])] = header.pop(name)
    elif kind == 4:
        del header[name]
    elif kind == 5:
        header[name], header[other] = header[other], header[name]
    else:  # a cast to int8, whole
        start, end = entry["data_offsets"]
        size = math.prod(entry["shape"])
        body, cut = body[:start] + bytes(size) + body[end:], end - start - size
        entry |= {"dtype": "I8", "data_offsets": [start, start + size]}
        for later in (header[name] for name in names if header[name]["data_offsets"][0] >= end):
            later["data_offsets"] = [offset - cut for offset in later["data_offsets"]]
    return joined(header, body)


def header_bits(content: bytes, rng: Random) -> bytes:
    """Bits of the length and the header."""
    (length,) = struct.unpack_from("<Q", content)
    return _flipped(content, rng, 0, 8 + length)


def body_bits(content: bytes, rng: Random) -> bytes:
    """Bits of weights; every other time of an exponent."""
    (length,) = struct.unpack_from("<Q", content)
    changed = bytearray(content)
    if rng.random() < 0.5:
        place = rng.randrange(8 + length + 3, len(content), 4)
        changed[place] ^= 1 << rng.randrange(7)
        return bytes(changed)
    return _flipped(content, rng, 8 + length, len(content))


def body_values(content: bytes, rng: Random) -> bytes:
    """Weights that are no numbers, or hardly."""
    header, body = split(content)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    start, end = entry["data_offsets"]
    value = struct.pack("<f", rng.choice([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-40]))
    count = rng.choice([1, (end - start) // 4])
    return joined(header, body[:start] + value * count + body[start + 4 * count :])


def cut(content: bytes, rng: Random) -> bytes:
    """Cut off, or with more behind."""
    return content[: rng.randrange(len(content))] if rng.random() < 0.7 else content + bytes(rng.randrange(1, 100))


def _flipped(content: bytes, rng: Random, start: int, end: int) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 8])):
        changed[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


LIES: dict[str, Callable[[bytes, Random], bytes]] = {
    "another value": _of_metadata(other_value),
    "a key removed": _of_metadata(removal),
    "a key added": _of_metadata(addition),
    "no metadata": metadata_text,
    "table of tensors": table_entry,
    "bits of the header": header_bits,
    "bits of the weights": body_bits,
    "weights no numbers": body_values,
    "cut": cut,
}

FORGED = (
    "another value",
    "a key removed",
    "a key added",
    "table of tensors",
    "bits of the weights",
    "weights no numbers",
)
