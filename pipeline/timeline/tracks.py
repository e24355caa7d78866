"""``Tracks``: segments of several labels at once, each label by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.clip import Segment
from pipeline.config import TimelineConfig
from pipeline.timeline.scores import WindowScores
from pipeline.timeline.segments import Timeline


class Tracks:
    """A ``Timeline`` for each label, which is there or not: segments of different labels may overlap. Arguments and
    methods as of ``Timeline``."""

    def __init__(
        self,
        labels: Sequence[str],
        sample_fps: float,
        config: TimelineConfig | None = None,
        end_seconds: float = math.inf,
    ) -> None:
        self.config = config or TimelineConfig()
        absent = self.config.background_label
        self._tracks = [Timeline((label, absent), sample_fps, self.config, end_seconds) for label in labels]

    def push(self, scored: WindowScores) -> list[Segment]:
        """The segments that are final with this window."""
        return _in_order(
            segment
            for track, share in zip(self._tracks, scored.probabilities, strict=True)
            for segment in track.push(replace(scored, probabilities=np.array([share, 1 - share], np.float32)))
        )

    def finish(self, end_seconds: float | None = None) -> list[Segment]:
        """Ends everything."""
        return _in_order(segment for track in self._tracks for segment in track.finish(end_seconds))

    @property
    def open(self) -> Segment | None:
        """Of the labels that are there now, the one with the highest score."""
        found = [segment for track in self._tracks if (segment := track.open) is not None]
        return max(found, key=lambda segment: segment.score, default=None)


def _in_order(segments: Iterable[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda segment: (segment.end_seconds, segment.start_seconds, segment.label))
