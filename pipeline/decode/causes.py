"""Likely causes why FFmpeg refuses a file, by a look at its bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from pipeline.decode.boxes import outer_boxes

# How a file begins: what it is. The first that fits.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"#EXTM3U", "it is a playlist (HLS), and none is followed"),
    (b"ffconcat", "it is a script that joins other files (concat), and none is run"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself; run git lfs pull"),
    (b"\x89PNG", "it is a single picture (PNG), which is not read as a video"),
    (b"\xff\xd8\xff", "it is a single picture (JPEG), which is not read as a video"),
    (b"BM", "it is a single picture (BMP), which is not read as a video"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it"),
    (b"\x1f\x8b", "it is gzip-compressed; unpack it"),
    (b"Rar!", "it is a RAR archive; unpack it"),
    (b"%PDF", "it is a PDF document"),
    (b"RIFF", "it begins as an AVI and its header is damaged or cut off"),
    (b"\x1a\x45\xdf\xa3", "it begins as a Matroska or WebM file and its header is damaged or cut off"),
)
_MARKUP = (b"<!doctype", b"<html", b"<?xml")
_NUM_BYTES_LOOKED_AT = 512
_TS_PACKET_BYTES, _TS_SYNC = 188, b"\x47"
_SIZE_UNKNOWN = 0x7FFF_FFFF  # from here on a RIFF size means that nobody went back to fill it in


def likely_cause(path: Path) -> str:
    """Return the likely cause why a file cannot be opened; never empty."""
    with path.open("rb") as stream:
        start = stream.read(_NUM_BYTES_LOOKED_AT)
    for beginning, cause in _BEGINNINGS:
        if start.startswith(beginning):
            return cause
    if start.lstrip().lower().startswith(_MARKUP):
        return "it is a web page or XML, no video; a download may have brought an error page"
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        names = [name for name, _, _ in outer_boxes(path)]
        if b"moov" not in names:
            return "it is an MP4 or MOV without its index (moov): damaged or cut off while it was written or copied"
        return "it is an MP4 or MOV whose index is damaged or cut off"
    if not any(start):
        return "it is full of zeros, no video at all; a download or copy may not have been finished"
    if _is_text(start):
        return "it is text, no video at all"
    return "the file is damaged or cut off, or no video at all"


def framing_fault(path: Path) -> str:
    """Return the fault in a file's size and outermost structure; empty if there is none, or none can be told."""
    if is_cut_off(path):
        return "cut off: the file is shorter than it says; a copy or download may have been interrupted"
    with path.open("rb") as stream:
        if stream.read(3 * _TS_PACKET_BYTES)[::_TS_PACKET_BYTES] != _TS_SYNC * 3:
            return ""
    starts = np.memmap(path, np.uint8, "r")[::_TS_PACKET_BYTES]
    num_wrong = int((starts != _TS_SYNC[0]).sum())
    return f"damaged: {num_wrong} of {len(starts)} transport packets do not begin as they must" if num_wrong else ""


def is_cut_off(path: Path) -> bool:
    """True if an AVI, MP4 or MOV is shorter than it says, or an MPEG-TS ends inside a packet. False for other kinds."""
    num_bytes = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(3 * _TS_PACKET_BYTES)
    if start[:4] == b"RIFF":
        (claimed,) = struct.unpack("<I", start[4:8].ljust(4, b"\0"))
        return num_bytes < 8 + int(claimed) < _SIZE_UNKNOWN
    if start[::_TS_PACKET_BYTES] == _TS_SYNC * 3:
        return num_bytes % _TS_PACKET_BYTES != 0
    if start[4:8] == b"ftyp":
        return any(begin + size > num_bytes for _, begin, size in outer_boxes(path))
    return False


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        text = start[: error.start].decode() if error.start > len(start) - 4 else "\0"
    return all(character.isprintable() or character.isspace() for character in text)
