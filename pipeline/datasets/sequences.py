"""Long videos with labelled stretches: the targets at each grid frame, and batches that walk along the videos.

    rows (stretches) -> TimelineVideo -> targets [G] or [G, K] -> pieces of sequence_frames -> SequenceBatch

Several videos are walked along side by side, each in a lane of the batch; a lane that ends a video begins the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.config import SequenceConfig
from pipeline.datasets.annotations import VideoRow, as_stretch, whole_video
from pipeline.errors import UserError
from pipeline.sampling import grid_range
from pipeline.timeline.labelled import Interval, parts_outside

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
    end = (math.inf if row.end_seconds is None else row.end_seconds) - offset_seconds
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


def delayed(features: Tensor, targets: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """A video's features ``[G, ...]`` and targets for answers that come so many grid frames late: the last frame is
    held for as long, ``[G + num_frames, ...]`` each, and the first answers speak of nothing."""
    if not num_frames:
        return features, targets
    nothing = targets.new_full((num_frames, *targets.shape[1:]), torch.nan if targets.is_floating_point() else IGNORED)
    held = features[-1:].expand(num_frames, *features.shape[1:])
    return torch.cat([features, held]), torch.cat([nothing, targets])


class _Piece(NamedTuple):
    """Consecutive grid frames ``[start, stop)`` of a video."""

    video: int
    start: int
    stop: int


def walk(num_frames: Sequence[int], num_lanes: int, sequence_frames: int, seed: Sequence[int]) -> list[list[_Piece]]:
    """One pass over all videos: for each step the pieces that are read side by side, in fixed lanes; an idle lane has
    an empty piece. Another seed gives other videos to a lane, in another order; the number of steps stays the same.

    Args:
        num_frames: of each video.
        num_lanes: videos side by side.
        sequence_frames: the longest piece; 0: whole videos.
        seed: of the order.
    """
    rng = np.random.default_rng(list(seed))
    shuffled = rng.permutation(len(num_frames)).tolist()
    pieces = {video: _pieces(video, num_frames[video], sequence_frames) for video in shuffled}
    lanes: list[list[_Piece]] = [[] for _ in range(min(num_lanes, len(num_frames)))]
    groups: list[list[int]] = [[] for _ in lanes]
    # The longest first, each to the lane that has least: equal numbers of steps whatever the seed.
    for video in sorted(shuffled, key=lambda video: -len(pieces[video])):
        lane = min(range(len(lanes)), key=lambda lane: sum(len(pieces[other]) for other in groups[lane]))
        groups[lane].append(video)
    for pieces_of_lane, videos in zip(lanes, groups, strict=True):
        for video in rng.permutation(videos).tolist():
            pieces_of_lane += pieces[video]
    length = max(map(len, lanes), default=0)
    return [[lane[step] if step < len(lane) else _Piece(0, 0, 0) for lane in lanes] for step in range(length)]


def _pieces(video: int, num_frames: int, sequence_frames: int) -> list[_Piece]:
    # The last one alone may be shorter: what fills it up would spoil a state that is carried on.
    length = sequence_frames or num_frames
    return [_Piece(video, start, min(start + length, num_frames)) for start in range(0, num_frames, length)]


Copies = Sequence[tuple[Tensor, Tensor]]
"""Of one video: features and targets, as they are and changed a little."""


@dataclass(frozen=True)
class SequenceBatch:
    """Pieces of several videos, side by side, each filled up to the longest."""

    features: Tensor
    """float ``[B, T, D, ...]``."""
    targets: Tensor
    """int64 ``[B, T]`` or float ``[B, T, K]``; what was filled up is ignored."""
    begins: Tensor
    """bool ``[B]``: the first piece of its video."""
    has_targets: bool = True
    """False where nothing in it is labelled."""

    def __len__(self) -> int:
        return len(self.begins)

    def to(self, device: Any, **kwargs: Any) -> SequenceBatch:
        """The same batch on another device."""
        features, targets, begins = (part.to(device, **kwargs) for part in (self.features, self.targets, self.begins))
        return SequenceBatch(features, targets, begins, self.has_targets)


class Sequences(Dataset[SequenceBatch]):
    """Batches of a walk along videos in memory; a key is (epoch, step).

    Args:
        videos: of each its copies, of which an epoch draws one: features ``[G, D, ...]`` and targets ``[G]`` or ``[G,
            K]``; G is the same for all copies.
        num_lanes: videos side by side.
        sequence_frames: as ``walk``.
        seed: likewise.
    """

    def __init__(self, videos: Sequence[Copies], num_lanes: int, sequence_frames: int, seed: int) -> None:
        self._videos = videos
        self._walk = num_lanes, sequence_frames
        self._seed, self._epoch = seed, -1
        self.steps = self._steps(0)

    def _steps(self, epoch: int) -> list[list[_Piece]]:
        if epoch != self._epoch:
            lengths = [len(copies[0][1]) for copies in self._videos]
            self._epoch, self.steps = epoch, walk(lengths, *self._walk, (self._seed, epoch))
        return self.steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, key: tuple[int, int]) -> SequenceBatch:
        epoch, step = key
        return _joined([(self._drawn(piece.video, epoch), piece) for piece in self._steps(epoch)[step]])

    def _drawn(self, video: int, epoch: int) -> tuple[Tensor, Tensor]:
        copies = self._videos[video]
        return copies[int(np.random.default_rng([self._seed, epoch, video, 1]).integers(len(copies)))]


def _joined(pieces: Sequence[tuple[tuple[Tensor, Tensor], _Piece]]) -> SequenceBatch:
    length = max(piece.stop - piece.start for _, piece in pieces)
    features, targets = [], []
    for (all_features, all_targets), (_, start, stop) in pieces:
        missing = length - (stop - start)
        part, wanted = all_features[start:stop].float(), all_targets[start:stop]
        ignored = torch.nan if wanted.is_floating_point() else IGNORED
        features.append(torch.cat([part, part.new_zeros(missing, *part.shape[1:])]))
        targets.append(torch.cat([wanted, wanted.new_full((missing, *wanted.shape[1:]), ignored)]))
    begins = torch.tensor([piece.start == 0 for _, piece in pieces])
    joined = torch.stack(targets)
    has_targets = bool((~joined.isnan() if joined.is_floating_point() else joined != IGNORED).any())
    return SequenceBatch(torch.stack(features), joined, begins, has_targets)


class WalkSampler(Sampler[tuple[int, int]]):
    """The keys of one epoch's steps; can begin in the middle, as a run that is resumed does."""

    def __init__(self, dataset: Sequences) -> None:
        self._dataset = dataset
        self._epoch, self._done = 0, (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self._epoch = epoch

    def skip(self, epoch: int, count: int) -> None:
        """Leave out the first ``count`` steps of that epoch."""
        self._done = (epoch, count)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first = self._done[1] if self._done[0] == self._epoch else 0
        return iter([(self._epoch, step) for step in range(first, len(self._dataset))])


def sequence_loader(dataset: Sequences) -> DataLoader[SequenceBatch]:
    """A loader of the walk, in this process: everything is in memory."""
    return DataLoader(dataset, batch_size=None, sampler=WalkSampler(dataset))


def class_shares(targets: Sequence[Tensor], num_classes: int) -> NDArray[np.float64]:
    """Of labels one: share of the labelled grid frames that each class has, float64 ``[K]``."""
    known = torch.cat([some[some != IGNORED] for some in targets])
    counts = torch.bincount(known, minlength=num_classes).double()
    return (counts / counts.sum().clamp_min(1)).numpy()
