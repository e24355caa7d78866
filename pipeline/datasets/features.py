"""Features of a frozen backbone: each grid frame of each video embedded once, then heads train on slices of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.config import ClipSettings, to_dict
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.grids import row_facts
from pipeline.datasets.videos import BadVideo, ChooseClips, Sample, SampleKey, random_clip
from pipeline.embedding.clips import ClipEmbedder
from pipeline.embedding.frames import FrameEmbedder, feature_places
from pipeline.files.cache import DamagedEntryError, Store, digest
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.augmentation import TrainTransform

FRAMES_A_CALL = 128
"""Grid frames that are embedded at a time."""


class FrozenBackbone:
    """The features of whole videos, by a recogniser whose backbone does not change.

    Attributes:
        recognizer: in evaluation mode.
        transform: of its pictures.
    """

    def __init__(self, recognizer: Recognizer, transform: TrainTransform) -> None:
        self.recognizer, self.transform = recognizer, transform
        self._clips, self._device = ClipEmbedder(recognizer, transform), next(recognizer.parameters()).device

    def _embed(self, frames: Tensor, seed: int | None = None) -> Tensor:
        """uint8 ``[n, 1 + L, 3, S, S]``, each a frame later than the one before -> float16 ``[n, D, ...]`` on the CPU;
        with a seed as training would see them: one draw for all."""
        parts = frames.split(max(1, FRAMES_A_CALL // frames.shape[1]))
        return torch.cat([self._embed_part(part.to(self._device), seed).half().cpu() for part in parts])

    def _embed_part(self, frames: Tensor, seed: int | None) -> Tensor:
        if seed is None:
            return self._clips.embed(frames)[:, 0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # As one clip, with each frame once.
            pictures = self.transform.train(torch.cat([frames[:, 0], frames[-1, 1:]]).unsqueeze(0))
        return self._clips.embed_pictures(pictures)[0]

    @torch.inference_mode()
    def embed_video(self, frames: Tensor, seed: int | None = None, *, hold: bool = True) -> Tensor:
        """All grid frames of a video, uint8 ``[G, 3, S, S]`` -> features, float16 ``[G, D, ...]`` on the CPU.

        Args:
            frames: of the video.
            seed: augment by it.
            hold: end with the features of a last frame that stands still, as many as the first frames have none; False
                leaves these away, but for the one of a video without others.
        """
        return self.embed_parts(frames.split(FRAMES_A_CALL), [seed], hold=hold)[0]

    @torch.inference_mode()
    def embed_parts(self, parts: Iterable[Tensor], seeds: Sequence[int | None], *, hold: bool = True) -> list[Tensor]:
        """Return what ``embed_video`` does with each seed, of frames that come in parts: a long video need not be in
        memory whole."""
        embedders = [FrameEmbedder(partial(self._embed, seed=seed), self.transform.config) for seed in seeds]
        features: list[list[Tensor]] = [[] for _ in seeds]
        num_frames = 0
        for part in parts:
            num_frames += len(part)
            for embedder, some in zip(embedders, features, strict=True):
                pushed = embedder.push(part)
                some += [] if pushed is None else [pushed]
        transform = self.transform.config
        num_features = num_frames if hold else len(transform.grid_of_features(num_frames))
        for embedder, some in zip(embedders, features, strict=True):
            held = embedder.hold(transform.frames_for(num_features) - num_frames)
            some += [] if held is None else [held]
        return [torch.cat(some) for some in features]

    def facts(self) -> dict[str, Any]:
        """Return facts that tell one frozen network from another: its name, its weights, layer by layer, and what runs
        it."""
        content = hashlib.sha256()
        for name, tensor in self.recognizer.backbone.state_dict().items():
            content.update(f"{name} {list(tensor.shape)}".encode())
            content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        config = self.recognizer.config
        return {
            # Networks of the same weights may be different: in their activations, or in how many heads attend.
            "backbone": config.backbone,
            "frame_vector": config.frame_vector,
            # Left out where it is 1, so that entries from before there was a choice are found.
            **({"input_frames": self.transform.config.input_frames} if self.transform.config.input_frames > 1 else {}),
            "weights": content.hexdigest(),
            "normalization": to_dict(self.transform.normalization),
            "maps": self.recognizer.reads_maps,
            "rgb_diff_scale": config.rgb_diff_scale,
            "input": self.transform.config.input,
            "runs": [torch.__version__, self._device.type],
        }


class FeatureDataset(Dataset[Sample]):
    """Samples as ``VideoDataset`` gives them, of features instead of frames.

    Args:
        rows: the videos.
        labels: class names.
        settings: how clips are chosen.
        choose: selects the clips of a video that make its sample.
        features: of each row its copies, float16 ``[G, D, ...]`` with a row for each grid frame, or why there are none.
            A training sample draws a copy; others take the first.
    """

    def __init__(
        self,
        rows: Sequence[VideoRow],
        labels: Sequence[str],
        settings: ClipSettings,
        choose: ChooseClips,
        features: Sequence[Sequence[Tensor] | BadVideo],
    ) -> None:
        self.labels = [labels.index(row.label) for row in rows]
        self.settings, self.choose, self.features = settings, choose, features

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: SampleKey) -> Sample:
        copies = self.features[key.row]
        if isinstance(copies, BadVideo):
            return Sample(key.row, self.labels[key.row], None, copies)
        features = copies[self._draw_copy(key, len(copies))]
        clips = self.choose(range(len(features)), key, self.settings)
        places = [feature_places(clip, self.settings.transform) for clip in clips]
        return Sample(key.row, self.labels[key.row], torch.stack([features[some] for some in places]).float())

    def _draw_copy(self, key: SampleKey, num_copies: int) -> int:
        if num_copies == 1 or self.choose is not random_clip:
            return 0
        return int(np.random.default_rng([self.settings.seed, key.epoch, key.row, 1]).integers(num_copies))


class FeatureCache:
    """Makes features, or finds them on disk.

    Args:
        backbone: makes them.
        store: keeps them.
        settings: what they depend on beside the weights.
    """

    def __init__(self, backbone: FrozenBackbone, store: Store, settings: ClipSettings) -> None:
        self._backbone, self._store, self._settings = backbone, store, settings
        self._network = backbone.facts()

    def find(self, row: VideoRow, num_copies: int) -> list[Tensor] | None:
        """Return the row's features, memory-mapped and verified, or None if not all of them are there."""
        try:
            found = [self._find(self._key(row, copy)) for copy in range(1 + num_copies)]
        except OSError:  # the decoder says better what is wrong with the file
            return None
        features = [rows for rows in found if rows is not None]
        return features if len(features) == len(found) else None

    def make(self, row: VideoRow, parts: Iterable[Tensor], num_copies: int) -> list[Tensor]:
        """Return features of the row's grid frames, which come in parts, uint8 ``[n, 3, S, S]``, and of augmented
        copies; kept on disk."""
        keys = [self._key(row, copy) for copy in range(1 + num_copies)]
        seeds = [int(key[:12], 16) if copy else None for copy, key in enumerate(keys)]
        made = self._backbone.embed_parts(parts, seeds)
        for copy, (key, features) in enumerate(zip(keys, made, strict=True)):
            self._store.put(key, features.numpy(), {"video": row.path.name, "copy": copy})
        return made

    def _find(self, key: str) -> Tensor | None:
        entry = self._store.get(key)
        try:
            return torch.from_numpy(entry.verified()) if entry else None
        except DamagedEntryError:
            self._store.remove(key)
            return None

    def _key(self, row: VideoRow, copy: int) -> str:
        config = self._settings
        facts: dict[str, Any] = {"kind": "features", "network": self._network, "copy": copy}
        facts |= row_facts(row, config, self._store) | {"input_size_px": config.transform.input_size_px}
        if copy:
            facts |= {"augmentation": to_dict(config.transform), "seed": config.seed}
        return digest(facts)
