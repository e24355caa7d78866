"""Messages between a reader and its decoding process: a JSON object and raw bytes, in one frame of known length.

No pickle: a decoder that a hostile file has taken over could make one that runs code in the reader.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import VideoInfo
from pipeline.decode.container import Header
from pipeline.decode.index import VideoIndex

Message = dict[str, Any]
_LENGTHS = struct.Struct("<QQ")  # of the JSON text and of the bytes after it
_MAX_TEXT_BYTES = 1 << 28


class WireError(Exception):
    """The other side is gone, late, or does not keep to the format."""


class LateError(WireError):
    """Nothing, or not all, came in time."""


def send(
    connection: socket.socket,
    message: Message,
    payload: bytes | memoryview = b"",
    timeout_seconds: float | None = None,
) -> None:
    """Sends one message. Raises ``WireError``; ``LateError`` if it is not taken in time."""
    text = json.dumps(message).encode()
    end = None if timeout_seconds is None else monotonic() + timeout_seconds
    try:
        for part in (_LENGTHS.pack(len(text), len(payload)) + text, payload):
            connection.settimeout(None if end is None else max(end - monotonic(), 1e-3))
            connection.sendall(part)
    except TimeoutError as error:
        raise LateError("it does not take what it is sent") from error
    except OSError as error:
        raise WireError("it is gone") from error


def receive(
    connection: socket.socket, timeout_seconds: float | None, max_payload_bytes: int = 0
) -> tuple[Message, bytearray]:
    """Waits for one message. Raises ``WireError``; ``LateError`` if it is not complete in time."""
    end = None if timeout_seconds is None else monotonic() + timeout_seconds
    num_text, num_payload = _LENGTHS.unpack(_take(connection, _LENGTHS.size, end))
    if num_text > _MAX_TEXT_BYTES or num_payload > max_payload_bytes:
        raise WireError(f"it sends {num_text} and {num_payload} bytes, more than can be meant")
    try:
        message = json.loads(_take(connection, num_text, end))
    except ValueError as error:
        raise WireError("it does not send JSON") from error
    return message, _take(connection, num_payload, end)


def _take(connection: socket.socket, num_bytes: int, end: float | None) -> bytearray:
    taken = bytearray(num_bytes)
    left = memoryview(taken)
    while left:
        try:
            connection.settimeout(None if end is None else max(end - monotonic(), 1e-3))
            count = connection.recv_into(left)
        except TimeoutError as error:
            raise LateError("no answer in time") from error
        except OSError as error:
            raise WireError("it is gone") from error
        if count == 0:
            raise WireError("it is gone")
        left = left[count:]
    return taken


def pack_header(header: Header | VideoInfo) -> Message:
    """Return a header as JSON values; fractions are texts, such as "30000/1001"."""
    return {name: str(value) if isinstance(value, Fraction) else value for name, value in asdict(header).items()}


def _fractions(kind: type[Header | VideoInfo], message: Message) -> Message:
    return {item.name: Fraction(message[item.name]) for item in fields(kind) if item.type == "Fraction"}


def unpack_header(message: Message) -> Header:
    """Return the header that ``pack_header`` packed."""
    return Header(**(message | _fractions(Header, message)))


def pack_index(index: VideoIndex) -> tuple[Message, bytes]:
    """Return an index as JSON values, and its arrays as bytes, one after the other."""
    info = pack_header(index.info) | {"path": ""}
    num_ticks = -1 if index.ticks is None else len(index.ticks)
    arrays = [index.pts_seconds, index.keyframes, *([] if index.ticks is None else [index.ticks])]
    payload = b"".join(array.tobytes() for array in arrays)
    sizes = [len(index.pts_seconds), len(index.keyframes), num_ticks]
    return {"info": info, "sizes": sizes, "is_proven": index.is_proven, "tick_seconds": index.tick_seconds}, payload


def unpack_index(message: Message, payload: bytearray, path: Path) -> VideoIndex:
    """Return the index that ``pack_index`` packed, with the path by which the reader knows the file."""
    num_frames, num_keyframes, num_ticks = message["sizes"]
    info = VideoInfo(**(message["info"] | {"path": path} | _fractions(VideoInfo, message["info"])))
    pts_seconds = np.frombuffer(payload, np.float64, num_frames)
    integers: NDArray[np.int64] = np.frombuffer(payload, np.int64, offset=8 * num_frames)
    ticks = integers[num_keyframes:] if num_ticks >= 0 else None
    keyframes = integers[:num_keyframes]
    return VideoIndex(info, pts_seconds, ticks, keyframes, message["is_proven"], message["tick_seconds"])
