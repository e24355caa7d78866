"""Grid frames of a video."""

from __future__ import annotations

import itertools
from collections.abc import Generator

from pipeline.clip import Image
from pipeline.config import SamplingConfig
from pipeline.decode import VideoReader
from pipeline.inference.runtime import Fit
from pipeline.inference.stats import RunStats
from pipeline.sampling import grid_seconds, lengthen


def grid_frames(
    reader: VideoReader, sampling: SamplingConfig, fit: Fit, num_needed: int, stats: RunStats
) -> Generator[Image, None, None]:
    """Grid frames of an open video as ``fit`` makes them, uint8 ``[3, S, S]``, in order; a video with fewer than
    ``num_needed`` is lengthened as ``sampling.short_video`` says. Counts what it decodes, and the time that takes, in
    ``stats``."""
    frames = _fitted(reader, sampling.sample_fps, fit, stats)
    first = list(itertools.islice(frames, num_needed))
    if len(first) < num_needed:
        first = [first[i] for i in lengthen(range(len(first)), num_needed, sampling.short_video)]
    yield from first
    yield from frames


def _fitted(reader: VideoReader, sample_fps: float, fit: Fit, stats: RunStats) -> Generator[Image, None, None]:
    times = (time for k in itertools.count() for time in grid_seconds([k], sample_fps))
    source, sample_aspect_ratio = reader.images_at(times), reader.info.sample_aspect_ratio
    while True:
        with stats.timed("decode"):
            shown = next(source, None)
            if shown is None:
                return
            stats.frames_decoded += 1
            fitted = fit(shown[0], sample_aspect_ratio)
        yield fitted
