"""Minimal GRUs one step at a time, and their recurrence over logarithms as the paper (arXiv 2410.01201) has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def positive(a: Tensor) -> Tensor:
    """The paper's g."""
    return torch.where(a >= 0, a + 0.5, torch.sigmoid(a))


def convolutional(x: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
    """``x [B, T, C, H, W]``; weights of z and the candidate along dim 0. Returns every state."""
    (w_z, w_n), (b_z, b_n), pad = weight.chunk(2), bias.chunk(2), weight.shape[-1] // 2
    outputs = []
    for t in range(x.shape[1]):
        z = torch.sigmoid(F.conv2d(x[:, t], w_z, b_z, padding=pad))
        hidden = (1 - z) * hidden + z * positive(F.conv2d(x[:, t], w_n, b_n, padding=pad))
        outputs.append(hidden)
    return torch.stack(outputs, dim=1)


def linear(x: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
    """``x [B, T, D]``, as ``convolutional``."""
    maps = convolutional(x[..., None, None], weight[..., None, None], bias, hidden[..., None, None])
    return maps[..., 0, 0]


def weighted_means(weight: Tensor, value: Tensor, state: Tensor) -> Tensor:
    """h_t = (1 - w_t) h_{t-1} + w_t v_t for ``[T, ...]``, one step at a time."""
    states = []
    for w, v in zip(weight, value, strict=True):
        state = (1 - w) * state + w * v
        states.append(state)
    return torch.stack(states)


def weighted_means_by_logarithms(take: Tensor, value: Tensor, state: Tensor) -> Tensor:
    """The same for w = sigmoid(take) and positive values and state, as the paper computes it: all steps at once."""
    log_keep = -F.softplus(take)
    summed = log_keep.cumsum(dim=0)
    log_added = torch.cat([state.log()[None], -F.softplus(-take) + value.log() - summed])
    return (summed + log_added.logcumsumexp(dim=0)[1:]).exp()
