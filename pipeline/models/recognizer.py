"""The recogniser: backbone, temporal heads and classifier, with a seam between frames and time.

``embed`` turns each frame into features once; ``score`` turns a sequence of features into class scores. Training
calls both on a clip; inference embeds each frame of a video once and scores as many windows or steps as it likes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.models.backbones import build_backbone
from pipeline.models.temporal.head import State
from pipeline.models.temporal.stack import build_temporal, drop_features

# On a CPU a backbone is fastest when its largest maps stay in the caches: 4 frames of 224x224 a call took 8.9 ms each,
# 32 frames 11.9 (2 cores, efficientnet_lite0).
_PIXELS_A_CALL = 4 * 224 * 224


class Recognizer(nn.Module):
    """CNN + temporal heads + linear classifier.

    Args:
        config: the architecture.
        num_classes: K.
        load_weights: False leaves the backbone as initialised, for a caller that loads all weights itself.
    """

    def __init__(self, config: ModelConfig, num_classes: int, *, load_weights: bool = True) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.weights if load_weights else "none", config.num_stages)
        self.temporal = build_temporal(self.backbone.num_features, config)
        # Published backbones end in features of very unequal scale; a recurrent head learns several times faster, and
        # better, from equal ones.
        normalize = config.feature_norm == "batch"
        self.feature_norm = nn.BatchNorm1d(self.backbone.num_features) if normalize else nn.Identity()
        self.classifier = nn.Linear(self.temporal.num_outputs, num_classes)

    def embed(self, frames: Tensor, backbone: nn.Module | None = None) -> Tensor:
        """Normalised frames ``[N, 3, H, W]`` -> features: maps ``[N, D, h, w]`` if the first temporal head reads
        maps, else their average over space ``[N, D]``. ``backbone``: another network that gives what ours gives."""
        backbone = self.backbone if backbone is None else backbone
        if torch.is_grad_enabled() or self.backbone.training or frames.device.type != "cpu":
            return self._embed(frames, backbone)
        num_at_once = max(1, _PIXELS_A_CALL // (frames.shape[2] * frames.shape[3]))
        if len(frames) <= num_at_once:
            return self._embed(frames, backbone)
        return torch.cat([self._embed(some, backbone) for some in frames.split(num_at_once)])

    def _embed(self, frames: Tensor, backbone: nn.Module) -> Tensor:
        features: Tensor = backbone(frames.contiguous(memory_format=torch.channels_last))
        return features if self.temporal.reads_maps else features.mean(dim=(2, 3))

    def score(self, features: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Features ``[B, T, D, ...]`` -> class scores after each step ``[B, T, K]`` (logits) and the state."""
        return self.score_projected(self.project(features), state)

    def project(self, features: Tensor) -> Tensor:
        """Features ``[B, T, D, ...]`` -> ``[B, T, ...]``: all that the temporal heads do with each frame alone."""
        return self.temporal.project(self.normalize(features))

    def score_projected(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """As ``score``, from what ``project`` gave."""
        outputs, state = self.temporal.recur(projected, state)
        if outputs.ndim == 5:
            outputs = outputs.mean(dim=(3, 4))  # [B, T, C, h, w] -> [B, T, C]
        return self.classifier(drop_features(outputs, self.config.dropout, self.training)), state

    def normalize(self, features: Tensor) -> Tensor:
        """Features ``[B, T, D, ...]`` as the temporal heads read them, of the same shape."""
        batch, steps, channels = features.shape[:3]
        # [B, T, D, h, w] -> [B T, D, h w]; [B, T, D] -> [B T, D, 1]
        normalized: Tensor = self.feature_norm(features.reshape(batch * steps, channels, -1))
        return normalized.reshape(features.shape)

    def read_out(self, step_scores: Tensor) -> Tensor:
        """Scores after each step ``[B, T, K]`` -> scores of the clip ``[B, K]``."""
        return step_scores[:, -1] if self.config.readout == "last" else step_scores.mean(dim=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Normalised clips ``[B, T, 3, H, W]`` -> logits ``[B, K]``."""
        features = self.embed(clips.flatten(0, 1))  # [B, T, 3, H, W] -> [B T, 3, H, W]
        return self.classify(features.reshape(*clips.shape[:2], *features.shape[1:]))

    def classify(self, features: Tensor) -> Tensor:
        """Features of clips ``[B, T, D, ...]`` -> logits ``[B, K]``."""
        return self.read_out(self.score(features)[0])
