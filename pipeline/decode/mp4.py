"""The sample tables of an MP4 or MOV: the facts that reading every packet would give, in a few arrays.

A table is used only for the plain case, and only where FFmpeg, which has read the same tables in C, agrees: in the
number of samples, and in time, size, position and kind of many of them. Everything else is left to the demuxer:
fragments, several video tracks or descriptions, edit lists that hide something, tables that contradict each other.

The boxes are those of ISO/IEC 14496-12, 8.6 and 8.7.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.boxes import outer_boxes
from pipeline.decode.container import OpenVideo

_MAX_INDEX_BYTES = 64_000_000
# Samples of which FFmpeg's view is compared: that many at either end, and as many between.
_NUM_COMPARED = 64
_FULL_BOX_BYTES = 4  # version and flags
_KEYFRAME_FLAG = 1
_RUN = np.dtype([("count", ">u4"), ("ticks", ">u4")])
_SIGNED_RUN = np.dtype([("count", ">u4"), ("ticks", ">i4")])
_CHUNK_RUN = np.dtype([("first", ">u4"), ("num_samples", ">u4"), ("description", ">u4")])
_EDITS = {
    0: np.dtype([("duration", ">u4"), ("start", ">i4"), ("rate", ">u4")]),
    1: np.dtype([("duration", ">u8"), ("start", ">i8"), ("rate", ">u4")]),
}
_NORMAL_RATE = 1 << 16
_HEADER_TIMES_BYTES = {0: 8, 1: 16}  # when it was made and changed, by version

_Boxes = dict[bytes, list[memoryview]]


class _NotPlainError(Exception):
    """The demuxer must decide."""


def _require_plain(is_plain: object) -> None:
    if not is_plain:
        raise _NotPlainError


@dataclass(frozen=True)
class SampleTable:
    """The samples of the only video track, in file order. M samples."""

    dts: NDArray[np.int64]
    """``[M]``: decoding times in the track's ticks, as FFmpeg shifts them."""
    pts: NDArray[np.int64]
    """``[M]``: display times, likewise."""
    num_ticks_shown: NDArray[np.int64]
    """``[M]``: ticks to the next decoding time."""
    is_key: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    """``[M]``: bytes."""
    positions: NDArray[np.int64]
    """``[M]``: bytes from the start of the file."""


def read_sample_table(video: OpenVideo) -> SampleTable | None:
    """The table of an open video; None if the demuxer must be asked, for whatever reason."""
    entries = getattr(video.stream, "index_entries", None)  # not in every version of PyAV
    if entries is None or not len(entries):
        return None
    try:
        moov = _read_index_box(video.path)
        table = _table_of(moov, int(entries[0].timestamp))
    except (_NotPlainError, ValueError, struct.error):  # the last two: tables that end too early
        return None
    return table if _is_as_ffmpeg_sees_it(table, video) else None


def _read_index_box(path: Path) -> memoryview:
    """The content of ``moov``."""
    found = list(outer_boxes(path))
    places = [(position, size) for name, position, size in found if name == b"moov"]
    is_fragmented = any(name == b"moof" for name, _, _ in found)
    _require_plain(len(places) == 1 and not is_fragmented and places[0][1] <= _MAX_INDEX_BYTES)
    with path.open("rb") as stream:
        stream.seek(places[0][0])
        content = stream.read(places[0][1])
    _require_plain(len(content) == places[0][1])
    return memoryview(content)[8:]


def _boxes(content: memoryview) -> _Boxes:
    """The boxes in a box, by name."""
    found: _Boxes = {}
    position = 0
    while position + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, position)
        _require_plain(8 <= size <= len(content) - position)
        found.setdefault(name, []).append(content[position + 8 : position + size])
        position += size
    return found


def _only(boxes: _Boxes, name: bytes) -> memoryview:
    _require_plain(len(boxes.get(name, ())) == 1)
    return boxes[name][0]


def _rows(box: memoryview, dtype: np.dtype[np.void] | str, skipped: int = 0) -> NDArray[np.void]:
    """The rows of a table: version and flags, sometimes a value more, their number, and they."""
    (count,) = struct.unpack_from(">I", box, _FULL_BOX_BYTES + skipped)
    return np.frombuffer(box, dtype, int(count), offset=_FULL_BOX_BYTES + skipped + 4)


@dataclass(frozen=True)
class _Track:
    """The only video track, before its edit list. M samples."""

    tables: _Boxes
    sizes: NDArray[np.int64]
    steps: NDArray[np.int64]
    """``[M]``: ticks to the next decoding time."""
    offsets: NDArray[np.int64]
    """``[M]``: from decoding to display times."""
    edits: NDArray[np.void] | None
    ticks_per_movie_tick: Fraction

    @property
    def times(self) -> NDArray[np.int64]:
        """``[M]``: display times, as the edit list counts."""
        return np.cumsum(self.steps) - self.steps + self.offsets


def _track_of(moov: memoryview) -> _Track:
    inside = _boxes(moov)
    _require_plain(b"mvex" not in inside and b"cmov" not in inside)
    tracks = [_boxes(trak) for trak in inside.get(b"trak", ())]
    media = [(track, _boxes(_only(track, b"mdia"))) for track in tracks]
    chosen = [(track, boxes) for track, boxes in media if bytes(_only(boxes, b"hdlr")[8:12]) == b"vide"]
    _require_plain(len(chosen) == 1)
    track, boxes = chosen[0]
    tables = _boxes(_only(_boxes(_only(boxes, b"minf")), b"stbl"))
    sizes = _sizes(tables)
    steps = _expanded(_rows(_only(tables, b"stts"), _RUN), len(sizes))
    offsets = np.zeros(len(sizes), np.int64)
    if b"ctts" in tables:
        offsets = _expanded(_rows(_only(tables, b"ctts"), _SIGNED_RUN), len(sizes))
    movie_rate, track_rate = (_ticks_per_second(_only(*where)) for where in ((inside, b"mvhd"), (boxes, b"mdhd")))
    return _Track(tables, sizes, steps, offsets, _edits(track), Fraction(track_rate, movie_rate))


def _table_of(moov: memoryview, first_dts: int) -> SampleTable:
    track = _track_of(moov)
    _check_edits(track)
    dts = np.cumsum(track.steps) - track.steps + first_dts
    return SampleTable(
        dts=dts,
        pts=dts + track.offsets + max(0, -int(track.offsets.min())),
        num_ticks_shown=track.steps,
        is_key=_keyframes(track.tables, len(track.sizes)),
        sizes=track.sizes,
        positions=_positions(track.tables, track.sizes),
    )


def count_hidden(path: Path) -> int:
    """Return the number of samples that the edit list hides, as of a recording that was trimmed; 0 where that cannot be
    told."""
    try:
        track = _track_of(_read_index_box(path))
    except (_NotPlainError, ValueError, struct.error):
        return 0
    if track.edits is None:
        return 0
    is_shown = np.zeros(len(track.sizes), np.bool_)
    for edit in track.edits[track.edits["start"] >= 0]:  # -1: nothing is shown for a while
        start, num_ticks = int(edit["start"]), int(edit["duration"]) * track.ticks_per_movie_tick
        is_shown |= (track.times >= start) & (track.times < float(start + num_ticks))
    return int((~is_shown).sum())


def _sizes(tables: _Boxes) -> NDArray[np.int64]:
    box = _only(tables, b"stsz")
    (same_for_all,) = struct.unpack_from(">I", box, _FULL_BOX_BYTES)
    (num_descriptions,) = struct.unpack_from(">I", _only(tables, b"stsd"), _FULL_BOX_BYTES)
    sizes = _rows(box, ">u4", skipped=4).astype(np.int64)
    _require_plain(not same_for_all and num_descriptions == 1 and len(sizes) and sizes.all())
    return sizes


def _expanded(runs: NDArray[np.void], num_samples: int) -> NDArray[np.int64]:
    """Each value as often as its run says, one a sample."""
    counts = runs["count"].astype(np.int64)
    _require_plain(counts.sum() == num_samples)
    return np.repeat(runs["ticks"].astype(np.int64), counts)


def _keyframes(tables: _Boxes, num_samples: int) -> NDArray[np.bool_]:
    _require_plain(b"stps" not in tables and b"sgpd" not in tables)  # more kinds of keyframes
    if b"stss" not in tables:
        return np.ones(num_samples, np.bool_)
    numbers = _rows(_only(tables, b"stss"), ">u4").astype(np.int64) - 1
    _require_plain(len(numbers) and numbers.min() >= 0 and numbers.max() < num_samples)
    is_key = np.zeros(num_samples, np.bool_)
    is_key[numbers] = True
    return is_key


def _positions(tables: _Boxes, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    name, dtype = (b"stco", ">u4") if b"stco" in tables else (b"co64", ">u8")
    chunks = _rows(_only(tables, name), dtype).astype(np.int64)
    runs = _rows(_only(tables, b"stsc"), _CHUNK_RUN)
    lengths = np.diff(np.append(runs["first"].astype(np.int64), len(chunks) + 1))
    per_chunk = runs["num_samples"].astype(np.int64)
    _require_plain(len(runs) and runs["first"][0] == 1 and lengths.min() >= 1)
    _require_plain((per_chunk * lengths).sum() == len(sizes))
    num_samples = np.repeat(per_chunk, lengths)  # of each chunk
    before = np.cumsum(sizes) - sizes
    starts = np.cumsum(num_samples) - num_samples
    is_filled = num_samples > 0
    in_chunk = before - np.repeat(before[starts[is_filled]], num_samples[is_filled])
    positions: NDArray[np.int64] = np.repeat(chunks, num_samples) + in_chunk
    return positions


def _ticks_per_second(box: memoryview) -> int:
    """Of a movie's or a track's header."""
    version = box[0]
    _require_plain(version in _HEADER_TIMES_BYTES)
    (ticks,) = struct.unpack_from(">I", box, _FULL_BOX_BYTES + _HEADER_TIMES_BYTES[version])
    _require_plain(ticks)
    return int(ticks)


def _edits(track: _Boxes) -> NDArray[np.void] | None:
    """The rows of the edit list; None without one."""
    lists = [inside for edits in track.get(b"edts", ()) for inside in _boxes(edits).get(b"elst", ())]
    if not lists:
        return None
    version = lists[0][0] if len(lists) == 1 else -1
    _require_plain(version in _EDITS)
    return _rows(lists[0], _EDITS[version])


def _check_edits(track: _Track) -> None:
    """An edit list may move the whole track so that its first picture is at 0, and nothing else."""
    edits, times = track.edits, track.times
    if edits is None:
        return
    _require_plain(len(edits) == 1 and edits["start"][0] == times.min() and edits["rate"][0] == _NORMAL_RATE)
    num_ticks = int(edits["duration"][0]) * track.ticks_per_movie_tick
    _require_plain(int(times.max() - times.min()) < num_ticks)  # else the end of the edit hides pictures


def _is_as_ffmpeg_sees_it(table: SampleTable, video: OpenVideo) -> bool:
    entries, num_samples = video.stream.index_entries, len(table.dts)
    if len(entries) != num_samples or int((table.positions + table.sizes).max()) > video.path.stat().st_size:
        return False
    step = max(1, num_samples // _NUM_COMPARED)
    ends = {*range(min(_NUM_COMPARED, num_samples)), *range(max(0, num_samples - _NUM_COMPARED), num_samples)}
    for number in sorted(ends | set(range(0, num_samples, step))):
        entry = entries[number]
        # A sample that is hidden has another flag as well.
        seen = entry.timestamp, entry.size, entry.pos, entry.flags
        flags = _KEYFRAME_FLAG if table.is_key[number] else 0
        if seen != (table.dts[number], table.sizes[number], table.positions[number], flags):
            return False
    return True
