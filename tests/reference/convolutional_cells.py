"""ConvGRU and ConvLSTM as their papers write them: one step at a time, one convolution a gate and side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convgru(x: Tensor, w: Tensor, b: Tensor, u: Tensor, b_hidden: Tensor | None, hidden: Tensor) -> Tensor:
    """``x [B, T, C, H, W]``; weights of the gates reset, update, candidate along dim 0; ``b_hidden`` None is the
    paper's form. Returns every hidden state ``[B, T, hidden, H, W]``."""
    (w_r, w_z, w_n), (b_r, b_z, b_n), (u_r, u_z, u_n) = w.chunk(3), b.chunk(3), u.chunk(3)
    c_r, c_z, c_n = b_hidden.chunk(3) if b_hidden is not None else (None, None, None)
    pad, outputs = w.shape[-1] // 2, []
    for t in range(x.shape[1]):
        r = torch.sigmoid(F.conv2d(x[:, t], w_r, b_r, padding=pad) + F.conv2d(hidden, u_r, c_r, padding=pad))
        z = torch.sigmoid(F.conv2d(x[:, t], w_z, b_z, padding=pad) + F.conv2d(hidden, u_z, c_z, padding=pad))
        own = F.conv2d(x[:, t], w_n, b_n, padding=pad)
        if b_hidden is None:
            n = torch.tanh(own + F.conv2d(r * hidden, u_n, padding=pad))
        else:
            n = torch.tanh(own + r * F.conv2d(hidden, u_n, c_n, padding=pad))
        hidden = (1 - z) * n + z * hidden
        outputs.append(hidden)
    return torch.stack(outputs, dim=1)


def convlstm(x: Tensor, w: Tensor, b: Tensor, u: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """``x [B, T, C, H, W]``; gates input, forget, cell, output along dim 0. Returns every hidden state."""
    gates_w, gates_b, gates_u = w.chunk(4), b.chunk(4), u.chunk(4)
    pad, outputs = w.shape[-1] // 2, []
    for t in range(x.shape[1]):
        i, f, g, o = (
            F.conv2d(x[:, t], wg, bg, padding=pad) + F.conv2d(hidden, ug, padding=pad)
            for wg, bg, ug in zip(gates_w, gates_b, gates_u, strict=True)
        )
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        outputs.append(hidden)
    return torch.stack(outputs, dim=1)
