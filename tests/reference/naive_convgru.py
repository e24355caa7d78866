"""ConvGRU as public code writes it: at each step, three small convolutions of the input joined with the state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NaiveConvGRU(nn.Module):
    """``x [B, T, C, H, W]`` -> every hidden state ``[B, T, hidden, H, W]`` and the last. The paper's form, kernel 3."""

    def __init__(self, num_features: int, hidden_channels: int) -> None:
        super().__init__()
        self.hidden_channels = hidden_channels
        joined = num_features + hidden_channels
        self.reset_gate = nn.Conv2d(joined, hidden_channels, 3, padding=1)
        self.update_gate = nn.Conv2d(joined, hidden_channels, 3, padding=1)
        self.out_gate = nn.Conv2d(joined, hidden_channels, 3, padding=1)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if hidden is None:
            hidden = x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[3:])
        outputs = []
        for t in range(x.shape[1]):
            joined = torch.cat([x[:, t], hidden], dim=1)
            reset, update = torch.sigmoid(self.reset_gate(joined)), torch.sigmoid(self.update_gate(joined))
            candidate = torch.tanh(self.out_gate(torch.cat([x[:, t], reset * hidden], dim=1)))
            hidden = (1 - update) * candidate + update * hidden
            outputs.append(hidden)
        return torch.stack(outputs, dim=1), hidden
