"""Numbers of frames and seconds, by the exact index of a video or at a rate that is given."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledVideo, Span, spans_of_steps

FEATURE_SUFFIX = ".npy"
"""Of files of features in the place of videos."""
_MAX_FRAMES = 20_000_000  # nearly four days at 60 a second
_SPARE_FRAMES, _SPARE_SHARE = 2, 0.01  # published label files are often a few lines shorter than their video


@dataclass(frozen=True)
class Clock:
    """The times at which the frames of a video begin, and its end."""

    times: Sequence[float]
    """Seconds, one more than there are frames; empty: frames come at ``fps``, and their number is not known."""
    fps: float = 0.0

    @property
    def num_frames(self) -> int:
        """Number of frames; 0 if it is not known."""
        return max(0, len(self.times) - 1)

    def seconds(self, frame: float) -> float:
        """The time at which a frame begins; of frames past the last one, the end."""
        if not self.times:
            return max(0.0, frame) / self.fps
        return self.times[min(max(round(frame), 0), self.num_frames)]

    def frame(self, seconds: float) -> int:
        """The frame that begins nearest to a time."""
        if not self.times:
            return _counted(seconds, self.fps)
        place = min(bisect_left(self.times, seconds), self.num_frames)
        return place - 1 if place and seconds - self.times[place - 1] < self.times[place] - seconds else place


ClockOf = Callable[[LabelledVideo], Clock]
"""Finds the clock of a video. Raises ``UserError`` where there is none."""
PathOf = Callable[[LabelledVideo], Path | None]
"""Finds the file of a video; None where there is none."""


def clock_at(fps: float, duration_seconds: float | None = None) -> Clock:
    """Return a clock of a constant rate, for a video that is so long."""
    if duration_seconds is None:
        return Clock((), fps)
    return Clock([frame / fps for frame in range(_counted(duration_seconds, fps) + 1)], fps)


def _counted(seconds: float, fps: float) -> int:
    """A number of frames from a file from anywhere, for which there is to be memory."""
    if seconds * fps > _MAX_FRAMES:
        raise UserError(
            f"{seconds:g} s at {fps:g} frames a second are more than {_MAX_FRAMES:,}, the most that are counted; mend "
            "the time, or write a format that has seconds"
        )
    return round(max(0.0, seconds) * fps)


def clock_of_file(path: Path, config: DecodeConfig) -> Clock:
    """Return the clock of a video file, by its index.

    Raises:
        UserError: it is a file of features, which has none.
        DecodeError: it cannot be read.
    """
    if path.suffix == FEATURE_SUFFIX:
        raise UserError(
            f"{path}: the labels are at frames of the video, and this is a file of features; set data.features_fps if "
            "there is a label for each of its steps, or write the times in seconds"
        )
    from pipeline.decode import VideoOpener  # readers of text need no decoder

    with VideoOpener(config).open(path) as reader:
        return Clock([*reader.pts_seconds.tolist(), reader.info.duration_seconds])


def in_seconds(video: LabelledVideo, path: Path, steps_a_second: float | None, config: DecodeConfig) -> LabelledVideo:
    """Return a video with spans in seconds: frame k begins when the file shows it, the end is that of the file.

    Args:
        video: with a label a step, or with spans in seconds or in frames.
        path: its file.
        steps_a_second: of labels a step; None: one for each frame of the file.
        config: to open it with.

    Raises:
        UserError: the file has no frames, or not as many as there are steps.
        DecodeError: it cannot be read.
    """
    if video.steps is not None and steps_a_second:
        return by_clock(video, Clock((), steps_a_second))
    if video.steps is None and not video.in_frames:
        return video
    clock = clock_of_file(path, config)
    if video.steps is not None:
        _check_number(len(video.steps), path, clock.num_frames)
    return by_clock(video, clock)


def by_clock(video: LabelledVideo, clock: Clock) -> LabelledVideo:
    """Return a video whose steps, or spans in frames, are spans in seconds."""
    if video.steps is None and not video.in_frames:
        return video
    spans: Sequence[Span] = video.spans if video.steps is None else spans_of_steps(video.steps, 1.0)
    duration = video.duration_seconds
    if video.steps is not None or clock.times:
        duration = clock.seconds(clock.num_frames if video.steps is None else len(video.steps))
    moved = tuple(
        replace(span, start_seconds=clock.seconds(span.start_seconds), end_seconds=clock.seconds(span.end_seconds))
        for span in spans
    )
    return replace(video, spans=moved, steps=None, in_frames=False, duration_seconds=duration)


def _check_number(count: int, path: Path, num_frames: int) -> None:
    if abs(count - num_frames) > max(_SPARE_FRAMES, _SPARE_SHARE * num_frames):
        raise UserError(
            f"{path} has {num_frames} frames, and {count} labels; set data.features_fps to the labels a second, if "
            "there is not one for each frame"
        )
