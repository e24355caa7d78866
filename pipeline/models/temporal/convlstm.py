"""ConvLSTM: an LSTM over feature maps, whose matrix products are convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.temporal import fast
from pipeline.models.temporal.head import Kernel, State, TemporalHead, initialize, size_keeping


class ConvLSTM(TemporalHead):
    r"""Convolutional LSTM without peepholes.

    Shi et al., "Convolutional LSTM Network", NeurIPS 2015, https://arxiv.org/abs/1506.04214. With ``*`` a convolution,
    ``.`` the elementwise product:

        i_t = sigmoid(W_i * x_t + U_i * h_{t-1})       input gate
        f_t = sigmoid(W_f * x_t + U_f * h_{t-1})       forget gate; its bias starts at 1 (Jozefowicz et al., 2015)
        g_t = tanh(W_g * x_t + U_g * h_{t-1})          candidate
        o_t = sigmoid(W_o * x_t + U_o * h_{t-1})       output gate
        c_t = f_t . c_{t-1} + i_t . g_t
        h_t = o_t . tanh(c_t)

    Arguments as ``ConvGRU``. The state is a pair of hidden and cell maps ``[B, hidden, H, W]``.
    """

    streams = True
    reads_maps = True

    def __init__(self, num_features: int, hidden_channels: int, kernel_size: Kernel = 3, *, norm: str = "none") -> None:
        super().__init__()
        self.num_outputs = self.hidden_channels = hidden_channels
        # Gates along the channels: i, f, g, o, as in torch.nn.LSTM.
        self.input_conv = size_keeping(num_features, 4 * hidden_channels, kernel_size)
        self.input_norm = nn.GroupNorm(4, 4 * hidden_channels) if norm == "group" else nn.Identity()
        self.hidden_conv = size_keeping(hidden_channels, 4 * hidden_channels, kernel_size, bias=False)
        self.workspace = fast.Workspace()
        initialize(self.input_conv, self.hidden_conv, num_gates=4)
        assert self.input_conv.bias is not None
        nn.init.ones_(self.input_conv.bias.detach()[hidden_channels : 2 * hidden_channels])

    def initial_state(self, x: Tensor) -> State:
        """Hidden and cell: zeros ``[B, hidden, H, W]`` each."""
        zeros = x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[3:])
        return zeros, zeros.clone()

    def project(self, x: Tensor) -> Tensor:
        """``x [B, T, C, H, W]`` -> W * x for all gates ``[B, T, 4 hidden, H, W]``."""
        if fast.applies(self, x):
            return fast.convolve_frames(x, self.input_conv, self.input_norm, self.workspace)
        maps = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # [B, T, ...] -> [B T, ...]
        gates: Tensor = self.input_norm(self.input_conv(maps))
        return gates.reshape(*x.shape[:2], *gates.shape[1:])  # -> [B, T, ...]

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, 4 hidden, H, W]`` -> ``[B, T, hidden, H, W]`` and the last hidden and cell."""
        h, c = (maps.to(projected.dtype) for maps in (self.initial_state(projected) if state is None else state))
        outputs = []
        for x in projected.unbind(1):
            i, f, g, o = (x + self.hidden_conv(h)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1), (h, c)
