"""Long motion videos as data of task timeline: made where they are missing, read as stretches."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.datasets.annotations import Annotations, VideoRow
from pipeline.datasets.motion import MOTION_CLASSES, MotionSetConfig, make_motion_set, read_motion_segments


@dataclass(frozen=True)
class TimelineSet:
    """Videos of a format, and the number of them in each part."""

    config: MotionSetConfig
    num_videos: dict[str, int]


_ONE_SHAPE = MotionSetConfig(
    num_train_clips=0, num_val_clips=0, num_test_clips=0, num_untrimmed=160, untrimmed_seconds=60.0, seed=1
)
TIMELINE_SETS = {
    "motion_timeline": TimelineSet(_ONE_SHAPE, {"train": 144, "val": 6, "test": 10}),
    "motion_two_shapes": TimelineSet(replace(_ONE_SHAPE, num_shapes=2, seed=2), {"train": 140, "val": 10, "test": 10}),
}
"""By the value of ``data.format``. In ``motion_two_shapes`` stretches of different labels overlap."""


def read_motion_timeline(root: Path, name: str) -> Annotations:
    """The stretches of the long motion videos of a format, which are made in ``root`` if they are not there."""
    wanted = TIMELINE_SETS[name]
    make_motion_set(root, wanted.config)
    videos = iter(sorted(read_motion_segments(root).items()))
    splits = {}
    for part, count in wanted.num_videos.items():
        splits[part] = tuple(
            VideoRow(
                path,
                segment.label,
                path.name,
                segment.start_seconds,
                segment.end_seconds,
                name=path.relative_to(root).as_posix(),
            )
            for path, segments in itertools.islice(videos, count)
            for segment in segments
        )
    return Annotations(MOTION_CLASSES, splits, may_lack_classes=True)
