"""Choice of frames: clips for training and evaluation, and sliding windows. Pure arithmetic on the time grid.

Grid frame k stands for the picture shown at ``k / sample_fps`` seconds. A video, or a stretch of one, has the grid
frames whose time lies in its half-open interval ``[start, end)``:

    seconds   0         1         2         3
    grid      0 . 1 . 2 . 3 . 4 . 5 . 6          sample_fps = 2, duration 3.4 s: 7 grid frames
              |---clip----|                      num_frames = 4, start 0
                  |---clip----|                  start 1; the last possible start is 7 - 4 = 3
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from pipeline.config import SamplingConfig
from pipeline.errors import UserError

# Durations come from sums of floats and time bases; a grid time closer to the end than this is at the end.
_TOLERANCE_FRAMES = 1e-6


def grid_range(sample_fps: float, start_seconds: float, end_seconds: float) -> range:
    """The grid frames whose time lies in ``[start, end)``. Never empty: a stretch that falls between two grid
    frames is given the one before it.

    Raises:
        ValueError: the interval is empty or starts before 0.
    """
    if not 0 <= start_seconds < end_seconds:
        raise ValueError(f"need 0 <= start < end in seconds, got [{start_seconds}, {end_seconds})")
    first = math.ceil(start_seconds * sample_fps - _TOLERANCE_FRAMES)
    stop = math.ceil(end_seconds * sample_fps - _TOLERANCE_FRAMES)
    return range(first, stop) if stop > first else range(max(stop - 1, 0), max(stop, 1))


def grid_seconds(indices: Sequence[int], sample_fps: float) -> list[float]:
    """The time of each grid frame, in seconds, without the drift of adding up steps."""
    rate = Fraction(sample_fps).limit_denominator(1001)
    return [float(index / rate) for index in indices]


def lengthen(grid: Sequence[int], num_frames: int, policy: str) -> list[int]:
    """Grid frames of a video shorter than a clip, made ``num_frames`` long: ``hold_last``, ``loop`` or ``error``.

    Raises:
        UserError: the policy is ``error`` and the video is too short.
    """
    if len(grid) >= num_frames:
        return list(grid)
    if policy == "error":
        raise UserError(
            f"the video has {len(grid)} grid frames and a clip needs {num_frames}; set sampling.short_video to "
            "hold_last or loop, or sample more frames a second"
        )
    if policy == "loop":
        return [grid[i % len(grid)] for i in range(num_frames)]
    return [grid[min(i, len(grid) - 1)] for i in range(num_frames)]


def spread(length: int, count: int) -> list[int]:
    """``count`` positions in ``range(length)``, each the middle of one of ``count`` equal parts (Wang et al.,
    "Temporal Segment Networks", 2016). Repeats positions when ``count > length``."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def part_edges(length: int, count: int) -> list[int]:
    """Starts of ``count`` equal parts of ``range(length)``, and the end of the last one: ``count + 1`` positions."""
    return [i * length // count for i in range(count + 1)]


def training_clip(grid: range, config: SamplingConfig, num_frames: int, rng: np.random.Generator) -> list[int]:
    """``num_frames`` grid frames of one training clip.

    Dense: consecutive from a random start. Uniform: one at a random place in each of as many equal parts.
    """
    frames = lengthen(grid, num_frames, config.short_video)
    if config.mode == "dense":
        start = int(rng.integers(0, len(frames) - num_frames + 1))
        return frames[start : start + num_frames]
    return [frames[int(rng.integers(low, high))] for low, high in pairwise(part_edges(len(frames), num_frames))]


def evaluation_clips(grid: range, config: SamplingConfig, num_frames: int) -> list[list[int]]:
    """``num_frames`` grid frames of each evaluation clip of a video, without chance.

    ``num_eval_clips`` clips, fewer if the video has no more different ones. Dense: with evenly spaced starts. Uniform:
    each takes another place of every part.
    """
    frames = lengthen(grid, num_frames, config.short_video)
    if config.mode == "uniform":
        places = spread(len(frames), num_frames * config.num_eval_clips)
        clips = [[frames[i] for i in places[first :: config.num_eval_clips]] for first in range(config.num_eval_clips)]
        return [clip for clip, before in zip(clips, [None, *clips], strict=False) if clip != before]
    num_starts = len(frames) - num_frames + 1
    starts = sorted(set(spread(num_starts, min(config.num_eval_clips, num_starts))))
    return [frames[start : start + num_frames] for start in starts]


@dataclass(frozen=True)
class Window:
    """Consecutive grid frames ``[start, stop)`` that a model scores together."""

    start: int
    stop: int

    def seconds(self, sample_fps: float, end_seconds: float) -> tuple[float, float]:
        """The stretch of video this window stands for; each grid frame lasts until the next, or the video's end."""
        start, stop = grid_seconds([self.start, self.stop], sample_fps)
        return start, min(stop, end_seconds)


def window_starts(num_grid_frames: int, num_frames: int, stride: int) -> Iterator[int]:
    """Start of each window over a video of that many grid frames: every ``stride``, and one more that ends with the
    video if the stride does not land there, so that every frame is in a window. One window if the video is short.

    Raises:
        ValueError: a count or the stride is not positive.
    """
    if min(num_grid_frames, num_frames, stride) < 1:
        raise ValueError(f"counts must be positive: {num_grid_frames=} {num_frames=} {stride=}")
    last = max(num_grid_frames - num_frames, 0)
    yield from range(0, last, stride)
    yield last
