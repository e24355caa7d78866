"""Every video through the frozen backbone once, for all candidates: maps of its pictures and of their changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from pipeline.config import Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.features import FrameEmbedder, without_still
from pipeline.datasets.loading import lost_workers
from pipeline.datasets.videos import BadVideo, ClipBatch, whole_grid
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.augmentation import TrainTransform

_INPUTS: tuple[Literal["rgb", "rgb_diff"], ...] = ("rgb", "rgb_diff")


@dataclass(frozen=True)
class VideoFeatures:
    """A video, and by input its grid frames' feature maps, float16 ``[G, D, h, w]``."""

    row: VideoRow
    maps: Mapping[str, Tensor]

    def of(self, experiment: Experiment) -> Tensor:
        """What the candidate's head reads: its input, as maps or as their means over space."""
        maps = self.maps[experiment.transform.input]
        return maps if experiment.model.heads[0].startswith("conv") else maps.mean(dim=(2, 3))


@lost_workers()
def embed_videos(
    experiment: Experiment, rows: Sequence[VideoRow], labels: Sequence[str], progress: Callable[[], None]
) -> tuple[list[VideoFeatures], list[BadVideo]]:
    """Features of the videos that can be read, and the others. ``progress`` is called after each video."""
    recognizer = Recognizer(replace(experiment.model, heads=("convgru",)), len(labels)).eval()
    embedders = {
        name: FrameEmbedder(
            recognizer,
            TrainTransform(replace(experiment.transform, input=name), recognizer.backbone.normalization),
        )
        for name in _INPUTS
    }
    videos: list[VideoFeatures] = []
    bad: list[BadVideo] = []
    for row, batch in zip(rows, make_loader(rows, labels, experiment, whole_grid), strict=True):
        assert isinstance(batch, ClipBatch)
        bad += [reason for _, reason in batch.bad]
        if not batch.bad:
            videos.append(VideoFeatures(row, {name: _maps(one, batch.frames[0]) for name, one in embedders.items()}))
        progress()
    return videos, bad


def _maps(embedder: FrameEmbedder, frames: Tensor) -> Tensor:
    """uint8 ``[G, 3, S, S]`` -> float16 maps ``[G, D, h, w]``, or of the changes one fewer, but one at least."""
    return without_still(embedder.embed_grid(frames), embedder.transform.config.lookback_frames)
