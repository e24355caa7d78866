"""Counts of a run, and the time of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from time import perf_counter


@dataclass
class RunStats:
    """Counts and seconds of one run. The stages overlap: decoding has a thread of its own."""

    frames_decoded: int = 0
    """Grid frames taken from the video."""
    frames_embedded: int = 0
    """Frames that passed the backbone."""
    windows: int = 0
    """Windows scored; in a stream, frames scored."""
    frames_reused: int = 0
    """Times a window read a frame's features without embedding it."""
    decode_seconds: float = 0.0
    """Decoding, converting and fitting, in the thread that does it."""
    wait_seconds: float = 0.0
    """Waiting for that thread."""
    embed_seconds: float = 0.0
    """Transforms, backbone, and what the temporal heads do with each frame alone."""
    score_seconds: float = 0.0
    """Temporal heads and classifier."""

    def __add__(self, other: RunStats) -> RunStats:
        return RunStats(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time that the block takes to ``<stage>_seconds``."""
        start = perf_counter()
        try:
            yield
        finally:
            name = f"{stage}_seconds"
            setattr(self, name, getattr(self, name) + perf_counter() - start)
