"""``Tracks``: segments of several labels at once, each label by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline.clip import Segment
from pipeline.config import TimelineConfig
from pipeline.timeline.scores import WindowScores
from pipeline.timeline.segments import Timeline

_EVEN_CHANCE = 0.5


class Tracks:
    """A ``Timeline`` for each label, which is there or not: segments of different labels may overlap. Methods as of
    ``Timeline``.

    Args:
        labels, sample_fps, config, end_seconds: as of ``Timeline``; ``config.enter_threshold`` is for all labels.
        thresholds: where ``config`` has none, that of each label; empty: 0.5.
    """

    def __init__(
        self,
        labels: Sequence[str],
        sample_fps: float,
        config: TimelineConfig | None = None,
        end_seconds: float = math.inf,
        thresholds: Sequence[float] = (),
    ) -> None:
        self.config = config or TimelineConfig()
        given = self.config.enter_threshold
        each = thresholds or [_EVEN_CHANCE] * len(labels)
        # What is no label is unknown to a timeline of one label alone, and makes no segments here.
        configs = [
            replace(self.config, enter_threshold=own if given is None else given, report_unknown=False) for own in each
        ]
        self._tracks = [
            Timeline((label,), sample_fps, own, end_seconds) for label, own in zip(labels, configs, strict=True)
        ]

    def push(self, scored: WindowScores) -> list[Segment]:
        """The segments that are final with this window."""
        return _in_order(
            segment
            for place, track in enumerate(self._tracks)
            for segment in track.push(replace(scored, probabilities=scored.probabilities[place : place + 1]))
        )

    def finish(self, end_seconds: float | None = None) -> list[Segment]:
        """Ends everything."""
        return _in_order(segment for track in self._tracks for segment in track.finish(end_seconds))

    @property
    def open(self) -> tuple[Segment, ...]:
        """The segments of all labels that are there now, in the order of the labels."""
        return tuple(segment for track in self._tracks for segment in track.open)

    @property
    def begun(self) -> tuple[Segment, ...]:
        """The segments that are sure to come out and have not ended, in the order of the labels."""
        return tuple(segment for track in self._tracks for segment in track.begun)


def _in_order(segments: Iterable[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda segment: (segment.end_seconds, segment.start_seconds, segment.label))
