"""Every video through the frozen backbone once, for all candidates: maps of its pictures and of their changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.features import FrozenBackbone
from pipeline.datasets.loading import lost_workers
from pipeline.datasets.videos import BadVideo, ClipBatch, whole_grid
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.augmentation import TrainTransform

_INPUTS: tuple[Literal["rgb", "rgb_diff"], ...] = ("rgb", "rgb_diff")


@dataclass(frozen=True)
class VideoFeatures:
    """A video, and by input its feature maps, float16 ``[n, D, h, w]``: of the grid frames, or of their changes."""

    row: VideoRow
    maps: Mapping[str, Tensor]

    def of(self, experiment: Experiment) -> Tensor:
        """Input of the candidate's head, as maps or as their means over space."""
        maps = self.maps[experiment.transform.input]
        return maps if experiment.model.heads[0].startswith("conv") else maps.mean(dim=(2, 3))


@lost_workers()
def embed_videos(
    experiment: Experiment, rows: Sequence[VideoRow], labels: Sequence[str], progress: Callable[[], None]
) -> tuple[list[VideoFeatures], list[BadVideo]]:
    """Features of the videos that can be read, and the others. ``progress`` is called after each video."""
    recognizer = Recognizer(replace(experiment.model, heads=("convgru",)), len(labels)).eval()
    backbones: dict[str, FrozenBackbone] = {
        name: FrozenBackbone(
            recognizer,
            TrainTransform(replace(experiment.transform, input=name), recognizer.backbone.normalization),
        )
        for name in _INPUTS
    }
    videos: list[VideoFeatures] = []
    bad: list[BadVideo] = []
    for row, batch in zip(rows, make_loader(rows, labels, experiment.clips, whole_grid), strict=True):
        assert isinstance(batch, ClipBatch)
        bad += [reason for _, reason in batch.bad]
        if not batch.bad:
            maps = {name: backbone.embed_video(batch.frames[0], hold=False) for name, backbone in backbones.items()}
            videos.append(VideoFeatures(row, maps))
        progress()
    return videos, bad
