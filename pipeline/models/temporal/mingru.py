"""Minimal GRUs: gates that look at the input alone, so that all of their work is done for all steps at once.

Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs All We Needed?", 2024, https://arxiv.org/abs/2410.01201:

    z_t = sigmoid(W_z x_t)                   how much of the candidate is taken
    n_t = g(W_n x_t)                         candidate; g(a) = a + 1/2 from 0 on, sigmoid(a) below: always positive
    h_t = (1 - z_t) . h_{t-1} + z_t . n_t

What is left of the recurrence is a weighted mean, in float32 whatever the precision of the gates. One layer
cannot let the past decide what to keep; a second one on top of it can: name the head twice in ``model.heads``.

g keeps the paper's candidates, and so its states, positive. The paper needs that for its scan over logarithms; ours
takes no logarithms, but keeps g, so that weights mean the same. The state before the first step is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.temporal import fast
from pipeline.models.temporal.head import Kernel, State, TemporalHead, size_keeping


class _Minimal(TemporalHead):
    """The recurrence over gates of any shape."""

    streams = True

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 2 hidden, ...]`` -> ``[B, T, hidden, ...]`` and the last state ``[B, hidden, ...]``."""
        h = self.initial_state(projected) if state is None else state.to(_state_dtype(state))
        x_z, x_n = projected.to(h.dtype).chunk(2, dim=2)
        zs, ns = torch.sigmoid(x_z), torch.where(x_n >= 0, x_n + 0.5, torch.sigmoid(x_n))
        outputs = []
        for z, n in zip(zs.unbind(1), ns.unbind(1), strict=True):
            h = torch.lerp(h, n, z)  # (1 - z) . h + z . n
            outputs.append(h)
        states = torch.stack(outputs, dim=1)
        return states.to(projected.dtype), states[:, -1]

    def update_gate(self, x: Tensor, before: Tensor) -> Tensor:
        """z, whatever the states before."""
        return torch.sigmoid(self.project(x).chunk(2, dim=2)[0])


class MinGRU(_Minimal):
    """Minimal GRU over vectors.

    Args:
        num_features: D of the input.
        hidden_channels: D of the state.
    """

    reads_maps = False

    def __init__(self, num_features: int, hidden_channels: int) -> None:
        super().__init__()
        self.num_outputs = hidden_channels
        self.gates = nn.Linear(num_features, 2 * hidden_channels)  # z, then n

    def initial_state(self, x: Tensor) -> Tensor:
        """Zeros ``[B, hidden]``, float32."""
        return x.new_zeros(x.shape[0], self.num_outputs, dtype=_state_dtype(x))

    def project(self, x: Tensor) -> Tensor:
        """``x [B, T, D]`` -> both gates ``[B, T, 2 hidden]``, before their curves."""
        gates: Tensor = self.gates(x)
        return gates


class ConvMinGRU(_Minimal):
    """Minimal GRU over feature maps: the matrix products are convolutions.

    Args:
        num_features: channels C of the input.
        hidden_channels: channels of the state.
        kernel_size: odd; maps keep their size.
        norm: ``group`` normalises the gates (GroupNorm, one group a gate).
    """

    reads_maps = True

    def __init__(self, num_features: int, hidden_channels: int, kernel_size: Kernel = 3, *, norm: str = "none") -> None:
        super().__init__()
        self.num_outputs = hidden_channels
        self.gates = size_keeping(num_features, 2 * hidden_channels, kernel_size)  # z, then n
        self.workspace = fast.Workspace()
        self.norm = nn.GroupNorm(2, 2 * hidden_channels) if norm == "group" else nn.Identity()
        for gate in self.gates.weight.chunk(2):
            nn.init.xavier_uniform_(gate)
        assert self.gates.bias is not None
        nn.init.zeros_(self.gates.bias)

    def initial_state(self, x: Tensor) -> Tensor:
        """Zeros ``[B, hidden, H, W]``, float32."""
        return x.new_zeros(x.shape[0], self.num_outputs, *x.shape[3:], dtype=_state_dtype(x))

    def project(self, x: Tensor) -> Tensor:
        """``x [B, T, C, H, W]`` -> both gates ``[B, T, 2 hidden, H, W]``, before their curves."""
        if fast.applies(self, x):
            return fast.convolve_frames(x, self.gates, self.norm, self.workspace)
        maps = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # [B, T, ...] -> [B T, ...]
        gates: Tensor = self.norm(self.gates(maps))
        return gates.reshape(*x.shape[:2], *gates.shape[1:])  # -> [B, T, ...]


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
