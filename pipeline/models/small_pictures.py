"""Stages of backbones for pictures of about 32 px: a small fast CNN, and none at all."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHANNELS = (64, 256, 256)


class _Whitening(nn.Module):
    """2x2 neighbourhoods in channels of about equal variance that hardly correlate: float ``[N, 3, H, W]`` ->
    ``[N, 24, H - 1, W - 1]``, each channel followed, 12 channels on, by its negative.

    Learning is several times faster behind such a layer (K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    2024, https://arxiv.org/abs/2404.00498). There its filters are computed from training pictures. Of natural pictures
    they are always about the same, namely Haar wavelets of brightness and two opponent colours; these are fixed here,
    and a batch norm measures their variances.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        haar = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
        colours = F.normalize(torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]), dim=1)
        filters = torch.einsum("cr,fp->cfrp", colours, haar).reshape(12, 3, 2, 2)
        self.register_buffer("filters", torch.cat([filters, -filters]), persistent=False)
        # eps keeps what is nearly nothing, such as fine colours of a JPEG, from becoming loud noise.
        self.norm = nn.BatchNorm2d(len(self.filters), eps=5e-4, affine=False)

    def forward(self, frames: Tensor) -> Tensor:
        """As the class says."""
        whitened: Tensor = self.norm(F.conv2d(frames, self.filters))
        return whitened


def whitened_stages() -> list[nn.Module]:
    """Whitening, then three blocks of two convolutions, 1.9 million weights; a map of 3x3 from 32 px. After the network
    of the paper above, with ReLU, which costs half as much as GELU on a CPU."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convs = [nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in ((inputs, outputs), (outputs, outputs))]
        nn.init.dirac_(convs[1].weight)
        parts = [convs[0], nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()]
        return [*parts, convs[1], nn.BatchNorm2d(outputs), nn.ReLU()]

    stem: list[nn.Module] = [_Whitening(), nn.ReLU()]
    blocks = [block(*pair) for pair in pairwise((24, *_CHANNELS))]
    # The stem has no weights of its own, and its statistics are learned together with the first block.
    stages = [nn.Sequential(*stem, *blocks[0]), *(nn.Sequential(*parts) for parts in blocks[1:])]
    return [stage.to(memory_format=torch.channels_last) for stage in stages]


def pixel_stages(side: int) -> list[nn.Module]:
    """No CNN: the picture itself, ``side`` x ``side`` pixels side by side at each place of the map."""
    return [nn.PixelUnshuffle(side)]
