"""Truth and predictions of each video side by side, on one clock and one grid."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config import BACKGROUND, UNLABELLED
from pipeline.errors import UserError
from pipeline.sampling import grid_range
from pipeline.timeline.labelled import (
    Interval,
    LabelledVideo,
    Span,
    cut_out,
    spans_of_steps,
    unlabelled_parts,
    without_labels,
)

_TOLERANCE_FRAMES = 1e-6  # a time closer to a grid frame than this is at it
_GRID_FPS = 10.0  # at which the frames of spans are compared if no rate is given
_MAX_FRAMES = 20_000_000  # three weeks at that rate


@dataclass(frozen=True)
class VideoPair:
    """One video's truth and predictions, without background."""

    name: str
    truth: tuple[Span, ...]
    predicted: tuple[Span, ...]
    duration_seconds: float
    sample_fps: float
    """Grid frames a second."""
    num_frames: int
    """Grid frames that are compared."""
    frame_scores: Mapping[str, NDArray[np.floating]] | None = field(default=None, compare=False)
    """Label -> a model's score at each grid frame ``[num_frames]``, to rank frames by in place of the spans' scores."""
    unlabelled: tuple[Interval, ...] = ()
    """Parts that nobody has looked at: they count in no figure, and predictions there are cut off."""

    @property
    def known_seconds(self) -> float:
        """Duration without them."""
        return self.duration_seconds - sum(end - start for start, end in self.unlabelled)

    @property
    def known_frames(self) -> NDArray[np.bool_]:
        """bool ``[num_frames]``: grid frames outside of them."""
        known = np.ones(self.num_frames, bool)
        for start, end in self.unlabelled:
            known[self.frames_of(start, end)] = False
        return known

    def frames_of(self, start_seconds: float, end_seconds: float) -> slice:
        """The grid frames whose time lies in ``[start, end)``."""
        times = (seconds * self.sample_fps - _TOLERANCE_FRAMES for seconds in (start_seconds, end_seconds))
        return slice(*(max(0, min(self.num_frames, math.ceil(time))) for time in times))


def pair_videos(
    truth: Sequence[LabelledVideo],
    predictions: Sequence[LabelledVideo],
    sample_fps: float | None = None,
    background: Collection[str] = (BACKGROUND,),
    unlabelled: Collection[str] = (UNLABELLED,),
) -> list[VideoPair]:
    """Join truth and predictions by name: predicted videos in their order, then those without prediction, which count
    as empty. Predictions of videos that have no truth are left out.

    Where both sides have a label a step, predictions may be of every n-th step of all videos (n is found from their
    numbers); the truth is then taken at those. Labels beyond the last true step are no frames, but may be segments, as
    in MS-TCN's code. A duration that neither side knows is the end of the last span.

    Args:
        truth: one entry a video.
        predictions: one entry a video.
        sample_fps: steps a second; also the rate of the grid on which spans are compared. None: steps are taken for
            seconds, and the grid has 10 frames a second.
        background: labels of stretches without action.
        unlabelled: labels of true stretches that nobody has looked at.

    Raises:
        UserError: a name stands twice; nothing is true; steps are fewer than the truth's without a common n, or meet
            spans and the rate is not given.
    """
    right, found = _by_name(truth, "truth"), _by_name(predictions, "predictions")
    if not right:
        raise UserError("the truth has no video: nothing to score against")
    names = [name for name in found if name in right] + [name for name in right if name not in found]
    videos = [(right[name], found.get(name)) for name in names]
    stride = _common_stride(videos)
    return [_pair(theirs, ours, stride, sample_fps, background, unlabelled) for theirs, ours in videos]


def _by_name(videos: Sequence[LabelledVideo], side: str) -> dict[str, LabelledVideo]:
    table: dict[str, LabelledVideo] = {}
    for video in videos:
        if table.setdefault(video.name, video) is not video:
            raise UserError(f"{side}: the video {video.name} is there twice; give each once")
    return table


def _common_stride(videos: Sequence[tuple[LabelledVideo, LabelledVideo | None]]) -> int:
    """The least n for which every prediction has a label for each n-th step; 1 where predictions are longer."""
    lengths = [
        (video.name, len(video.steps), len(found.steps))
        for video, found in videos
        if video.steps and found and found.steps is not None
    ]
    short = [(name, total, count) for name, total, count in lengths if count < total]
    if not short:
        return 1
    longest = max(total for _, total, _ in lengths)
    for stride in range(2, longest + 1):
        if all(math.ceil(total / stride) == count for _, total, count in lengths):
            return stride
    name, total, count = short[0]
    raise UserError(
        f"{name}: {count} predicted steps for {total} true ones, and no n for which all videos have every n-th; "
        "write a label for each step"
    )


def _pair(
    truth: LabelledVideo,
    found: LabelledVideo | None,
    stride: int,
    sample_fps: float | None,
    background: Collection[str],
    unlabelled: Collection[str],
) -> VideoPair:
    """Both sides in seconds."""
    found = found or LabelledVideo(truth.name, steps=None if truth.steps is None else ())
    if (truth.steps is None) != (found.steps is None) and sample_fps is None:
        raise UserError(
            f"{truth.name}: one side has a label a step and the other has seconds; say the steps a second with "
            "--sample_fps"
        )
    step_fps = (sample_fps or 1.0) / stride
    if truth.steps is not None and found.steps is not None:
        steps, grid_fps = truth.steps[::stride], step_fps
        truth = replace(truth, steps=steps, duration_seconds=len(steps) / step_fps)
    else:
        grid_fps = sample_fps or _GRID_FPS
    truth, found = _in_seconds(truth, step_fps), _in_seconds(found, step_fps)
    duration = _duration(truth, found)
    if not duration * grid_fps <= _MAX_FRAMES:
        raise UserError(
            f"{truth.name}: it lasts {duration:g} s, which at {grid_fps:g} a second are more than the {_MAX_FRAMES:,} "
            "grid frames that are judged; are its times in seconds? If so, set a lower --sample_fps"
        )
    unknown = unlabelled_parts(truth, duration, unlabelled)
    true, predicted = (without_labels(side.spans, {*background, *unlabelled}) for side in (truth, found))
    num_frames = len(grid_range(grid_fps, 0.0, duration)) if duration > 0 else 0
    return VideoPair(truth.name, true, cut_out(predicted, unknown), duration, grid_fps, num_frames, unlabelled=unknown)


def _in_seconds(video: LabelledVideo, sample_fps: float) -> LabelledVideo:
    if video.steps is None:
        return video
    duration = len(video.steps) / sample_fps
    return replace(video, spans=spans_of_steps(video.steps, sample_fps), steps=None, duration_seconds=duration)


def _duration(truth: LabelledVideo, found: LabelledVideo) -> float:
    for side in (truth, found):
        if side.duration_seconds is not None:
            return side.duration_seconds
    return max((span.end_seconds for side in (truth, found) for span in side.spans), default=0.0)
