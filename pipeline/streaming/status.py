"""State of a live source at one moment, and the interface of its views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

SourceState = Literal["connecting", "live", "stalled", "paused", "ended"]
Command = Literal["quit", "pause", "reset"]


@dataclass(frozen=True)
class SourceTotals:
    """Counts of one source since the start, for programs that watch."""

    reconnects: int = 0
    """Connections that gave pictures after the first one."""
    segments: tuple[tuple[str, int], ...] = ()
    """Segments that are final, by label."""
    latency_counts: tuple[int, ...] = ()
    """Frames whose label came within each of ``latency.BOUNDS_SECONDS`` after they were grabbed; then all."""
    latency_seconds: float = 0.0
    """Sum of these latencies."""


@dataclass(frozen=True)
class SourceStatus:
    """One source, as somebody who watches should see it. Rates, counts and latencies are since the start."""

    name: str
    """Name as given on the command line, without any password."""
    state: SourceState
    picture: NDArray[np.uint8] | None = None
    """The newest picture scored: RGB ``[H, W, 3]``; None before the first."""
    time_seconds: float = 0.0
    """Time of that picture, since the source's first one."""
    label: str | None = None
    """Label of the segment that is open now, of several the one that scores best; None when nothing is recognised."""
    labels: tuple[str, ...] = ()
    """Labels of all segments that are open now, in the order of the model's labels."""
    top: tuple[tuple[str, float], ...] = ()
    """Labels and scores of the last step, best first."""
    message: str = ""
    """The last event in words: signal lost, reconnected, ..."""
    frames_in: int = 0
    """Pictures grabbed from the source."""
    frames_used: int = 0
    """Frames embedded and scored."""
    frames_dropped: int = 0
    """Grid frames that came and went while the model was busy."""
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds from grabbing a frame to its label: p50, p95, p99."""
    stage_ms: dict[str, float] = field(default_factory=dict)
    """Mean milliseconds a step: embed, score, show."""
    totals: SourceTotals = SourceTotals()
    """More counts."""


class View(Protocol):
    """A view of the live state: a window, a page, or none."""

    def show(self, statuses: Sequence[SourceStatus]) -> Sequence[Command]:
        """Shows the sources as they are now, without waiting for anybody; called after every step.

        Returns:
            Commands of those who watch since the last call.
        """

    def close(self) -> None:
        """Takes the view away. May be called twice."""
