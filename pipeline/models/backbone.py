"""The part of the network that sees: a frame in, a feature map out.

A backbone knows the mean and standard deviation that its weights were trained with, so that normalisation comes
with the weights and is never a setting to forget.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import Normalization
from pipeline.errors import UserError


class Backbone(nn.Module):
    """A CNN without its pooling and classifier.

    Attributes:
        stages: the CNN cut into parts that run one after the other, so that the first can be frozen.
        num_features: channels D of the feature map.
        normalization: what the weights expect of their input.
    """

    def __init__(self, stages: list[nn.Module], normalization: Normalization) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.normalization = normalization
        self.num_features = self._count_features()

    def _count_features(self) -> int:
        try:
            features = self.look(64)
        except (AssertionError, RuntimeError) as error:  # a transformer of a fixed input size, for example
            raise UserError(
                f"this network gives no feature map for a picture of 64x64 ({error}); choose a CNN"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 4:
            given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"this network gives {given}, not a feature map [N, D, H, W]; choose a CNN")
        return int(features.shape[1])

    def look(self, size_px: int) -> Tensor:
        """The map ``[1, D, h, w]`` of a blank picture of that side, for its shape."""
        was_training = self.training
        self.eval()  # a batch of one picture must not enter batch-norm statistics
        with torch.no_grad():
            features: Tensor = self(torch.zeros(1, 3, size_px, size_px))
        self.train(was_training)
        return features

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised float frames ``[N, 3, H, W]`` -> feature maps ``[N, D, h, w]``."""
        for stage in self.stages:
            frames = stage(frames)
        return frames

    def freeze(self, num_stages: int | None = None) -> None:
        """Exclude the first ``num_stages`` stages (default: all) from training."""
        for stage in list(self.stages)[:num_stages]:
            stage.requires_grad_(False)
