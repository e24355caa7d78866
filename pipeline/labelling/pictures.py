"""``PictureServer``: the exact pictures of videos by number, as JPEGs, a few ahead of who looks at them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Image, VideoInfo
from pipeline.decode import VideoOpener, VideoReader
from pipeline.errors import DecodeError
from pipeline.report.drawing import as_jpeg, as_shown, resized

_BLOCK = 16
"""Pictures that are decoded in one go: from a keyframe it is as dear to get one as a few."""
_MAX_BYTES = 96_000_000
"""Of all JPEGs that are kept."""
_MAX_OPEN = 4
"""Videos open at a time."""
_MAX_WIDTH_PX, _QUALITY = 1280, 88


class _Player:
    """One open video: blocks of pictures, decoded on from the block before where it can be."""

    def __init__(self, reader: VideoReader) -> None:
        self.reader, self.lock = reader, threading.Lock()
        self.info: VideoInfo = reader.info
        self.pts_seconds: NDArray[np.float64] = reader.pts_seconds.numpy()
        self._cursor: Generator[tuple[Image, float], None, None] | None = None
        self._at = 0
        """The picture that the cursor gives next."""

    def block(self, number: int) -> list[Image]:
        """The pictures of a block."""
        first, stop = number * _BLOCK, min((number + 1) * _BLOCK, self.info.num_frames)
        if self._cursor is None or self._at != first:
            self._stop()
            self._cursor = self.reader.images(first)
        images = [image for image, _ in islice(self._cursor, stop - first)]
        self._at = stop
        return images

    def _stop(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def close(self) -> None:
        self._stop()
        self.reader.close()


@dataclass
class _Kept:
    """JPEGs by video and number, the longest unused first."""

    jpegs: OrderedDict[tuple[Path, int], bytes] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def get(self, path: Path, number: int) -> bytes | None:
        found = self.jpegs.get((path, number))
        if found is not None:
            self.jpegs.move_to_end((path, number))
        return found

    def put(self, path: Path, number: int, jpeg: bytes) -> None:
        self.num_bytes += len(jpeg) - len(self.jpegs.pop((path, number), b""))
        self.jpegs[path, number] = jpeg
        while self.num_bytes > _MAX_BYTES:
            self.num_bytes -= len(self.jpegs.popitem(last=False)[1])


class PictureServer:
    """Any thread may ask; of one video only one reads at a time.

    Args:
        opener: opens the videos.
    """

    def __init__(self, opener: VideoOpener) -> None:
        self._opener, self._lock = opener, threading.Lock()
        self._players: OrderedDict[Path, _Player] = OrderedDict()
        self._kept = _Kept()
        self._ahead = ThreadPoolExecutor(1, "pictures ahead")

    def info(self, path: Path) -> tuple[VideoInfo, NDArray[np.float64]]:
        """Facts of a video, and the time of each of its pictures, float64 ``[N]``. Raises ``DecodeError``."""
        player = self._player(path)
        return player.info, player.pts_seconds

    def jpeg(self, path: Path, number: int) -> bytes:
        """Picture ``number`` of a video; the next ones are read meanwhile. Raises ``DecodeError``."""
        with self._lock:
            found = self._kept.get(path, number)
        block = number // _BLOCK
        if found is None:
            found = self._read(path, block)[number]
        self._ahead.submit(self._read_ahead, path, block + 1)
        return found

    def _read_ahead(self, path: Path, block: int) -> None:
        with suppress(DecodeError, ValueError):  # who asks for it is told
            with self._lock:
                player = self._players.get(path)
                is_there = self._kept.get(path, block * _BLOCK) is not None
            if player and not is_there and block * _BLOCK < player.info.num_frames:
                self._read(path, block)

    def _read(self, path: Path, block: int) -> dict[int, bytes]:
        player = self._player(path)
        with player.lock:
            first = block * _BLOCK
            with self._lock:
                there = {n: self._kept.get(path, n) for n in range(first, min(first + _BLOCK, player.info.num_frames))}
            if there and None not in there.values():  # somebody else was quicker
                return {number: jpeg for number, jpeg in there.items() if jpeg is not None}
            try:
                images = player.block(block)
            except ValueError:  # closed meanwhile, to make room for another
                images = []
            ratio = player.info.sample_aspect_ratio
            jpegs = {first + place: _as_jpeg(image, ratio) for place, image in enumerate(images)}
            with self._lock:
                for number, jpeg in jpegs.items():
                    self._kept.put(path, number, jpeg)
        return jpegs or self._read(path, block)

    def _player(self, path: Path) -> _Player:
        with self._lock:
            if path in self._players:
                self._players.move_to_end(path)
                return self._players[path]
        player = _Player(self._opener.open(path))
        with self._lock:
            if path in self._players:
                player.close()
                return self._players[path]
            self._players[path] = player
            surplus = [self._players.popitem(last=False)[1] for _ in range(len(self._players) - _MAX_OPEN)]
        for other in surplus:
            with other.lock:
                other.close()
        return player

    def close(self) -> None:
        """Close all videos."""
        self._ahead.shutdown(cancel_futures=True)
        while self._players:
            self._players.popitem()[1].close()


def _as_jpeg(image: Image, ratio: Fraction) -> bytes:
    shown = as_shown(image, ratio)
    height, width = shown.shape[:2]
    if width > _MAX_WIDTH_PX:
        shown = resized(shown, _MAX_WIDTH_PX, round(height * _MAX_WIDTH_PX / width))
    return as_jpeg(shown, _QUALITY)
