"""Pictures of a video side by side in one JPEG: a thumbnail that a page plays by showing one after the other."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, VideoReader
from pipeline.errors import DecodeError
from pipeline.report.drawing import as_jpeg, as_shown, shrunk
from pipeline.run_report.records import Answer

NUM_PICTURES = 12
_MAX_SIDE_PX = 160
_JPEG_QUALITY = 68
_MAX_MEMORY_BYTES = 100_000_000


@dataclass(frozen=True)
class Thumbnail:
    """Pictures in a row, of one size, evenly spread over a labelled stretch."""

    jpeg: bytes
    num_pictures: int
    width: int
    """Of one picture, in pixels."""
    height: int
    start_seconds: float
    end_seconds: float

    @property
    def address(self) -> str:
        """The JPEG as a data URL, for inside a page."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


def make_thumbnails(
    answers: Sequence[Answer], decode: DecodeConfig, max_bytes: int
) -> Iterator[tuple[Answer, Thumbnail | None]]:
    """The videos of some answers as thumbnails, while they fit: none for those that cannot be read now, and for those
    after the one that would pass ``max_bytes`` of page."""
    left = max_bytes
    with VideoOpener(decode) as opener:
        for answer in answers:
            thumbnail = _thumbnail(answer, opener) if left > 0 else None
            left -= len(thumbnail.address) if thumbnail else 0
            yield answer, thumbnail if left >= 0 else None


def _thumbnail(answer: Answer, opener: VideoOpener) -> Thumbnail | None:
    try:
        with opener.open(answer.path) as reader:
            end_seconds = min(answer.end_seconds or reader.info.duration_seconds, reader.info.duration_seconds)
            length = end_seconds - answer.start_seconds
            times = [answer.start_seconds + length * (place + 0.5) / NUM_PICTURES for place in range(NUM_PICTURES)]
            ratio = reader.info.sample_aspect_ratio
            shown = (as_shown(picture, ratio) for part in _in_memory(times, reader) for picture in part)
            pictures = [shrunk(picture, _MAX_SIDE_PX) for picture in shown]
    except DecodeError:
        return None
    height, width = pictures[0].shape[:2]
    row = as_jpeg(np.concatenate(pictures, axis=1), _JPEG_QUALITY)
    return Thumbnail(row, len(pictures), width, height, answer.start_seconds, end_seconds)


def _in_memory(times_seconds: Sequence[float], reader: VideoReader) -> Iterator[NDArray[np.uint8]]:
    """The pictures at some times, ``[T, H, W, 3]``, as many at once as memory is given for."""
    count = max(1, _MAX_MEMORY_BYTES // (3 * reader.info.width * reader.info.height))
    for place in range(0, len(times_seconds), count):
        frames = reader.at(times_seconds[place : place + count]).frames
        yield frames.permute(0, 2, 3, 1).numpy()  # [T, 3, H, W] -> [T, H, W, 3]
