"""Made-up live sources: a square that wanders over a coloured ground, and labels that change with what it does."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.streaming.status import Command, SourceState, SourceStatus, View

LABELS = (
    "waving",
    "clapping",
    "walking",
    "sitting down",
    "standing up",
    "pouring",
    "opening a door",
    "reading",
    "jump",
)
STEPS_PER_SECOND = 10


def wandering_square(step: int, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """RGB ``[H, W, 3]``; no two of the first hundred steps give the same picture."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, :, 0], picture[:, :, 1], picture[:, :, 2] = 30 + 50 * rows, 50 + 60 * columns, 130 - 40 * rows
    size = height // 5
    left = int((width - size) * (0.5 + 0.5 * math.sin(step / 13)))
    top = int((height - size) * (0.5 + 0.5 * math.cos(step / 7)))
    picture[top : top + size, left : left + size] = (240, 180, 40)
    return picture


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
            labels=(label,) if rest < 4 else (),
            top=((label, score), *zip(others, shares, strict=True))[:5],
            message=self.message,
            frames_in=3 * step,
            frames_used=step,
            frames_dropped=step // 40,
            latency_ms={"p50": 41.7, "p95": 63.2, "p99": 88.9},
            stage_ms={"embed": 22.4, "score": 1.31, "show": 0.08},
        )


class Feeder:
    """Shows sources to a view from a thread of its own, as the loop that recognises does; for a ``with`` statement.

    Attributes:
        sources: what is shown from the next step on; may be replaced at any time.
        commands: what came back from the view, in order.
    """

    def __init__(
        self, view: View, sources: Sequence[LiveSource], step: int = 0, interval_seconds: float = 0.05
    ) -> None:
        self.view, self.sources, self.step = view, sources, step
        self.commands: list[Command] = []
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder")

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            self.commands += self.view.show([source.status(self.step) for source in self.sources])
            self.step += 1


def main() -> None:
    """The live page with made-up sources, until somebody presses Quit: python -m tests.live"""
    from pipeline.streaming.serve import PageView

    view = PageView(port=0)
    print(view.url, flush=True)
    stalled = LiveSource("camera 1", LABELS[2:5], state="stalled", message="no picture for 4.2 s; connecting again")
    with Feeder(view, [LiveSource(labels=LABELS), stalled], step=600, interval_seconds=1 / STEPS_PER_SECOND) as feeder:
        while "quit" not in feeder.commands:
            time.sleep(0.1)
    view.close()


if __name__ == "__main__":
    main()
