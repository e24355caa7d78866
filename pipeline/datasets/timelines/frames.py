"""Numbers of frames to seconds, by the exact index of the video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledVideo, spans_of_steps

_SPARE_FRAMES, _SPARE_SHARE = 2, 0.01  # published label files are often a few lines shorter than their video


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
        return replace(video, spans=spans_of_steps(video.steps, steps_a_second), steps=None)
    if video.steps is None and not video.in_frames:
        return video
    times = frame_times(path, config)
    if video.steps is not None:
        _check_number(video, path, len(times) - 1)
        video = replace(video, spans=spans_of_steps(video.steps, 1.0), steps=None)
    spans = tuple(
        replace(span, start_seconds=_at(times, span.start_seconds), end_seconds=_at(times, span.end_seconds))
        for span in video.spans
    )
    return replace(video, spans=spans, in_frames=False, duration_seconds=times[-1])


def frame_times(path: Path, config: DecodeConfig) -> list[float]:
    """Return when each frame of a video begins, and when the last one ends, in seconds.

    Raises:
        UserError: it is a file of features, which has none.
        DecodeError: it cannot be read.
    """
    if path.suffix == ".npy":
        raise UserError(
            f"{path}: the labels are at frames of the video, and this is a file of features; set data.features_fps if "
            "there is a label for each of its steps, or write the times in seconds"
        )
    with VideoOpener(config).open(path) as reader:
        return [*reader.pts_seconds.tolist(), reader.info.duration_seconds]


def _at(times: Sequence[float], frame: float) -> float:
    return times[min(max(round(frame), 0), len(times) - 1)]


def _check_number(video: LabelledVideo, path: Path, num_frames: int) -> None:
    count = len(video.steps or ())
    if abs(count - num_frames) > max(_SPARE_FRAMES, _SPARE_SHARE * num_frames):
        raise UserError(
            f"{path} has {num_frames} frames, and {count} labels; set data.features_fps to the labels a second, if "
            "there is not one for each frame"
        )
