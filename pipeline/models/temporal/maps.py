"""Heads that read feature maps ``[B, T, C, H, W]``: recurrent layers whose matrix products are convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.temporal.head import State, TemporalHead, cannot_stream


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
    The input convolution does not depend on the past, so it runs once for all steps and gates.

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
        kernel_size: int = 3,
        *,
        reset_after: bool = True,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.num_outputs = self.hidden_channels = hidden_channels
        self.reset_after = reset_after
        padding = kernel_size // 2
        # Gate order along the channels: reset, update, candidate, as in torch.nn.GRU.
        self.input_conv = nn.Conv2d(num_features, 3 * hidden_channels, kernel_size, padding=padding)
        self.input_norm = nn.GroupNorm(3, 3 * hidden_channels) if norm == "group" else nn.Identity()
        self.hidden_conv = nn.Conv2d(
            hidden_channels, 3 * hidden_channels, kernel_size, padding=padding, bias=reset_after
        )
        _initialize(self.input_conv, self.hidden_conv, num_gates=3)

    def initial_state(self, x: Tensor) -> Tensor:
        """Zeros ``[B, hidden, H, W]``."""
        return x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[3:])

    def project(self, x: Tensor) -> Tensor:
        """``x [B, T, C, H, W]`` -> the input side of all gates ``[B, T, 3 hidden, H, W]``."""
        return _convolve_all_steps(x, self.input_conv, self.input_norm)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 3 hidden, H, W]`` -> ``[B, T, hidden, H, W]`` and the last state ``[B, hidden, H, W]``."""
        hidden = self.initial_state(projected) if state is None else state
        step = self._step_reset_after if self.reset_after else self._step_reset_before
        outputs = []
        for gates in projected.unbind(dim=1):
            hidden = step(gates, hidden)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1), hidden

    def _step_reset_after(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """``gates [B, 3 hidden, H, W]`` from the input, ``hidden [B, hidden, H, W]`` -> the next hidden."""
        input_rz, input_n = gates.split([2 * self.hidden_channels, self.hidden_channels], dim=1)
        hidden_rz, hidden_n = self.hidden_conv(hidden).split([2 * self.hidden_channels, self.hidden_channels], dim=1)
        reset, update = torch.sigmoid(input_rz + hidden_rz).chunk(2, dim=1)
        candidate = torch.tanh(torch.addcmul(input_n, reset, hidden_n))
        return torch.lerp(candidate, hidden.to(candidate.dtype), update)

    def _step_reset_before(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """As ``_step_reset_after``, with the reset gate inside the candidate's convolution."""
        input_rz, input_n = gates.split([2 * self.hidden_channels, self.hidden_channels], dim=1)
        weight_rz, weight_n = self.hidden_conv.weight.split([2 * self.hidden_channels, self.hidden_channels])
        padding = self.hidden_conv.padding
        reset, update = torch.sigmoid(input_rz + F.conv2d(hidden, weight_rz, padding=padding)).chunk(2, dim=1)
        candidate = torch.tanh(input_n + F.conv2d(reset * hidden, weight_n, padding=padding))
        return torch.lerp(candidate, hidden.to(candidate.dtype), update)


class ConvLSTM(TemporalHead):
    """Convolutional LSTM without peepholes: Shi et al., "Convolutional LSTM Network", NeurIPS 2015,
    https://arxiv.org/abs/1506.04214. The forget gate's bias starts at 1 (Jozefowicz et al., 2015).

    Arguments as ``ConvGRU``. The state is a pair of hidden and cell maps ``[B, hidden, H, W]``.
    """

    streams = True
    reads_maps = True

    def __init__(self, num_features: int, hidden_channels: int, kernel_size: int = 3, *, norm: str = "none") -> None:
        super().__init__()
        self.num_outputs = self.hidden_channels = hidden_channels
        padding = kernel_size // 2
        # Gate order along the channels: input, forget, cell, output, as in torch.nn.LSTM.
        self.input_conv = nn.Conv2d(num_features, 4 * hidden_channels, kernel_size, padding=padding)
        self.input_norm = nn.GroupNorm(4, 4 * hidden_channels) if norm == "group" else nn.Identity()
        self.hidden_conv = nn.Conv2d(hidden_channels, 4 * hidden_channels, kernel_size, padding=padding, bias=False)
        _initialize(self.input_conv, self.hidden_conv, num_gates=4)
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
        return _convolve_all_steps(x, self.input_conv, self.input_norm)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 4 hidden, H, W]`` -> ``[B, T, hidden, H, W]`` and the last hidden and cell."""
        hidden, cell = self.initial_state(projected) if state is None else state
        outputs = []
        for gates in projected.unbind(dim=1):
            write, keep, value, show = (gates + self.hidden_conv(hidden)).chunk(4, dim=1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(value)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1), (hidden, cell)


def _convolve_all_steps(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """The input side of all gates for all steps in one call: ``[B, T, C, H, W]`` -> ``[B, T, gates, H, W]``."""
    gates: Tensor = norm(conv(x.flatten(0, 1)))  # [B, T, C, H, W] -> [B T, C, H, W] -> [B T, gates, H, W]
    return gates.reshape(*x.shape[:2], *gates.shape[1:])


def _initialize(input_conv: nn.Conv2d, hidden_conv: nn.Conv2d, num_gates: int) -> None:
    """Glorot for the input side, orthogonal gate by gate for the hidden side (Saxe et al., 2014), biases zero."""
    for gate in input_conv.weight.chunk(num_gates):
        nn.init.xavier_uniform_(gate)
    for gate in hidden_conv.weight.chunk(num_gates):
        nn.init.orthogonal_(gate)
    for conv in (input_conv, hidden_conv):
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)


class Bidirectional(TemporalHead):
    """Two map heads, one reading forwards and one backwards, their outputs joined along the channels."""

    streams = False
    reads_maps = True

    def __init__(self, forwards: TemporalHead, backwards: TemporalHead) -> None:
        super().__init__()
        self.forwards, self.backwards = forwards, backwards
        self.num_outputs = forwards.num_outputs + backwards.num_outputs

    def initial_state(self, x: Tensor) -> State:
        """Both heads' initial states."""
        return self.forwards.initial_state(x), self.backwards.initial_state(x)

    def project(self, x: Tensor) -> Tensor:
        """What both heads read, joined along the channels."""
        return torch.cat([self.forwards.project(x), self.backwards.project(x)], dim=2)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, C', H, W]`` -> ``[B, T, C'', H, W]``.

        Raises:
            UserError: a state is handed in.
        """
        if state is not None:
            raise cannot_stream("head")
        forwards, backwards = projected.chunk(2, dim=2)  # the two heads are alike
        y_forwards, state_forwards = self.forwards.recur(forwards)
        y_backwards, state_backwards = self.backwards.recur(backwards.flip(1))
        return torch.cat([y_forwards, y_backwards.flip(1)], dim=2), (state_forwards, state_backwards)
