"""EfficientNet-Lite0, stage by stage, so that the backbone most used here starts without the libraries it comes from.

After M. Tan and Q. Le, "EfficientNet" (2019), and its Lite variant: no squeeze-and-excitation, ReLU6, a stem and a last
layer of fixed width. Tensors have timm's names and order, paddings are TensorFlow's, as the published weights want.
"""

from __future__ import annotations

import math

import torch
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
    stages: list[nn.Module] = [_Layer(_conv(3, _STEM_CHANNELS, 3, stride=2), _norm(_STEM_CHANNELS), _clip())]
    channels = _STEM_CHANNELS
    for num_blocks, kernel, stride, expansion, channels_out in _STAGES:
        blocks: list[nn.Module] = []
        for place in range(num_blocks):
            blocks.append(_block(channels, channels_out, kernel, stride if place == 0 else 1, expansion))
            channels = channels_out
        stages.append(nn.Sequential(*blocks))
    stages.append(_Layer(_conv(channels, _LAST_CHANNELS, 1), _norm(_LAST_CHANNELS), _clip()))
    return stages


class _SamePaddedConv(nn.Conv2d):
    """A strided convolution with TensorFlow's padding: as little as gives ceil(size / stride) places, the odd one after
    the picture."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:])
        padded = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        convolved: Tensor = super()._conv_forward(padded, weight, bias)
        return convolved


def _conv(channels: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias; weights drawn for steady variances, as in the paper's code."""
    kind, padding = (nn.Conv2d, kernel // 2) if stride == 1 else (_SamePaddedConv, 0)
    conv = kind(channels, channels_out, kernel, stride, padding, groups=groups, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (kernel * kernel * channels_out // groups)))
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _clip() -> nn.ReLU6:
    return nn.ReLU6(inplace=True)  # neither convolution nor batch norm wants its result back for its derivative


def _convolve(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``norm(conv(x))``. In fine-tuning with frozen statistics the batch norm is a scale and shift of each channel, and
    goes through the weights: same function and derivatives, without two passes over the maps, which take a third of
    the time of a step."""
    if norm.training or not (torch.is_grad_enabled() and conv.weight.requires_grad):
        result: Tensor = norm(conv(x))
        return result
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, shift = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    folded: Tensor = conv._conv_forward(x, weight, shift)
    return folded


class _Layer(nn.Sequential):
    """Convolution, batch norm, ReLU6."""

    def forward(self, input: Tensor) -> Tensor:
        conv, norm, clip = self
        result: Tensor = clip(_convolve(conv, norm, input))  # type: ignore[arg-type]
        return result


class _Block(nn.Module):
    """Convolutions of these names with a batch norm each, and ReLU6 after all but the last."""

    def __init__(self, has_skip: bool, **convs: nn.Conv2d) -> None:
        super().__init__()
        self.has_skip, self.act = has_skip, _clip()
        for number, (name, conv) in enumerate(convs.items(), start=1):
            self.add_module(name, conv)
            self.add_module(f"bn{number}", _norm(conv.out_channels))
        self._names = [(name, f"bn{number}") for number, name in enumerate(convs, start=1)]

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for place, (conv, norm) in enumerate(self._names):
            out = _convolve(getattr(self, conv), getattr(self, norm), self.act(out) if place else out)
        return out + x if self.has_skip else out


def _block(channels: int, channels_out: int, kernel: int, stride: int, expansion: int) -> _Block:
    """Each channel for itself, then channels among one another; before that, where there is an expansion, widened."""
    wide, has_skip = channels * expansion, stride == 1 and channels == channels_out
    if expansion == 1:
        depthwise = _conv(channels, channels, kernel, stride, groups=channels)
        return _Block(has_skip, conv_dw=depthwise, conv_pw=_conv(channels, channels_out, 1))
    widening = _conv(channels, wide, 1)
    depthwise = _conv(wide, wide, kernel, stride, groups=wide)
    return _Block(has_skip, conv_pw=widening, conv_dw=depthwise, conv_pwl=_conv(wide, channels_out, 1))
