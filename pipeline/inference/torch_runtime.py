"""A model file at work in torch."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.calibration import UNCALIBRATED, Calibration
from pipeline.checkpoint import ModelFile
from pipeline.clip import Image
from pipeline.embedding.clips import ClipEmbedder
from pipeline.inference.folding import fold_batch_norm
from pipeline.inference.runtime import Readings, Runtime
from pipeline.models.backbones import FILE_FEATURES
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal.head import State
from pipeline.transforms.frames import ClipTransform, fit_frames


def torch_runtime(file: ModelFile) -> Runtime:
    """The file's recogniser, on the device it is on."""

    def fit(image: Image, sample_aspect_ratio: Fraction) -> Image:
        frames = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)  # [H, W, 3] -> [1, 3, H, W]
        fitted: Image = fit_frames(frames, file.transform, sample_aspect_ratio)[0].numpy()
        return fitted

    config = file.recognizer.config
    feature_form = None
    if config.backbone == FILE_FEATURES and config.num_features and config.features_fps:
        feature_form = config.num_features, config.features_fps
    is_on_cpu = next(file.recognizer.parameters()).device.type == "cpu"
    heads = TorchHeads(file.recognizer, file.calibration, is_several=file.may_overlap)
    num_pieces = torch.get_num_threads() if is_on_cpu and not feature_form else 1
    return Runtime(fit, _InferenceEmbedder(file), heads, num_pieces, feature_form)


class Embedder(ClipEmbedder):
    """Fitted clips -> what the temporal heads' recurrence reads: transform, backbone with its batch norms folded away,
    and the heads' first half."""

    def __init__(self, file: ModelFile) -> None:
        transform = ClipTransform(file.transform, file.normalization)
        super().__init__(file.recognizer, transform, fold_batch_norm(file.recognizer.backbone))

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 ``[B, T + L, 3, S, S]``, or features from a file ``[B, T, D]``, -> ``[B, T, ...]``."""
        return self.recognizer.project(frames if frames.is_floating_point() else self.embed(frames))


class _InferenceEmbedder(Embedder):
    """The same without gradients, for arrays or tensors on any device."""

    @torch.inference_mode()
    def __call__(self, frames: Any) -> Tensor:
        projected: Tensor = super().__call__(torch.as_tensor(frames).to(next(self.parameters()).device))
        return projected


class TorchHeads:
    """``Heads`` of a recogniser."""

    reads_windows = reads_whole = True

    def __init__(
        self, recognizer: Recognizer, calibration: Calibration = UNCALIBRATED, *, is_several: bool = False
    ) -> None:
        self._recognizer, self._calibration, self._is_several = recognizer, calibration, is_several
        self.streams = recognizer.temporal.streams

    @torch.inference_mode()
    def score_windows(self, features: Tensor) -> Readings:
        step_scores, _ = self._recognizer.score_projected(features)
        return self._read(self._recognizer.read_out(step_scores))

    @torch.inference_mode()
    def score_steps(self, features: Tensor, state: State) -> tuple[Readings, State]:
        step_scores, state = self._recognizer.score_projected(features.unsqueeze(0), state)
        return self._read(step_scores[0]), state

    def _read(self, logits: Tensor) -> Readings:
        known = self._calibration
        if self._is_several:  # each label by itself
            probabilities = known.each_probability(logits).cpu().numpy()
            return Readings(probabilities, np.zeros(len(probabilities), bool))
        return Readings(known.probabilities(logits).cpu().numpy(), known.is_unknown(logits).cpu().numpy())
