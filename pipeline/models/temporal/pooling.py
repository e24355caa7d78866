"""Heads without recurrence that read vectors ``[B, T, D]``: running mean, and change."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.temporal.head import State, TemporalHead


class Identity(TemporalHead):
    """No time at all: each frame as it is. The baseline of timelines."""

    streams = True
    reads_maps = False

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features

    def initial_state(self, x: Tensor) -> State:
        """Nothing, ``[B, 1]``, so that every head has a state."""
        return x.new_zeros(x.shape[0], 1)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, D]`` -> ``[B, T, D]``."""
        return projected, self.initial_state(projected)


class Mean(TemporalHead):
    """Running mean of vectors: step t is the mean of frames 0..t, blind to their order. The baseline to beat."""

    streams = True
    reads_maps = False

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features

    def initial_state(self, x: Tensor) -> State:
        """Sum ``[B, D]`` and number of frames so far ``[B, 1]``."""
        return x.new_zeros(x.shape[0], x.shape[2]), x.new_zeros(x.shape[0], 1, dtype=torch.float32)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, D]`` -> ``[B, T, D]``."""
        total, count = self.initial_state(projected) if state is None else state
        sums = total.unsqueeze(1) + projected.cumsum(dim=1)
        counts = count + torch.arange(1, projected.shape[1] + 1, device=projected.device)  # [B, T]
        return sums / counts.to(sums.dtype).unsqueeze(2), (sums[:, -1], counts[:, -1:])


class Change(TemporalHead):
    """Each vector joined with its change since the frame before; without weights. In front of another head it shows
    motion to a model whose frozen backbone saw single pictures. Before the first frame nothing changes."""

    streams = True
    reads_maps = False

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = 2 * num_features

    def initial_state(self, x: Tensor) -> State:
        """The frame before, ``[B, D]``, and whether there is one, ``[B, 1]``: zeros, as for every head, so that a
        stream of an exported model begins as all others do. Where there is none, the first frame stands for it."""
        return x.new_zeros(x.shape[0], x.shape[2]), x.new_zeros(x.shape[0], 1)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, D]`` -> ``[B, T, 2 D]``."""
        before, is_there = self.initial_state(projected) if state is None else state
        before = torch.where(is_there > 0, before, projected[:, 0])
        previous = torch.cat([before.unsqueeze(1), projected[:, :-1]], dim=1)
        return torch.cat([projected, projected - previous], dim=2), (projected[:, -1], torch.ones_like(is_there))
