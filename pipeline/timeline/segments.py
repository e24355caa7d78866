"""``Timeline``: scores of windows go in as they come, segments come out as they are final."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.clip import Segment
from pipeline.config import TimelineConfig
from pipeline.sampling import Window, grid_range, grid_seconds
from pipeline.timeline.runs import Hysteresis, Run, RunBuilder, run_of_frame
from pipeline.timeline.scores import FrameMeans, FrameScore, MovingAverage, WindowScores


class _Stages:
    """From windows to final runs: everything that a timeline remembers."""

    def __init__(self, sample_fps: float, config: TimelineConfig) -> None:
        self.means = FrameMeans()
        self._average = MovingAverage(round(config.smoothing_seconds * sample_fps / 2))
        self._labels = Hysteresis(config.enter_threshold or 0.0, config.keep_threshold)
        self._runs = RunBuilder((config.min_seconds or 0.0) * sample_fps)

    def push(self, scored: WindowScores) -> list[Run]:
        # The rule's answer goes the way of the probabilities: averaged over the windows of a frame, and smoothed.
        scored = replace(scored, probabilities=np.append(scored.probabilities, np.float32(scored.is_unknown)))
        return self._label([score for frame in self.means.push(scored) for score in self._average.push(frame)])

    def finish(self, end_frame: float) -> list[Run]:
        smooth = [score for frame in self.means.flush() for score in self._average.push(frame)]
        return self._label(smooth + self._average.flush()) + self._runs.finish(end_frame)

    @property
    def held(self) -> list[Run]:
        return [] if self._runs.held is None else [self._runs.held]

    def _label(self, frames: Sequence[FrameScore]) -> list[Run]:
        return [run for frame in frames for run in self._runs.push(run_of_frame(frame, self._labels.label(frame[1])))]


class Timeline:
    """Segments from the scores of windows, in memory that does not grow with the length of the video.

    A window may cover many grid frames or, where a model answers at each frame, just one. A segment comes out when it
    cannot change any more: after the windows that cover its end, half the smoothing, and the minimum length of what
    follows it.

    Args:
        labels: ``[K]`` class names.
        sample_fps: grid frames per second.
        config: smoothing, thresholds, minimum length, background label.
        end_seconds: where the video ends, if that is known: grid frames at or past it are left out.
    """

    def __init__(
        self,
        labels: Sequence[str],
        sample_fps: float,
        config: TimelineConfig | None = None,
        end_seconds: float = math.inf,
    ) -> None:
        self.config = (config or TimelineConfig()).completed()
        self._labels = (*labels, self.config.unknown_label)
        self._silent = {self.config.background_label}
        if not self.config.report_unknown:
            self._silent.add(self.config.unknown_label)
        self._sample_fps, self._end_seconds = sample_fps, end_seconds
        self._stop = math.inf if math.isinf(end_seconds) else grid_range(sample_fps, 0.0, end_seconds).stop
        self._stages: _Stages | None = None  # None: nothing since the start or the last finish

    def push(self, scored: WindowScores) -> list[Segment]:
        """The segments that are final with this window. Where windows leave frames out, everything ends at the gap.

        Raises:
            ValueError: the window starts before one that was pushed earlier.
        """
        window = scored.window
        if window.start >= self._stop:
            return []
        if window.stop > self._stop:
            scored = replace(scored, window=Window(window.start, int(self._stop)))
        ended = []
        if self._stages is not None and window.start > self._stages.means.stop:
            ended = self.finish()
        if self._stages is None:
            self._stages = _Stages(self._sample_fps, self.config)
        return ended + self._segments(self._stages.push(scored), math.inf)

    def finish(self, end_seconds: float | None = None) -> list[Segment]:
        """Ends everything, at the end of the last frame or at ``end_seconds`` if that is earlier; returns the segments
        that were not final yet. The timeline may then be pushed to again, as after a lost signal."""
        stages, self._stages = self._stages, None
        if stages is None:
            return []
        end = self._end_seconds if end_seconds is None else min(end_seconds, self._end_seconds)
        return self._segments(stages.finish(end * self._sample_fps), end)

    @property
    def open(self) -> tuple[Segment, ...]:
        """The segment that would come out last, up to now, if the video ended now: what a live screen shows; none
        where that is background or unknown, or nothing has been seen."""
        if self._stages is None:
            return ()
        stages = copy.deepcopy(self._stages)
        return tuple(self._segments(stages.finish(math.inf)[-1:], self._end_seconds))

    @property
    def begun(self) -> tuple[Segment, ...]:
        """The segment, up to now, that is sure to come out with this label and start, as it has lasted long enough, and
        has not ended; none where that is background or unknown, or nothing has been seen."""
        return () if self._stages is None else tuple(self._segments(self._stages.held, self._end_seconds))

    def _segments(self, runs: Sequence[Run], end_seconds: float) -> list[Segment]:
        return [
            Segment(start, min(stop, end_seconds), self._labels[run.label], min(run.score(run.label), 1.0))
            for run in runs
            for start, stop in [grid_seconds([run.start, run.stop], self._sample_fps)]
            if self._labels[run.label] not in self._silent and start < end_seconds
        ]


def merge_segments(
    windows: Iterable[WindowScores],
    labels: Sequence[str],
    sample_fps: float,
    end_seconds: float,
    config: TimelineConfig | None = None,
) -> Iterator[Segment]:
    """Segments of a video from the scores of its windows, each as soon as it is final.

    Args:
        windows: in order.
        labels: ``[K]`` class names.
        sample_fps: grid frames per second.
        end_seconds: where the video ends; the last grid frame lasts until there.
        config: how scores become segments.
    """
    timeline = Timeline(labels, sample_fps, config, end_seconds)
    for scored in windows:
        yield from timeline.push(scored)
    yield from timeline.finish()
