"""EfficientNet-Lite0, stage by stage, so that the backbone most used here starts without the libraries it comes from.

After M. Tan and Q. Le, "EfficientNet" (2019), and its Lite variant: no squeeze-and-excitation, ReLU6, a stem and a last
layer of fixed width. Tensors have timm's names and order, paddings are TensorFlow's, as the published weights want.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

# Of each stage: blocks, kernel, stride of the first block, expansion, channels out.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS, _LAST_CHANNELS = 32, 1280


def lite0_stages() -> list[nn.Module]:
    """Nine stages with random weights: the stem, seven stages of blocks, the last layer.

    RGB ``[N, 3, H, W]`` -> ``[N, 1280, ceil(H / 32), ceil(W / 32)]``.
    """
    stages: list[nn.Module] = [nn.Sequential(_conv(3, _STEM_CHANNELS, 3, stride=2), _norm(_STEM_CHANNELS), nn.ReLU6())]
    channels = _STEM_CHANNELS
    for num_blocks, kernel, stride, expansion, channels_out in _STAGES:
        blocks: list[nn.Module] = []
        for place in range(num_blocks):
            block = _DepthwiseBlock if expansion == 1 else _InvertedResidual
            blocks.append(block(channels, channels_out, kernel, stride if place == 0 else 1, expansion))
            channels = channels_out
        stages.append(nn.Sequential(*blocks))
    stages.append(nn.Sequential(_conv(channels, _LAST_CHANNELS, 1), _norm(_LAST_CHANNELS), nn.ReLU6()))
    return stages


class _SamePaddedConv(nn.Conv2d):
    """A strided convolution with TensorFlow's padding: as little as gives ceil(size / stride) places, the odd one after
    the picture."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:])
        padded = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(padded)


def _conv(channels: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias; weights drawn for steady variances, as in the paper's code."""
    kind, padding = (nn.Conv2d, kernel // 2) if stride == 1 else (_SamePaddedConv, 0)
    conv = kind(channels, channels_out, kernel, stride, padding, groups=groups, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (kernel * kernel * channels_out // groups)))
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _DepthwiseBlock(nn.Module):
    """Each channel for itself, then channels among one another."""

    def __init__(self, channels: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.conv_dw = _conv(channels, channels, kernel, stride, groups=channels)
        self.bn1 = _norm(channels)
        self.act = nn.ReLU6()
        self.conv_pw = _conv(channels, channels_out, 1)
        self.bn2 = _norm(channels_out)
        self.has_skip = stride == 1 and channels == channels_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return out + x if self.has_skip else out


class _InvertedResidual(nn.Module):
    """Widen, each channel for itself, narrow."""

    def __init__(self, channels: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv_pw = _conv(channels, wide, 1)
        self.bn1 = _norm(wide)
        self.conv_dw = _conv(wide, wide, kernel, stride, groups=wide)
        self.bn2 = _norm(wide)
        self.act = nn.ReLU6()
        self.conv_pwl = _conv(wide, channels_out, 1)
        self.bn3 = _norm(channels_out)
        self.has_skip = stride == 1 and channels == channels_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn1(self.conv_pw(x)))
        out = self.act(self.bn2(self.conv_dw(out)))
        out = self.bn3(self.conv_pwl(out))
        return out + x if self.has_skip else out
