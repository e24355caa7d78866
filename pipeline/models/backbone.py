"""The part of the network that sees: a frame in, a feature map out.

A backbone knows the mean and standard deviation that its weights were trained with, so that normalisation comes
with the weights and is never a setting to forget.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import Normalization


class NoMapError(ValueError):
    """A network gives no feature map, of pictures of any size."""


class Backbone(nn.Module):
    """A network without its pooling and classifier.

    Args:
        stages: the network cut into parts that run one after the other, so that the first can be frozen.
        normalization: what the weights expect of their input.
        size_px: side of a picture that it can look at.
        num_frames: pictures that it reads at once (n), of frames in a row; more than 1 of a video network.
        num_features: D, if it is known; else a blank picture tells.

    Attributes:
        num_features: channels D of the feature map.

    Raises:
        NoMapError: the last stage gives something else than a feature map.
    """

    def __init__(
        self,
        stages: list[nn.Module],
        normalization: Normalization,
        size_px: int = 64,
        num_frames: int = 1,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        for module in self.stages.modules():
            _keep_in_bounds(module)
        self.normalization, self._size_px, self.num_frames = normalization, size_px, num_frames
        self.num_features = self._count_features() if num_features is None else num_features

    def _count_features(self) -> int:
        features = self.look(self._size_px)
        if not isinstance(features, Tensor) or features.ndim != 4:
            given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise NoMapError(f"it gives {given}, not a feature map [N, D, H, W]")
        return int(features.shape[1])

    def look(self, size_px: int) -> Tensor:
        """The map ``[1, D, h, w]`` of a blank picture (of n) of that side, for its shape."""
        return look(self, size_px, self.num_frames)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised float frames ``[N, 3 n, H, W]`` -> feature maps ``[N, D, h, w]``."""
        for stage in self.stages:
            frames = stage(frames)
        return frames

    def first_stages(self, num_stages: int) -> Backbone:
        """Return a backbone of the first so many stages, which it shares."""
        return Backbone(list(self.stages)[:num_stages], self.normalization, self._size_px)

    def freeze(self, num_stages: int | None = None) -> None:
        """Exclude the first ``num_stages`` stages (default: all) from training."""
        for stage in list(self.stages)[:num_stages]:
            stage.requires_grad_(False)


class _EveryNthPixel(nn.Conv2d):
    """A convolution of single pixels with a stride, as one without a stride of every n-th pixel: the same sums."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        return F.conv2d(x[..., ::down, ::across], self.weight, self.bias)


def _keep_in_bounds(module: nn.Module) -> None:
    """Keep a convolution of single pixels, with a stride and of 2 to 7 channels, from oneDNN's kernel for it: on a CPU
    with AVX2 and no more, its backward pass writes beyond its memory, which ends the process (torch 2.15, channels
    last). RepVGG, MobileOne and FastViT begin with one."""
    if type(module) is not nn.Conv2d or module.kernel_size != (1, 1) or max(module.stride) == 1:
        return
    if module.in_channels < 8 and module.groups == 1 and module.padding == (0, 0):
        module.__class__ = _EveryNthPixel


def look(network: nn.Module, size_px: int, num_frames: int = 1) -> Tensor:
    """Return what a network says of a blank picture of that side, or of so many at once, in evaluation and without
    gradients."""
    was_training = network.training
    network.eval()  # a batch of one picture must not enter batch-norm statistics
    with torch.no_grad():
        seen: Tensor = network(torch.zeros(1, 3 * num_frames, size_px, size_px))
    network.train(was_training)
    return seen
