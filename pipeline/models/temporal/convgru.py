"""ConvGRU: a GRU over feature maps, whose matrix products are convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.temporal import fast
from pipeline.models.temporal.head import Kernel, State, TemporalHead, initialize, size_keeping


class ConvGRU(TemporalHead):
    r"""Convolutional GRU over feature maps.

    Ballas, Yao, Pal and Courville, "Delving Deeper into Convolutional Networks for Learning Video Representations",
    ICLR 2016, https://arxiv.org/abs/1511.06432. With ``*`` a convolution, ``.`` the elementwise product:

        r_t = sigmoid(W_r * x_t + U_r * h_{t-1})                 reset gate
        z_t = sigmoid(W_z * x_t + U_z * h_{t-1})                 update gate: how much of the past is kept
        n_t = tanh(W_n * x_t + r_t . (U_n * h_{t-1} + b_n))      candidate, ``reset_after=True``: cuDNN's form
        n_t = tanh(W_n * x_t + U_n * (r_t . h_{t-1}))            candidate, ``reset_after=False``: the paper's
        h_t = (1 - z_t) . n_t + z_t . h_{t-1}

    The paper's z is one minus this z, which is that of ``torch.nn.GRU``. W has biases. ``reset_after`` needs one
    hidden convolution a step instead of two, and with 1x1 maps and kernel 1 it is ``torch.nn.GRU``, weight by weight.
    The form in ``fast`` is equal to these equations step by step to 1e-5 in float32, in training with wide maps to
    3e-5 (``winograd``); in bfloat16 the state is bfloat16 too.

    Args:
        num_features: input channels C.
        hidden_channels: channels of the state.
        kernel_size: odd; maps keep their size.
        reset_after: which candidate.
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
        # Gates along the channels: r, z, n, as in torch.nn.GRU.
        self.input_conv = size_keeping(num_features, 3 * hidden_channels, kernel_size)
        self.input_norm = nn.GroupNorm(3, 3 * hidden_channels) if norm == "group" else nn.Identity()
        self.hidden_conv = size_keeping(hidden_channels, 3 * hidden_channels, kernel_size, bias=reset_after)
        self.workspace = fast.Workspace()
        initialize(self.input_conv, self.hidden_conv, num_gates=3)

    def initial_state(self, x: Tensor) -> Tensor:
        """Zeros ``[B, hidden, H, W]``."""
        return x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[3:])

    def project(self, x: Tensor) -> Tensor:
        """``x [B, T, C, H, W]`` -> W * x for all gates ``[B, T, 3 hidden, H, W]``."""
        if fast.applies(self, x):
            return fast.convolve_frames(x, self.input_conv, self.input_norm, self.workspace)
        maps = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # [B, T, ...] -> [B T, ...]
        gates: Tensor = self.input_norm(self.input_conv(maps))
        return gates.reshape(*x.shape[:2], *gates.shape[1:])  # -> [B, T, ...]

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 3 hidden, H, W]`` -> ``[B, T, hidden, H, W]`` and the last state ``[B, hidden, H, W]``."""
        h = (self.initial_state(projected) if state is None else state).to(projected.dtype)
        if self.reset_after and fast.applies(self, projected):
            states = fast.run_convgru(projected, h, self.hidden_conv, self.workspace)
            return states, states[:, -1]
        outputs = []
        for x in projected.unbind(1):
            h, _ = self._step(x, h)
            outputs.append(h)
        return torch.stack(outputs, dim=1), h

    def _step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Projected ``x [B, 3 hidden, H, W]`` and ``h [B, hidden, H, W]`` -> the next h, and z."""
        sizes = [2 * self.hidden_channels, self.hidden_channels]
        x_rz, x_n = x.split(sizes, dim=1)
        if self.reset_after:
            h_rz, h_n = self.hidden_conv(h).split(sizes, dim=1)
            r, z = torch.sigmoid(x_rz + h_rz).chunk(2, dim=1)
            n = torch.tanh(torch.addcmul(x_n, r, h_n))  # x_n + r . h_n
        else:
            weight_rz, weight_n = self.hidden_conv.weight.split(sizes)
            padding = self.hidden_conv.padding
            r, z = torch.sigmoid(x_rz + F.conv2d(h, weight_rz, padding=padding)).chunk(2, dim=1)
            n = torch.tanh(x_n + F.conv2d(r * h, weight_n, padding=padding))
        return torch.lerp(n, h, z), z  # (1 - z) . n + z . h

    def update_gate(self, x: Tensor, before: Tensor) -> Tensor:
        """1 - z; all steps at once, as the states are known."""
        _, z = self._step(self.project(x).flatten(0, 1), before.flatten(0, 1))
        return 1 - z.reshape(before.shape)
