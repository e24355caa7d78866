"""Made-up live sources: a square that wanders over a coloured ground, and labels that change with what it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.streaming.status import SourceState, SourceStatus

LABELS = ("waving", "clapping", "walking", "sitting down", "standing up", "pouring", "opening a door", "reading", "jump")
STEPS_PER_SECOND = 10


def wandering_square(step: int, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """RGB ``[H, W, 3]``; no two of the first hundred steps give the same picture."""
    columns, rows = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = np.stack([30 + 50 * rows, 50 + 60 * columns, 90 + 40 * rows * columns], axis=-1)
    size = height // 5
    left = int((width - size) * (0.5 + 0.5 * math.sin(step / 13)))
    top = int((height - size) * (0.5 + 0.5 * math.cos(step / 7)))
    picture[top : top + size, left : left + size] = (240, 180, 40)
    return picture.astype(np.uint8)


@dataclass(frozen=True)
class LiveSource:
    """What one source shows at each step."""

    name: str = "camera 0"
    labels: Sequence[str] = LABELS[:3]
    """One after the other, each for 4 seconds, with a second of nothing between."""
    state: SourceState = "live"
    message: str = ""
    width: int = 320
    height: int = 240

    def status(self, step: int) -> SourceStatus:
        time_seconds = step / STEPS_PER_SECOND
        turn, rest = divmod(time_seconds, 5)
        label = self.labels[int(turn) % len(self.labels)]
        score = 0.93 - 0.1 * abs(math.sin(step / 9))
        others = [name for name in self.labels if name != label]
        shares = [(1 - score) * 0.6**index * 0.4 for index in range(len(others))]
        return SourceStatus(
            name=self.name,
            state=self.state,
            picture=wandering_square(step, self.width, self.height),
            time_seconds=time_seconds,
            label=label if rest < 4 else None,
            top=((label, score), *zip(others, shares, strict=True))[:5],
            message=self.message,
            frames_in=3 * step,
            frames_used=step,
            frames_dropped=step // 40,
            latency_ms={"p50": 41.7, "p95": 63.2, "p99": 88.9},
            stage_ms={"embed": 22.4, "score": 1.31, "show": 0.08},
        )
