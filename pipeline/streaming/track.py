"""Track: one source's way from grid frames to scores and segments, with all that is remembered of its past."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.clip import Image, Segment
from pipeline.config import InferenceConfig, TimelineConfig
from pipeline.inference import Model
from pipeline.inference.arrays import Features, joined, stacked
from pipeline.inference.scorers import Scorer
from pipeline.sampling import Window
from pipeline.streaming.feeds import Portion
from pipeline.timeline.scores import WindowScores
from pipeline.timeline.segments import Timeline


@dataclass(frozen=True)
class Scored:
    """Scores and segments from one portion."""

    windows: tuple[WindowScores, ...] = ()
    """Counted in grid frames since the source's first picture."""
    segments: tuple[Segment, ...] = ()
    """Segments that are final now."""

    def __add__(self, other: Scored) -> Scored:
        return Scored(self.windows + other.windows, self.segments + other.segments)


class SourceTrack:
    """Scores the grid frames of one source. A lost signal ends a sequence and begins another, with a new state; times
    go on.

    A grid frame that shows the picture before is scored again without being embedded again: its features are those of
    that picture, or, for a model that reads the change between frames, those of no change. So it scores as in a file in
    which the picture stands still.

    Args:
        model: embeds and scores.
        inference: windows, or a stream.
        timeline: how scores become segments.
        still: ``[1, ...]``, the output of ``Model.embed`` where nothing changes.
        end_seconds: where the source ends, if that is known.
    """

    def __init__(
        self,
        model: Model,
        inference: InferenceConfig,
        timeline: TimelineConfig,
        still: Features,
        end_seconds: float = math.inf,
    ) -> None:
        self._model, self._inference, self._still = model, inference, still
        self._num_context = model.file.transform.lookback_frames
        self.timeline = Timeline(model.labels, model.file.sampling.sample_fps, timeline, end_seconds)
        self._scorer: Scorer | None = None  # None: no sequence is under way
        self._base_index = self._next_index = 0  # where the sequence began on the grid, and where it goes on
        self._previous = np.empty(0, np.uint8)  # uint8 [context, 3, S, S]: the sequence's last pictures
        self._held: Features = None  # [1, ...]: what a repeated picture is scored by

    def begin(self, portion: Portion) -> Scored:
        """Must come first for each portion: ends the sequence that it does not continue."""
        if self._scorer is not None and not portion.is_first:
            return Scored()
        ended = self.end()
        if len(portion.frames):  # what is held from before the end belongs to what has ended
            self._scorer = self._model.scorer(self._inference)
            self._base_index = self._next_index = portion.first_index + portion.num_held
            self._previous, self._held = portion.frames[:0], self._still if self._num_context else None
        return ended

    def inputs(self, portion: Portion) -> Image:
        """uint8 ``[n, 1 + context, 3, S, S]``: the new frames that have to be embedded, each behind its context."""
        if not self._num_context:
            return portion.frames[:, None]
        frames: Image = joined([self._previous, portion.frames])
        self._previous = frames[len(frames) - self._num_context :]
        num_whole = max(len(frames) - self._num_context, 0)
        inputs: Image = stacked([frames[i : i + num_whole] for i in range(1 + self._num_context)], axis=1)
        return inputs

    def push(self, portion: Portion, projected: Features) -> Scored:
        """Scores the portion; ``projected [n, ...]`` is what became of its ``inputs``."""
        if self._scorer is None:
            return Scored()
        first_new = portion.first_index + portion.num_held
        num_held, self._next_index = first_new - self._next_index, first_new + len(portion.frames)
        parts = [projected]
        if num_held and self._held is not None:
            parts = [*[self._held] * num_held, projected]
        if not self._num_context and len(projected):
            self._held = joined([projected[-1:]])  # a copy, so that it does not keep a whole batch alive
        whole = joined(parts) if len(parts) > 1 else projected
        return self._segmented(self._scorer.push(whole)) if len(whole) else Scored()

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
        return Scored(tuple(moved), tuple(segment for s in moved for segment in self.timeline.push(s)))
