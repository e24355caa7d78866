"""Long videos with labelled stretches, and the targets at each grid frame.

rows (stretches) -> TimelineVideo -> targets [G] or [G, K]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import SequenceConfig
from pipeline.datasets.annotations import VideoRow, as_stretch, whole_video
from pipeline.errors import UserError
from pipeline.sampling import grid_range
from pipeline.timeline.labelled import Interval, parts_outside
from pipeline.timeline.tuning import ScoredVideo

IGNORED = -100
"""The target of a grid frame that nobody has labelled, labels one; ``nan`` where there may be several labels."""


@dataclass(frozen=True)
class TimelineVideo:
    """A long video and all that is labelled of it."""

    row: VideoRow
    """The whole video."""
    stretches: tuple[VideoRow, ...]
    """By start."""


def timeline_videos(rows: Sequence[VideoRow]) -> tuple[TimelineVideo, ...]:
    """The videos whose stretches the rows are, in the order of their first rows."""
    by_source: dict[Any, list[VideoRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    return tuple(
        TimelineVideo(
            whole_video(some[0]),
            tuple(sorted(some, key=lambda row: (row.start_seconds, row.end_seconds or np.inf, row.label))),
        )
        for some in by_source.values()
    )


def timeline_labels(labels: Sequence[str], config: SequenceConfig) -> tuple[str, ...]:
    """Labels that a model answers with: those of the rows and, where there is one at each moment, the background."""
    special = (config.background_label, config.unlabelled_label)
    named = tuple(label for label in labels if label and label not in special)
    return named if config.labels == "several" else (*named, config.background_label)


def frame_targets(
    video: TimelineVideo,
    num_frames: int,
    sample_fps: float,
    labels: Sequence[str],
    config: SequenceConfig,
    offset_seconds: float = 0.0,
) -> Tensor:
    """The targets at each grid frame of a video of so many, or so long after each.

    Returns:
        labels one: int64 ``[G]``, places in ``labels`` or ``IGNORED``; several: float32 ``[G, K]``, 0, 1 or nan.

    Raises:
        UserError: two stretches overlap, and there may be one label only.
    """
    places = {label: place for place, label in enumerate(labels)}
    shown = np.zeros((num_frames, len(labels)), np.float32)
    ignored = np.zeros(num_frames, bool)
    # Stretches count more than what is said of a whole video, and those that are looked at more than others.
    for row in sorted(_stretches(video, config), key=lambda row: (not _is_whole(row), row.looked_at)):
        frames = _frames_of(row, num_frames, sample_fps, offset_seconds)
        ignored[frames] = not row.looked_at
        if row.label in places:
            shown[frames, places[row.label]] = 1
    if config.labels == "several":
        shown[ignored] = np.nan
        return torch.from_numpy(shown)
    _refuse_overlaps(video, config)
    targets = np.where(shown.any(axis=1), shown.argmax(axis=1), places[config.background_label])
    targets[ignored] = IGNORED
    return torch.from_numpy(targets)


def _stretches(video: TimelineVideo, config: SequenceConfig) -> list[VideoRow]:
    return [as_stretch(row, config) for row in video.stretches]


def _is_whole(row: VideoRow) -> bool:
    return not row.label and row.start_seconds == 0 and row.end_seconds is None


def _frames_of(row: VideoRow, num_frames: int, sample_fps: float, offset_seconds: float) -> slice:
    end = _end_seconds(row) - offset_seconds
    start, end = max(0.0, row.start_seconds - offset_seconds), min(end, num_frames / sample_fps)
    if end <= start:
        return slice(0, 0)
    grid = grid_range(sample_fps, start, end)
    return slice(min(grid.start, num_frames), min(grid.stop, num_frames))


def _refuse_overlaps(video: TimelineVideo, config: SequenceConfig) -> None:
    """Two stretches of different labels at one moment; a millisecond is rounding."""
    last: VideoRow | None = None
    for row in _stretches(video, config):
        if not row.looked_at or _is_whole(row):
            continue
        if last and row.label != last.label and _end_seconds(last) > row.start_seconds + 1e-3:
            raise UserError(
                f"{video.row.path}: {last.label or 'nothing'} until {last.end_seconds or 'its end'} s and "
                f"{row.label or 'nothing'} from {row.start_seconds} s overlap; set sequence.labels several, or correct "
                "the times"
            )
        last = row if last is None or _end_seconds(row) >= _end_seconds(last) else last


def _end_seconds(row: VideoRow) -> float:
    return math.inf if row.end_seconds is None else row.end_seconds


def unlabelled_stretches(video: TimelineVideo, end_seconds: float, config: SequenceConfig) -> tuple[Interval, ...]:
    """The parts of a video that nobody has looked at, in order."""
    rows = _stretches(video, config)
    if any(_is_whole(row) and row.looked_at for row in rows):
        rows = [row for row in rows if not _is_whole(row)]
    known, unknown = (
        [(r.start_seconds, _end_seconds(r)) for r in rows if r.looked_at == side] for side in (True, False)
    )
    return parts_outside(unknown, known, end_seconds)


def scored_video(scores: NDArray[np.float32], targets: NDArray[Any]) -> ScoredVideo:
    """Return probabilities ``[G, K]`` beside the targets, int64 ``[G]`` or float32 ``[G, K]``, as ``frame_targets``
    gives them."""
    if targets.ndim == 1:
        is_known = targets != IGNORED
        truth = np.eye(scores.shape[1], dtype=bool)[targets * is_known] & is_known[:, None]
        return ScoredVideo(scores, truth, is_known)
    return ScoredVideo(scores, np.nan_to_num(targets) > 0.5, ~np.isnan(targets).any(axis=1))


def delayed(targets: Tensor, num_frames: int) -> Tensor:
    """A video's targets ``[G, ...]`` for answers that come so many grid frames late, ``[G + num_frames, ...]``: the
    first ones speak of nothing."""
    nothing = targets.new_full((num_frames, *targets.shape[1:]), nothing_known(targets))
    return torch.cat([nothing, targets])


def nothing_known(targets: Tensor) -> float:
    """The value of a target that is none, in targets of that kind."""
    return torch.nan if targets.is_floating_point() else IGNORED


def has_target(targets: Tensor) -> Tensor:
    """``[..., T]`` or, where there may be several labels, ``[..., T, K]`` -> bool ``[..., T]``."""
    return ~targets.isnan().any(dim=-1) if targets.is_floating_point() else targets != IGNORED


def class_shares(targets: Sequence[Tensor], num_classes: int) -> NDArray[np.float64]:
    """Of labels one: share of the labelled grid frames that each class has, float64 ``[K]``."""
    known = torch.cat([some[some != IGNORED] for some in targets])
    counts = torch.bincount(known, minlength=num_classes).double()
    return (counts / counts.sum().clamp_min(1)).numpy()
