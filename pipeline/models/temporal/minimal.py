"""Minimal GRUs: gates that look at the input alone, so that all of their work is done for all steps at once.

Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs All We Needed?", 2024, https://arxiv.org/abs/2410.01201:

    z_t = sigmoid(W_z x_t)                   how much of the candidate is taken
    n_t = g(W_n x_t)                         candidate; g(a) = a + 1/2 from 0 on, sigmoid(a) below: always positive
    h_t = (1 - z_t) . h_{t-1} + z_t . n_t

What is left of the recurrence is a weighted mean (``scan``), in float32 whatever the precision of the gates. One layer
cannot let the past decide what to keep; a second one on top of it can: name the head twice in ``model.heads``.

g keeps the paper's candidates, and so its states, positive. The paper needs that for its scan over logarithms; ours
takes no logarithms, but keeps g, so that weights mean the same. The state before the first step is zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.temporal.convolution import Kernel, Memory, convolve_all_steps, size_keeping
from pipeline.models.temporal.derivatives import Gradients, first_order, is_traced
from pipeline.models.temporal.head import State, TemporalHead
from pipeline.models.temporal.scan import weighted_scan

_aten = torch.ops.aten


class MinGRU(TemporalHead):
    """Minimal GRU over vectors.

    Args:
        num_features: D of the input.
        hidden_channels: D of the state.
    """

    streams = True
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

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 2 hidden]`` -> ``[B, T, hidden]`` and the last state ``[B, hidden]``."""
        return _run(projected, self.initial_state(projected) if state is None else state)


class ConvMinGRU(TemporalHead):
    """Minimal GRU over feature maps: the matrix products are convolutions.

    Args:
        num_features: channels C of the input.
        hidden_channels: channels of the state.
        kernel_size: odd; maps keep their size.
        norm: ``group`` normalises the gates (GroupNorm, one group a gate).
    """

    streams = True
    reads_maps = True

    def __init__(self, num_features: int, hidden_channels: int, kernel_size: Kernel = 3, *, norm: str = "none") -> None:
        super().__init__()
        self.num_outputs = hidden_channels
        self.gates = size_keeping(num_features, 2 * hidden_channels, kernel_size)  # z, then n
        self._memory = Memory()
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
        return convolve_all_steps(x, self.gates, self.norm, self._memory)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 2 hidden, H, W]`` -> ``[B, T, hidden, H, W]`` and the last state ``[B, hidden, H, W]``."""
        return _run(projected, self.initial_state(projected) if state is None else state)


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _run(gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """``gates [B, T, 2 hidden, ...]`` -> the outputs ``[B, T, hidden, ...]`` and the last state."""
    by_step, state = gates.transpose(0, 1), state.to(_state_dtype(state))  # [B, T, ...] -> [T, B, ...]
    if state.device.type == "cpu" and not is_traced():
        states: Tensor = MinimalRecurrence.apply(by_step, state)
    else:
        take, candidate = by_step.to(state.dtype).chunk(2, dim=2)
        weight, value = torch.sigmoid(take), torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        states = _run_plainly(weight, value, state) if is_traced() else weighted_scan(weight, value, state)
    return states.transpose(0, 1).to(gates.dtype), states[-1]  # [T, B, ...] -> [B, T, ...]


class MinimalRecurrence(torch.autograd.Function):
    """Gates' curves and the scan in order, with their derivative: a step's arithmetic works on maps that fit a core's
    cache. (gates ``[T, B, 2 hidden, ...]``, state ``[B, hidden, ...]``) -> states ``[T, B, hidden, ...]``, of the
    state's dtype."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, state: Tensor) -> Tensor:
        take, candidate = gates.chunk(2, dim=2)
        states, weights, values = (torch.empty_like(take, dtype=state.dtype) for _ in range(3))
        before = state
        for step in range(len(gates)):
            weight = torch.sigmoid(take[step].to(state.dtype), out=weights[step])
            line = candidate[step].to(state.dtype)
            value = torch.sigmoid(line, out=values[step])
            # The greater one is g: the sigmoid lies above the line a + 1/2 where a is below 0, and under it above 0.
            torch.maximum(value, line + 0.5, out=value)
            before = torch.lerp(before, value, weight, out=states[step])
        ctx.save_for_backward(state, states, weights, values)
        ctx.gates = torch.empty_like(gates, device="meta")  # shape, order in memory and dtype of their gradient
        return states

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        state, states, weights, values = ctx.saved_tensors
        of_gates = torch.empty_like(ctx.gates, dtype=state.dtype, device=state.device)
        of_take, of_candidate = of_gates.chunk(2, dim=2)
        carried = torch.zeros_like(state)
        for step in reversed(range(len(grad))):
            of_state = carried.add_(grad[step])
            of_value = of_state * weights[step]
            value = values[step]  # from 1/2 on g is that line, of slope 1
            of_curve = _aten.sigmoid_backward.grad_input(of_value, value, grad_input=of_candidate[step])
            torch.where(value >= 0.5, of_value, of_curve, out=of_curve)
            carried = of_state.sub_(of_value)
            # The derivative w (1 - w) . (n - h') of the weight's, with w . (n - h') = h - h'.
            torch.sub(states[step], states[step - 1] if step else state, out=of_take[step]).mul_(carried)
        return of_gates.to(ctx.gates.dtype), carried


def _run_plainly(weight: Tensor, value: Tensor, state: Tensor) -> Tensor:
    """``weighted_scan`` in operations that exporters and compilers know."""
    states = []
    for step in range(len(value)):
        state = torch.lerp(state, value[step], weight[step])
        states.append(state)
    return torch.stack(states)
