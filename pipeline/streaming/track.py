"""Track: one source's way from grid frames to scores and segments, with all that is remembered of its past."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pipeline.clip import Segment
from pipeline.config import InferenceConfig, TimelineConfig
from pipeline.embedding.arrays import Features, joined
from pipeline.inference import Model
from pipeline.inference.scorers import Scorer
from pipeline.sampling import Window
from pipeline.streaming.feeds import Portion
from pipeline.timeline.scores import WindowScores


@dataclass(frozen=True)
class Begun:
    """A segment that is sure to come, and has not ended."""

    segment: Segment
    """Up to now; label and start are final."""


@dataclass(frozen=True)
class Scored:
    """Scores and segments from one portion."""

    windows: tuple[WindowScores, ...] = ()
    """Counted in grid frames since the source's first picture."""
    segments: tuple[Segment | Begun, ...] = ()
    """Segments that are final now, and those that have begun, in the order in which that became known."""

    def __add__(self, other: Scored) -> Scored:
        return Scored(self.windows + other.windows, self.segments + other.segments)


class SourceTrack:
    """Scores the grid frames of one source. A lost signal ends a sequence and begins another, with a new state; times
    go on.

    A grid frame that shows the picture before is not embedded again and scores as in a file in which the picture stands
    still.

    Attributes:
        embedder: of the source's frames.
        timeline: the segments.

    Args:
        model: embeds and scores.
        inference: windows, or a stream.
        timeline: how scores become segments.
        end_seconds: where the source ends, if that is known.
    """

    def __init__(
        self, model: Model, inference: InferenceConfig, timeline: TimelineConfig, end_seconds: float = math.inf
    ) -> None:
        self._model, self._inference = model, inference
        self.embedder = model.embedder()
        self.timeline = model.timeline(timeline, end_seconds)
        self._scorer: Scorer | None = None  # None: no sequence is under way
        self._begun: set[tuple[str, float]] = set()  # label and start of those told
        self._base_index = self._next_index = 0  # where the sequence began on the grid, and where it goes on

    def begin(self, portion: Portion) -> Scored:
        """Must come first for each portion: ends the sequence that it does not continue."""
        if self._scorer is not None and not portion.is_first:
            return Scored()
        ended = self.end()
        if len(portion.frames):  # what is held from before the end belongs to what has ended
            self._scorer = self._model.scorer(self._inference)
            self._base_index = self._next_index = portion.first_index + portion.num_held
            self.embedder.reset()
        return ended

    def hold(self, portion: Portion) -> Features:
        """Features ``[n, ...]`` of the grid frames up to the portion's new ones, which show the picture before; None if
        there are none. Comes before the new ones are embedded."""
        if self._scorer is None:
            return None
        first_new = portion.first_index + portion.num_held
        num_held, self._next_index = first_new - self._next_index, first_new + len(portion.frames)
        return self.embedder.hold(num_held)

    def push(self, held: Features, new: Features) -> Scored:
        """Scores what ``hold`` gave, then the features ``[n, ...]`` of the portion's new frames, or None."""
        parts = [part for part in (held, new) if part is not None]
        if self._scorer is None or not parts:
            return Scored()
        return self._segmented(self._scorer.push(joined(parts) if len(parts) > 1 else parts[0]))

    def end(self) -> Scored:
        """Ends the sequence, as the end of a file does."""
        if self._scorer is None:
            return Scored()
        scorer, self._scorer = self._scorer, None
        last = self._segmented(scorer.finish())
        return last + Scored(segments=tuple(self.timeline.finish()))

    def _segmented(self, scores: list[WindowScores]) -> Scored:
        base = self._base_index
        moved = [replace(s, window=Window(s.window.start + base, s.window.stop + base)) for s in scores]
        return Scored(tuple(moved), tuple(event for s in moved for event in self._pushed(s)))

    def _pushed(self, scored: WindowScores) -> list[Segment | Begun]:
        return [*self.timeline.push(scored), *self._new_begun()]

    def _new_begun(self) -> list[Begun]:
        before, begun = self._begun, self.timeline.begun
        self._begun = {(segment.label, segment.start_seconds) for segment in begun}
        return [Begun(segment) for segment in begun if (segment.label, segment.start_seconds) not in before]
