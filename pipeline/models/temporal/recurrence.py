"""The loops of ConvGRU and ConvLSTM over time, with their derivatives written out.

Autograd would compute the gradient of the hidden weights once a step and add up; here each step leaves the gradient of
its gates, and one convolution over all steps makes the weights' gradient of them. The hidden weights are brought into
oneDNN's order once for all steps, and a step's arithmetic works in place, on maps that fit a core's cache.

Each ``run_*`` is a loop: gates from the input ``[T, B, gates, H, W]``, a state and the hidden convolution in,
``[T + 1, B, hidden, H, W]`` out, the state before the first step and after each. It appends to ``kept`` what its
derivative needs. The functions of autograd below are those loops and their derivatives, of the first order only.
``tests/test_recurrence.py`` holds them against plain loops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.models.temporal.convolution import (
    Convolution,
    Memory,
    repeated_convolution,
    sequence_buffer,
    transposed,
    weight_gradients,
)
from pipeline.models.temporal.derivatives import Gradients, first_order

Kept = list[tuple[Tensor, ...]]
Memories = tuple[Memory, Memory]  # of the hidden convolution, or of that of both gates and that of the candidate
_aten = torch.ops.aten


def run_gru_reset_after(gates: Tensor, hidden: Tensor, convolve: Convolution, kept: Kept | None = None) -> Tensor:
    """ConvGRU, reset gate after the convolution; keeps for each step (r, z, U_n * h + b_n) and n."""
    channels = hidden.shape[1]
    states = _states_from(gates, hidden)
    for step, from_input in enumerate(gates):
        hidden, following = states[step], states[step + 1]
        joined = convolve(hidden)
        reset_update, hidden_n = joined.split([2 * channels, channels], dim=1)
        reset, update = reset_update.add_(from_input[:, : 2 * channels]).sigmoid_().chunk(2, dim=1)
        candidate = torch.addcmul(from_input[:, 2 * channels :], reset, hidden_n).tanh_()
        torch.lerp(candidate, hidden, update, out=following)
        if kept is not None:
            kept.append((joined, candidate))
    return states


def run_gru_reset_before(
    gates: Tensor, hidden: Tensor, convolve_rz: Convolution, convolve_n: Convolution, kept: Kept | None = None
) -> Tensor:
    """ConvGRU as its paper writes it; keeps for each step (r, z), n and r . h."""
    channels = hidden.shape[1]
    states = _states_from(gates, hidden)
    for step, from_input in enumerate(gates):
        hidden, following = states[step], states[step + 1]
        reset_update = convolve_rz(hidden).add_(from_input[:, : 2 * channels]).sigmoid_()
        reset, update = reset_update.chunk(2, dim=1)
        remembered = reset * hidden
        candidate = convolve_n(remembered).add_(from_input[:, 2 * channels :]).tanh_()
        torch.lerp(candidate, hidden, update, out=following)
        if kept is not None:
            kept.append((reset_update, candidate, remembered))
    return states


def run_lstm(
    gates: Tensor, hidden: Tensor, cell: Tensor, convolve: Convolution, kept: Kept | None = None
) -> tuple[Tensor, Tensor]:
    """ConvLSTM: all hidden states, and the last cell; keeps for each step (i, f, g, o), the old cell, tanh(new)."""
    channels = hidden.shape[1]
    states = _states_from(gates, hidden)
    cell = cell.contiguous(memory_format=torch.channels_last)
    for step, from_input in enumerate(gates):
        joined = convolve(states[step]).add_(from_input)
        joined[:, : 2 * channels].sigmoid_()
        joined[:, 2 * channels : 3 * channels].tanh_()
        joined[:, 3 * channels :].sigmoid_()
        write, keep, value, show = joined.chunk(4, dim=1)
        previous, cell = cell, (keep * cell).addcmul_(write, value)
        shown = torch.tanh(cell)
        torch.mul(show, shown, out=states[step + 1])
        if kept is not None:
            kept.append((joined, previous, shown))
    return states, cell


def _states_from(gates: Tensor, hidden: Tensor) -> Tensor:
    states = sequence_buffer(hidden, gates.shape[0] + 1, hidden.shape[1])
    states[0] = hidden
    return states


class GRUResetAfter(torch.autograd.Function):
    """``run_gru_reset_after`` and its derivative: (memories, gates, hidden, weight, bias) -> hidden states."""

    @staticmethod
    def forward(
        ctx: Any, memories: Memories, gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        kept: Kept = []
        states = run_gru_reset_after(gates, hidden, repeated_convolution(weight, bias, hidden, len(gates)), kept)
        ctx.memory, ctx.has_bias = memories[0], bias is not None
        ctx.save_for_backward(weight, states, *_columns(kept))
        return states[1:]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor) -> Gradients:
        weight, states, *columns = ctx.saved_tensors
        channels, steps = states.shape[2], len(grad_outputs)
        grad_input = sequence_buffer(states[0], steps, 3 * channels)
        grad_hidden = sequence_buffer(states[0], steps, 3 * channels)
        carry_back = repeated_convolution(transposed(weight), None, grad_hidden[0], steps)
        carried: Tensor | None = None
        for step, (joined, candidate) in reversed(list(enumerate(_rows(columns, steps)))):
            grad = _joined_gradient(grad_outputs[step], carried)
            reset_update, hidden_n = joined.split([2 * channels, channels], dim=1)
            reset, update = reset_update.chunk(2, dim=1)
            of_input, of_hidden = grad_input[step], grad_hidden[step]
            of_candidate = of_input[:, 2 * channels :]
            _grad_candidate(grad, update, candidate, out=of_candidate)
            torch.mul(of_candidate, reset, out=of_hidden[:, 2 * channels :])
            of_gates = of_hidden[:, : 2 * channels]
            torch.mul(of_candidate, hidden_n, out=of_gates[:, :channels])
            torch.sub(states[step], candidate, out=of_gates[:, channels:]).mul_(grad)
            _aten.sigmoid_backward.grad_input(of_gates, reset_update, grad_input=of_gates)
            of_input[:, : 2 * channels] = of_gates
            carried = carry_back(of_hidden).addcmul_(grad, update)
        grad_weight, grad_bias = weight_gradients(
            states[:-1].flatten(0, 1), weight, grad_hidden.flatten(0, 1), ctx.memory, has_bias=ctx.has_bias
        )
        return None, grad_input, carried, grad_weight, grad_bias


class GRUResetBefore(torch.autograd.Function):
    """``run_gru_reset_before`` and its derivative: (memories, gates, hidden, weight) -> hidden states."""

    @staticmethod
    def forward(ctx: Any, memories: Memories, gates: Tensor, hidden: Tensor, weight: Tensor, bias: None) -> Tensor:
        kept: Kept = []
        ctx.memories = memories
        weight_rz, weight_n = weight.split([2 * hidden.shape[1], hidden.shape[1]])
        convolve_rz, convolve_n = (repeated_convolution(w, None, hidden, len(gates)) for w in (weight_rz, weight_n))
        states = run_gru_reset_before(gates, hidden, convolve_rz, convolve_n, kept)
        ctx.save_for_backward(weight, states, *_columns(kept))
        return states[1:]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor) -> Gradients:
        weight, states, *columns = ctx.saved_tensors
        channels, steps = states.shape[2], len(grad_outputs)
        weight_rz, weight_n = weight.split([2 * channels, channels])
        grad_rz = sequence_buffer(states[0], steps, 2 * channels)
        grad_n = sequence_buffer(states[0], steps, channels)
        carry_rz = repeated_convolution(transposed(weight_rz), None, grad_rz[0], steps)
        carry_n = repeated_convolution(transposed(weight_n), None, grad_n[0], steps)
        carried: Tensor | None = None
        for step, (reset_update, candidate, _) in reversed(list(enumerate(_rows(columns, steps)))):
            grad, hidden = _joined_gradient(grad_outputs[step], carried), states[step]
            reset, update = reset_update.chunk(2, dim=1)
            of_gates = grad_rz[step]
            of_remembered = carry_n(_grad_candidate(grad, update, candidate, out=grad_n[step]))
            torch.mul(of_remembered, hidden, out=of_gates[:, :channels])
            torch.sub(hidden, candidate, out=of_gates[:, channels:]).mul_(grad)
            _aten.sigmoid_backward.grad_input(of_gates, reset_update, grad_input=of_gates)
            carried = carry_rz(of_gates).addcmul_(grad, update).addcmul_(of_remembered, reset)
        remembered = torch.stack(columns[2 * steps :])
        grad_weight_rz, _ = weight_gradients(
            states[:-1].flatten(0, 1), weight_rz, grad_rz.flatten(0, 1), ctx.memories[0]
        )
        grad_weight_n, _ = weight_gradients(remembered.flatten(0, 1), weight_n, grad_n.flatten(0, 1), ctx.memories[1])
        return None, torch.cat([grad_rz, grad_n], dim=2), carried, torch.cat([grad_weight_rz, grad_weight_n]), None


class LSTM(torch.autograd.Function):
    """``run_lstm`` and its derivative: (memory, gates, hidden, cell, weight) -> hidden states, last cell."""

    @staticmethod
    def forward(
        ctx: Any, memory: Memory, gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept: Kept = []
        ctx.memory = memory
        states, cell = run_lstm(gates, hidden, cell, repeated_convolution(weight, None, hidden, len(gates)), kept)
        ctx.save_for_backward(weight, states, *_columns(kept))
        return states[1:], cell

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor, grad_cell: Tensor) -> Gradients:
        weight, states, *columns = ctx.saved_tensors
        channels, steps = states.shape[2], len(grad_outputs)
        grad_gates = sequence_buffer(states[0], steps, 4 * channels)
        carry_back = repeated_convolution(transposed(weight), None, grad_gates[0], steps)
        carried: Tensor | None = None
        for step, (joined, cell, shown) in reversed(list(enumerate(_rows(columns, steps)))):
            grad = _joined_gradient(grad_outputs[step], carried)
            write, keep, value, show = joined.chunk(4, dim=1)
            of_write, of_keep, of_value, of_show = grad_gates[step].chunk(4, dim=1)
            grad_cell = _aten.tanh_backward(grad * show, shown).add_(grad_cell)
            torch.mul(grad_cell, value, out=of_write)
            torch.mul(grad_cell, cell, out=of_keep)
            torch.mul(grad_cell, write, out=of_value)
            torch.mul(grad, shown, out=of_show)
            for of_gate, gate in ((of_write, write), (of_keep, keep), (of_show, show)):
                _aten.sigmoid_backward.grad_input(of_gate, gate, grad_input=of_gate)
            _aten.tanh_backward.grad_input(of_value, value, grad_input=of_value)
            grad_cell = grad_cell * keep
            carried = carry_back(grad_gates[step])
        grad_weight, _ = weight_gradients(states[:-1].flatten(0, 1), weight, grad_gates.flatten(0, 1), ctx.memory)
        return None, grad_gates, carried, grad_cell, grad_weight


def _joined_gradient(of_output: Tensor, carried: Tensor | None) -> Tensor:
    """The gradient of a hidden state: from the output of its step, and from the step after it."""
    return of_output if carried is None else carried.add_(of_output)


def _grad_candidate(grad: Tensor, update: Tensor, candidate: Tensor, out: Tensor) -> Tensor:
    """Through h = (1 - z) . tanh(a) + z . h' to a, written to ``out``."""
    of_tanh = torch.addcmul(grad, grad, update, value=-1)
    _aten.tanh_backward.grad_input(of_tanh, candidate, grad_input=out)
    return out


def _columns(kept: Kept) -> list[Tensor]:
    return [tensor for column in zip(*kept, strict=True) for tensor in column]


def _rows(columns: list[Tensor], steps: int) -> list[tuple[Tensor, ...]]:
    return list(zip(*(columns[start : start + steps] for start in range(0, len(columns), steps)), strict=True))
