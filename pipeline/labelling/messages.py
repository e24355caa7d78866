"""Messages between the page and the processes that work for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.annotations import VideoRow
from pipeline.labelling.proposals import Offer

WINDOW_SECONDS = 8.0
"""Of a stretch that is offered."""


@dataclass(frozen=True)
class VideoDrafts:
    """Drafts for a video, by a model or by motion alone."""

    labels: tuple[str, ...]
    sample_fps: float
    scores: NDArray[np.uint8]
    """``[G, K]``: probabilities times 255."""
    segments: tuple[tuple[str, float, float, float], ...]
    """Label (``?`` if it is not known), start and end in seconds, score."""


@dataclass(frozen=True)
class LearnJob:
    """The data of one learning.

    Attributes:
        rows: labelled stretches.
        rejected: by video, drafts that were wrong, in seconds.
        paths: of all videos, the one that is waited for first.
        order: of what is offered: useful or random.
        output: the model file to write; None: none.
        may_overlap: several labels may be there at a time.
    """

    rows: tuple[VideoRow, ...]
    rejected: Mapping[str, Sequence[tuple[float, float]]]
    paths: Mapping[str, Path]
    order: str = "useful"
    output: Path | None = None
    seed: int = 0
    may_overlap: bool = False


@dataclass(frozen=True)
class News:
    """A message of a worker."""

    kind: str
    """embedding, embedded, bad, stage, drafts, learned, failed."""
    video: str = ""
    words: str = ""
    share: float | None = None
    drafts: VideoDrafts | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    offers: tuple[Offer, ...] = ()


def as_bytes(scores: NDArray[Any]) -> NDArray[np.uint8]:
    """Return probabilities times 255."""
    result: NDArray[np.uint8] = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
    return result


class StageClock:
    """Seconds by stage."""

    def __init__(self, tell: Callable[[News], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._tell = tell

    @contextmanager
    def stage(self, name: str, share: float) -> Iterator[None]:
        """Count what is done while this is open."""
        self._tell(News("stage", words=name, share=share, seconds=dict(self.seconds)))
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begin, 3)
