"""Heads that read feature maps ``[B, T, C, H, W]``: recurrent layers whose matrix products are convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.temporal.convolution import (
    Kernel,
    Memory,
    convolve_all_steps,
    initialize,
    repeated_convolution,
    size_keeping,
)
from pipeline.models.temporal.derivatives import is_traced, needs_gradient
from pipeline.models.temporal.head import State, TemporalHead
from pipeline.models.temporal.recurrence import (
    LSTM,
    GRUResetAfter,
    GRUResetBefore,
    run_gru_reset_after,
    run_gru_reset_before,
    run_lstm,
)


class ConvGRU(TemporalHead):
    r"""Convolutional GRU over feature maps.

    Ballas, Yao, Pal and Courville, "Delving Deeper into Convolutional Networks for Learning Video Representations",
    ICLR 2016, https://arxiv.org/abs/1511.06432. With ``*`` a convolution, ``.`` the elementwise product:

        z_t = sigmoid(W_z * x_t + U_z * h_{t-1})                 update gate: how much of the past is kept
        r_t = sigmoid(W_r * x_t + U_r * h_{t-1})                 reset gate
        n_t = tanh(W_n * x_t + U_n * (r_t . h_{t-1}))            candidate, ``reset_after=False``: the paper's
        n_t = tanh(W_n * x_t + r_t . (U_n * h_{t-1} + b_n))      candidate, ``reset_after=True``: cuDNN's form
        h_t = (1 - z_t) . n_t + z_t . h_{t-1}

    The paper's z is one minus this z, which is that of ``torch.nn.GRU``. W has biases. ``reset_after`` needs one
    hidden convolution a step instead of two, and with 1x1 maps and kernel 1 it is ``torch.nn.GRU``, weight by weight.
    The input convolution does not depend on the past, so it runs once for all steps and gates; ``recurrence`` runs the
    rest. Equal to these equations step by step to 1e-5 in float32, in training with wide maps to 3e-5 (``winograd``);
    in bfloat16 the state is bfloat16 too.

    Args:
        num_features: input channels C.
        hidden_channels: channels of the state.
        kernel_size: odd; maps keep their size.
        norm: ``group`` normalises the input side of the gates (GroupNorm, one group a gate).
    """

    streams = True
    reads_maps = True

    def __init__(
        self,
        num_features: int,
        hidden_channels: int,
        kernel_size: Kernel = 3,
        *,
        reset_after: bool = True,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.num_outputs = self.hidden_channels = hidden_channels
        self.reset_after = reset_after
        # Gate order along the channels: reset, update, candidate, as in torch.nn.GRU.
        self.input_conv = size_keeping(num_features, 3 * hidden_channels, kernel_size)
        self.input_norm = nn.GroupNorm(3, 3 * hidden_channels) if norm == "group" else nn.Identity()
        self.hidden_conv = size_keeping(hidden_channels, 3 * hidden_channels, kernel_size, bias=reset_after)
        self._input_memory, self._hidden_memories = Memory(), (Memory(), Memory())
        initialize(self.input_conv, self.hidden_conv, num_gates=3)

    def initial_state(self, x: Tensor) -> Tensor:
        """Zeros ``[B, hidden, H, W]``."""
        return x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[3:])

    def project(self, x: Tensor) -> Tensor:
        """``x [B, T, C, H, W]`` -> the input side of all gates ``[B, T, 3 hidden, H, W]``."""
        return convolve_all_steps(x, self.input_conv, self.input_norm, self._input_memory)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 3 hidden, H, W]`` -> ``[B, T, hidden, H, W]`` and the last state ``[B, hidden, H, W]``."""
        gates = projected.transpose(0, 1)  # [B, T, ...] -> [T, B, ...]
        hidden = (self.initial_state(projected) if state is None else state).to(gates.dtype)
        outputs = self._run_plainly(gates, hidden) if is_traced() else self._run(gates, hidden)
        return outputs.transpose(0, 1), outputs[-1]  # [T, B, ...] -> [B, T, ...]

    def _run(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """``gates [T, B, 3 hidden, H, W]`` from the input -> the state after each step ``[T, B, hidden, H, W]``."""
        weight, bias = self.hidden_conv.weight.to(gates.dtype), self.hidden_conv.bias
        inputs = (gates, hidden, weight, None if bias is None else bias.to(gates.dtype))
        if needs_gradient(inputs):
            recurrence = GRUResetAfter if self.reset_after else GRUResetBefore
            outputs: Tensor = recurrence.apply(self._hidden_memories, *inputs)
            return outputs
        with torch.no_grad():
            return self._run_without_gradient(*inputs)[1:]

    def _run_without_gradient(self, gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        steps = [memory.step for memory in self._hidden_memories]
        step, step_n = steps if weight is self.hidden_conv.weight else (None, None)
        if self.reset_after:
            return run_gru_reset_after(gates, hidden, repeated_convolution(weight, bias, hidden, len(gates), step))
        weight_rz, weight_n = weight.split([2 * self.hidden_channels, self.hidden_channels])
        convolve_rz = repeated_convolution(weight_rz, None, hidden, len(gates), step)
        convolve_n = repeated_convolution(weight_n, None, hidden, len(gates), step_n)
        return run_gru_reset_before(gates, hidden, convolve_rz, convolve_n)

    def _run_plainly(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """``_run`` as its equations, in operations that exporters and compilers know."""
        step = self._step_reset_after if self.reset_after else self._step_reset_before
        outputs = []
        for from_input in gates.unbind():
            hidden = step(from_input, hidden)
            outputs.append(hidden)
        return torch.stack(outputs)

    def _step_reset_after(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """``gates [B, 3 hidden, H, W]`` from the input, ``hidden [B, hidden, H, W]`` -> the next hidden."""
        input_rz, input_n = gates.split([2 * self.hidden_channels, self.hidden_channels], dim=1)
        hidden_rz, hidden_n = self.hidden_conv(hidden).split([2 * self.hidden_channels, self.hidden_channels], dim=1)
        reset, update = torch.sigmoid(input_rz + hidden_rz).chunk(2, dim=1)
        candidate = torch.tanh(torch.addcmul(input_n, reset, hidden_n))
        return torch.lerp(candidate, hidden, update)

    def _step_reset_before(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """As ``_step_reset_after``, with the reset gate inside the candidate's convolution."""
        input_rz, input_n = gates.split([2 * self.hidden_channels, self.hidden_channels], dim=1)
        weight_rz, weight_n = self.hidden_conv.weight.split([2 * self.hidden_channels, self.hidden_channels])
        padding = self.hidden_conv.padding
        reset, update = torch.sigmoid(input_rz + F.conv2d(hidden, weight_rz, padding=padding)).chunk(2, dim=1)
        candidate = torch.tanh(input_n + F.conv2d(reset * hidden, weight_n, padding=padding))
        return torch.lerp(candidate, hidden, update)


class ConvLSTM(TemporalHead):
    """Convolutional LSTM without peepholes: Shi et al., "Convolutional LSTM Network", NeurIPS 2015,
    https://arxiv.org/abs/1506.04214. The forget gate's bias starts at 1 (Jozefowicz et al., 2015).

    Arguments as ``ConvGRU``. The state is a pair of hidden and cell maps ``[B, hidden, H, W]``.
    """

    streams = True
    reads_maps = True

    def __init__(self, num_features: int, hidden_channels: int, kernel_size: Kernel = 3, *, norm: str = "none") -> None:
        super().__init__()
        self.num_outputs = self.hidden_channels = hidden_channels
        # Gate order along the channels: input, forget, cell, output, as in torch.nn.LSTM.
        self.input_conv = size_keeping(num_features, 4 * hidden_channels, kernel_size)
        self.input_norm = nn.GroupNorm(4, 4 * hidden_channels) if norm == "group" else nn.Identity()
        self.hidden_conv = size_keeping(hidden_channels, 4 * hidden_channels, kernel_size, bias=False)
        self._input_memory, self._hidden_memory = Memory(), Memory()
        initialize(self.input_conv, self.hidden_conv, num_gates=4)
        nn.init.ones_(self._input_bias[hidden_channels : 2 * hidden_channels])

    @property
    def _input_bias(self) -> Tensor:
        bias = self.input_conv.bias
        assert bias is not None
        return bias.detach()

    def initial_state(self, x: Tensor) -> State:
        """Hidden and cell: zeros ``[B, hidden, H, W]`` each."""
        zeros = x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[3:])
        return zeros, zeros.clone()

    def project(self, x: Tensor) -> Tensor:
        """``x [B, T, C, H, W]`` -> the input side of all gates ``[B, T, 4 hidden, H, W]``."""
        return convolve_all_steps(x, self.input_conv, self.input_norm, self._input_memory)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 4 hidden, H, W]`` -> ``[B, T, hidden, H, W]`` and the last hidden and cell."""
        gates = projected.transpose(0, 1)  # [B, T, ...] -> [T, B, ...]
        states = self.initial_state(projected) if state is None else state
        hidden, cell = (maps.to(gates.dtype) for maps in states)
        run = self._run_plainly if is_traced() else self._run
        outputs, cell = run(gates, hidden, cell)
        return outputs.transpose(0, 1), (outputs[-1], cell)  # [T, B, ...] -> [B, T, ...]

    def _run(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """``gates [T, B, 4 hidden, H, W]`` -> the hidden maps after each step ``[T, B, hidden, H, W]``, last cell."""
        inputs = (gates, hidden, cell, self.hidden_conv.weight.to(gates.dtype))
        if needs_gradient(inputs):
            outputs, cell = LSTM.apply(self._hidden_memory, *inputs)
            return outputs, cell
        step = self._hidden_memory.step if inputs[3] is self.hidden_conv.weight else None
        with torch.no_grad():
            convolve = repeated_convolution(inputs[3], None, hidden, len(gates), step)
            states, cell = run_lstm(gates, hidden, cell, convolve)
        return states[1:], cell

    def _run_plainly(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """``_run`` as its equations, in operations that exporters and compilers know."""
        outputs = []
        for from_input in gates.unbind():
            write, keep, value, show = (from_input + self.hidden_conv(hidden)).chunk(4, dim=1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(value)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
            outputs.append(hidden)
        return torch.stack(outputs), cell
