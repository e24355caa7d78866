"""Temporal heads: a sequence in, a sequence out, the past carried in a state.

Every head speaks the same words, so that training, windows and streams are one code path:

    y, state = head(x, state)        x [B, T, ...], y [B, T, ...]; state None means ``initial_state``
    head.initial_state(x)            the state before the first frame
    a step is a call with T = 1

Any cut of a sequence into chunks, with the state handed on, gives the outputs of the whole. Vector heads read
``[B, T, D]``, map heads ``[B, T, C, H, W]``. Bidirectional heads read the future and say that they cannot stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.errors import UserError, unknown_name

State = Any  # a tensor, or a tuple of states; opaque to everyone but its head


class TemporalHead(nn.Module):
    """What every head is: these three facts, ``initial_state`` and ``forward``."""

    streams: bool
    """Whether a state can be carried on; false for heads that read the future."""
    reads_maps: bool
    """Whether the input is ``[B, T, C, H, W]`` rather than ``[B, T, D]``."""
    num_outputs: int
    """Channels or features of the output."""

    def initial_state(self, x: Tensor) -> State:
        """The state before the first frame, for input like ``x``."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The outputs for each step of ``x``, and the state after the last."""
        raise NotImplementedError


class Mean(TemporalHead):
    """Running mean of vectors: step t is the mean of frames 0..t, blind to their order. The baseline to beat."""

    streams = True
    reads_maps = False

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features

    def initial_state(self, x: Tensor) -> State:
        """Sum ``[B, D]`` and number of frames so far."""
        return x.new_zeros(x.shape[0], x.shape[2]), 0

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``x [B, T, D]`` -> ``[B, T, D]``."""
        total, count = self.initial_state(x) if state is None else state
        sums = total.unsqueeze(1) + x.cumsum(dim=1)
        counts = count + torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        return sums / counts.view(1, -1, 1), (sums[:, -1], count + x.shape[1])


class Recurrent(TemporalHead):
    """torch's own RNN, LSTM or GRU (cuDNN's on a GPU) in the words of this module."""

    reads_maps = False

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.streams = not layer.bidirectional
        self.num_outputs = layer.hidden_size * (2 if layer.bidirectional else 1)

    def initial_state(self, x: Tensor) -> State:
        """Hidden state ``[directions, B, D]``, for the LSTM a pair of hidden and cell state; zeros."""
        directions = 2 if self.layer.bidirectional else 1
        zeros = x.new_zeros(directions * self.layer.num_layers, x.shape[0], self.layer.hidden_size)
        return (zeros, zeros.clone()) if isinstance(self.layer, nn.LSTM) else zeros

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``x [B, T, D]`` -> ``[B, T, D']``.

        Raises:
            UserError: a state is handed to a bidirectional head.
        """
        if state is not None and not self.streams:
            raise _cannot_stream(type(self.layer).__name__)
        y, state = self.layer(x, self.initial_state(x) if state is None else state)
        return y, state


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

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``x [B, T, C, H, W]`` -> ``[B, T, hidden, H, W]`` and the last state ``[B, hidden, H, W]``."""
        hidden = self.initial_state(x) if state is None else state
        step = self._step_reset_after if self.reset_after else self._step_reset_before
        outputs = []
        for gates in _convolve_all_steps(x, self.input_conv, self.input_norm).unbind(dim=1):
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

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``x [B, T, C, H, W]`` -> ``[B, T, hidden, H, W]`` and the last hidden and cell."""
        hidden, cell = self.initial_state(x) if state is None else state
        outputs = []
        for gates in _convolve_all_steps(x, self.input_conv, self.input_norm).unbind(dim=1):
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

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``x [B, T, C, H, W]`` -> ``[B, T, C', H, W]``.

        Raises:
            UserError: a state is handed in.
        """
        if state is not None:
            raise _cannot_stream("head")
        y_forwards, state_forwards = self.forwards(x)
        y_backwards, state_backwards = self.backwards(x.flip(1))
        return torch.cat([y_forwards, y_backwards.flip(1)], dim=2), (state_forwards, state_backwards)


def _cannot_stream(name: str) -> UserError:
    return UserError(
        f"a bidirectional {name} reads the future and cannot carry a state on; "
        "use windows instead of a stream, or train with model.bidirectional false"
    )


def _recurrent(layer: Callable[..., nn.RNNBase]) -> Callable[[int, ModelConfig], TemporalHead]:
    def build(num_features: int, config: ModelConfig) -> TemporalHead:
        return Recurrent(
            layer(num_features, config.hidden_channels, batch_first=True, bidirectional=config.bidirectional)
        )

    return build


def _both_ways(build_one: Callable[[], TemporalHead], config: ModelConfig) -> TemporalHead:
    return Bidirectional(build_one(), build_one()) if config.bidirectional else build_one()


def _convgru(num_features: int, config: ModelConfig) -> TemporalHead:
    return _both_ways(
        lambda: ConvGRU(
            num_features,
            config.hidden_channels,
            config.kernel_size,
            reset_after=config.reset_after,
            norm=config.norm,
        ),
        config,
    )


def _convlstm(num_features: int, config: ModelConfig) -> TemporalHead:
    return _both_ways(
        lambda: ConvLSTM(num_features, config.hidden_channels, config.kernel_size, norm=config.norm), config
    )


# name -> (input channels, settings) -> head
TEMPORAL_HEADS: dict[str, Callable[[int, ModelConfig], TemporalHead]] = {
    "mean": lambda num_features, config: Mean(num_features),
    "rnn": _recurrent(nn.RNN),
    "lstm": _recurrent(nn.LSTM),
    "gru": _recurrent(nn.GRU),
    "convlstm": _convlstm,
    "convgru": _convgru,
}


class Stack(TemporalHead):
    """Heads one after the other, with dropout before each; maps are averaged over space where a vector head follows.

    Dropout drops the same features at every step (Gal and Ghahramani, 2016), so it does not look like motion.
    """

    def __init__(self, heads: list[TemporalHead], dropout: float) -> None:
        super().__init__()
        self.heads: Sequence[TemporalHead] = nn.ModuleList(heads)  # type: ignore[assignment]
        self.dropout = dropout
        self.reads_maps = heads[0].reads_maps
        self.streams = all(head.streams for head in heads)
        self.num_outputs = heads[-1].num_outputs

    def initial_state(self, x: Tensor) -> State:
        """None for each head: each makes its own from its own input."""
        return (None,) * len(self.heads)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``x [B, T, D]`` or ``[B, T, C, H, W]`` -> the last head's output and every head's state."""
        states = self.initial_state(x) if state is None else state
        next_states = []
        for head, head_state in zip(self.heads, states, strict=True):
            if x.ndim == 5 and not head.reads_maps:
                x = x.mean(dim=(3, 4))  # [B, T, C, H, W] -> [B, T, C]
            x, next_state = head(drop_features(x, self.dropout, self.training), head_state)
            next_states.append(next_state)
        return x, tuple(next_states)


def drop_features(x: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout of whole features of ``x [B, T, D, ...]``: one draw for all steps and places of a clip."""
    if not training or probability == 0:
        return x
    mask = x.new_full((x.shape[0], 1, x.shape[2], *[1] * (x.ndim - 3)), 1 - probability).bernoulli()
    return x * mask / (1 - probability)


def build_temporal(num_features: int, config: ModelConfig) -> Stack:
    """The stack of heads that ``config.heads`` names, for ``num_features`` input channels.

    Raises:
        UserError: an unknown head, or a map head after a vector head.
    """
    heads: list[TemporalHead] = []
    for name in config.heads:
        if name not in TEMPORAL_HEADS:
            raise unknown_name("temporal head", name, TEMPORAL_HEADS)
        head = TEMPORAL_HEADS[name](num_features, config)
        if heads and head.reads_maps and not heads[-1].reads_maps:
            raise UserError(f"model.heads {list(config.heads)}: {name} reads maps and cannot follow a head of vectors")
        heads.append(head)
        num_features = head.num_outputs
    return Stack(heads, config.dropout)
