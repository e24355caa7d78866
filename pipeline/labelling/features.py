"""``FeatureMaker``: features and motion of whole videos, made as they are read, and kept in the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import DecodeConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.features import FRAMES_A_CALL, FeatureCache, FrozenBackbone
from pipeline.datasets.grids import DecodedClips, cache_store, row_facts
from pipeline.files.cache import digest
from pipeline.learning.timelines import draft_experiment
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.augmentation import TrainTransform

_Motion = NDArray[np.float32]


class FeatureMaker:
    """Makes the features of one frozen backbone, or finds them in the cache.

    Args:
        decode: how files are read.

    Attributes:
        experiment: settings of the features, and of heads on them.
    """

    def __init__(self, decode: DecodeConfig) -> None:
        self.experiment = draft_experiment(".", decode)
        recognizer = Recognizer(
            self.experiment.model,
            2,
            input_size_px=self.experiment.transform.input_size_px,
            num_pictures=self.experiment.transform.num_pictures,
        ).eval()
        transform = TrainTransform(self.experiment.transform, recognizer.backbone.normalization)
        self._store = cache_store(self.experiment.data)
        self._cache = FeatureCache(FrozenBackbone(recognizer, transform), self._store, self.experiment.clips)
        self._clips = DecodedClips(self.experiment.clips)

    def find(self, path: Path) -> Tensor | None:
        """Return the features of a video, float16 ``[G, D]``, if they are in the cache."""
        found = self._cache.find(VideoRow(path, "", ""), 0)
        return found[0] if found else None

    def make(self, path: Path, progress: Callable[[float], None] = lambda share: None) -> tuple[Tensor, _Motion]:
        """Return the features of a video and its motion at each grid frame, made now; both are kept.

        Raises:
            DecodeError: it cannot be read.
        """
        row, motion = VideoRow(path, "", ""), list[float]()
        with closing(self._parts(row, motion, progress)) as parts:
            (features,) = self._cache.make(row, parts, 0)
        return features, self._keep_motion(row, motion)

    def motion(self, path: Path) -> _Motion:
        """Return the mean change of the pixels since the grid frame before, float32 ``[G]`` from 0 to 255. Raises
        ``DecodeError``."""
        row = VideoRow(path, "", "")
        try:
            entry = self._store.get(self._motion_key(row))
        except OSError:  # the decoder says better what is wrong
            entry = None
        if entry is not None:
            return np.asarray(entry.verified(), np.float32)
        changes: list[float] = []
        for _ in self._parts(row, changes, lambda share: None):
            pass
        return self._keep_motion(row, changes)

    def _motion_key(self, row: VideoRow) -> str:
        return digest({"kind": "motion"} | row_facts(row, self.experiment.clips, self._store))

    def _keep_motion(self, row: VideoRow, changes: list[float]) -> _Motion:
        motion = np.array(changes, np.float32)
        self._store.put(self._motion_key(row), motion, {"video": row.path.name})
        return motion

    def _parts(
        self, row: VideoRow, changes: list[float], progress: Callable[[float], None]
    ) -> Generator[Tensor, None, None]:
        """Grid frames, some at a time; their changes are added to ``changes``."""
        num_frames, before = self._clips.num_frames(row), None
        with closing(self._clips.parts(row, FRAMES_A_CALL)) as parts:
            for frames in parts:
                small = frames[:, :, ::4, ::4].float()
                earlier = torch.cat([small[:1] if before is None else before, small[:-1]])
                changes += (small - earlier).abs().mean(dim=(1, 2, 3)).tolist()
                before = small[-1:]
                progress(len(changes) / max(num_frames, 1))
                yield frames
