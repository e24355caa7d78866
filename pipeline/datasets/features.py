"""Features of a frozen backbone: each grid frame of each video embedded once, then heads train on slices of them.

Of a model that looks at changes, row k of a video's features stands for the change from grid frame k to k + 1, and the
last row for no change, which is what a clip sees where a short video holds its last frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.config import Experiment, to_dict
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.grids import row_facts
from pipeline.datasets.videos import BadVideo, ChooseClips, Sample, SampleKey, random_clip
from pipeline.files.cache import DamagedEntryError, Store, digest
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.augmentation import TrainTransform

_FRAMES_A_CALL = 128


class FrameEmbedder:
    """Fitted frames -> features, by a recogniser whose backbone does not change.

    Attributes:
        recognizer: in evaluation mode.
        transform: of its pictures.
    """

    def __init__(self, recognizer: Recognizer, transform: TrainTransform) -> None:
        self.recognizer, self.transform = recognizer, transform
        self._device = next(recognizer.parameters()).device

    def embed(self, frames: Tensor) -> Tensor:
        """uint8 ``[N + context, 3, S, S]`` -> features ``[N, D, ...]``, as in evaluation."""
        return self.recognizer.embed(self.transform.evaluate(frames.to(self._device)))

    def embed_augmented(self, frames: Tensor, seed: int) -> Tensor:
        """Embed as ``embed`` does, but frames as training would see them: one draw, by the seed, for all."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pictures = self.transform.train(frames.unsqueeze(0).to(self._device))[0]
        return self.recognizer.embed(pictures)

    @torch.inference_mode()
    def embed_grid(self, frames: Tensor, seed: int | None = None) -> Tensor:
        """All grid frames of a video, uint8 ``[G, 3, S, S]`` -> features, float16 ``[G, D, ...]`` on the CPU, as the
        module says; with a seed augmented by it."""
        num_context = self.transform.config.lookback_frames
        frames = torch.cat([frames, *[frames[-1:]] * num_context])
        features = []
        for start in range(0, len(frames) - num_context, _FRAMES_A_CALL):
            part = frames[start : start + _FRAMES_A_CALL + num_context]
            embedded = self.embed(part) if seed is None else self.embed_augmented(part, seed)
            features.append(embedded.half().cpu())
        return torch.cat(features)

    def facts(self) -> dict[str, Any]:
        """Return facts that tell one frozen network from another: its weights, layer by layer, and what runs it."""
        content = hashlib.sha256()
        for name, tensor in self.recognizer.backbone.state_dict().items():
            content.update(f"{name} {list(tensor.shape)}".encode())
            content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return {
            "weights": content.hexdigest(),
            "normalization": to_dict(self.transform.normalization),
            "maps": self.recognizer.reads_maps,
            "rgb_diff_scale": self.recognizer.config.rgb_diff_scale,
            "input": self.transform.config.input,
            "runs": [torch.__version__, self._device.type],
        }


class FeatureDataset(Dataset[Sample]):
    """Samples as ``VideoDataset`` gives them, of features instead of frames.

    Args:
        rows: the videos.
        labels: class names.
        experiment: seed and sampling settings.
        choose: selects the clips of a video that make its sample.
        features: of each row its copies, float16 ``[G, D, ...]`` with a row for each grid frame, or why there are none.
            A training sample draws a copy; others take the first.
    """

    def __init__(
        self,
        rows: Sequence[VideoRow],
        labels: Sequence[str],
        experiment: Experiment,
        choose: ChooseClips,
        features: Sequence[Sequence[Tensor] | BadVideo],
    ) -> None:
        self.labels = [labels.index(row.label) for row in rows]
        self.experiment, self.choose, self.features = experiment, choose, features

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: SampleKey) -> Sample:
        copies = self.features[key.row]
        if isinstance(copies, BadVideo):
            return Sample(key.row, self.labels[key.row], None, copies)
        features = copies[self._draw_copy(key, len(copies))]
        clips = self.choose(range(len(features)), key, self.experiment)
        if self.experiment.transform.lookback_frames:
            clips = [_rows_of_changes(clip, still=len(features) - 1) for clip in clips]
        return Sample(key.row, self.labels[key.row], torch.stack([features[clip] for clip in clips]).float())

    def _draw_copy(self, key: SampleKey, num_copies: int) -> int:
        if num_copies == 1 or self.choose is not random_clip:
            return 0
        return int(np.random.default_rng([self.experiment.seed, key.epoch, key.row, 1]).integers(num_copies))


def without_still(features: Tensor, lookback_frames: int) -> Tensor:
    """Features of a video ``[G, ...]`` without the row that stands for no change, unless there is no other."""
    return features[:-1] if lookback_frames and len(features) > 1 else features


def _rows_of_changes(clip: Sequence[int], still: int) -> list[int]:
    """The rows of the features for a clip's frames, its context frame before them."""
    return [before if now == before + 1 else still for before, now in pairwise(clip)]


class FeatureCache:
    """Makes features, or finds them on disk.

    Args:
        embedder: makes them.
        store: keeps them.
        experiment: what they depend on beside the weights.
    """

    def __init__(self, embedder: FrameEmbedder, store: Store, experiment: Experiment) -> None:
        self._embedder, self._store, self._experiment = embedder, store, experiment
        self._network = embedder.facts()

    def find(self, row: VideoRow, num_copies: int) -> list[Tensor] | None:
        """Return the row's features, memory-mapped and verified, or None if not all of them are there."""
        try:
            found = [self._find(self._key(row, copy)) for copy in range(1 + num_copies)]
        except OSError:  # the decoder says better what is wrong with the file
            return None
        features = [rows for rows in found if rows is not None]
        return features if len(features) == len(found) else None

    def make(self, row: VideoRow, frames: Tensor, num_copies: int) -> list[Tensor]:
        """Return features of the row's grid frames, uint8 ``[G, 3, S, S]``, and of augmented copies; kept on disk."""
        made = []
        for copy in range(1 + num_copies):
            key = self._key(row, copy)
            features = self._embedder.embed_grid(frames, seed=int(key[:12], 16) if copy else None)
            self._store.put(key, features.numpy(), {"video": row.path.name, "copy": copy})
            made.append(features)
        return made

    def _find(self, key: str) -> Tensor | None:
        entry = self._store.get(key)
        try:
            return torch.from_numpy(entry.verified()) if entry else None
        except DamagedEntryError:
            self._store.remove(key)
            return None

    def _key(self, row: VideoRow, copy: int) -> str:
        config = self._experiment
        facts: dict[str, Any] = {"kind": "features", "network": self._network, "copy": copy}
        facts |= row_facts(row, config, self._store) | {"input_size_px": config.transform.input_size_px}
        if copy:
            facts |= {"augmentation": to_dict(config.transform), "seed": config.seed}
        return digest(facts)
