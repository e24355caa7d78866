"""``Assistant``: drafts of a model for the videos of a folder, made in the background, and what to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labelling.stretches import Span, VideoLabels


@dataclass(frozen=True)
class Draft:
    """A stretch that a model proposes."""

    span: Span
    """The part of it that nobody has labelled yet."""
    whole: Span
    """As the model sees it."""
    score: float


@dataclass(frozen=True)
class Offer:
    """A stretch whose label would help."""

    video: str
    start_seconds: float
    end_seconds: float
    why: str


class Assistant:
    """Stub."""

    def __init__(self) -> None:
        self.revision = 0

    def revision_of(self, name: str) -> int:
        return 0

    def drafts_of(self, video: VideoLabels) -> Sequence[Draft]:
        return []

    def scores_of(self, name: str) -> tuple[Sequence[str], float, NDArray[np.uint8]] | None:
        return None

    def status(self) -> dict[str, Any]:
        return {"state": "idle", "words": "", "figures": {}, "can_learn": False}

    def learn(self, first: str | None = None) -> None:
        pass

    def next_offer(self) -> Offer | None:
        return None

    def close(self) -> None:
        pass
