"""What a head's update gate lets into its memory, frame by frame and place by place: for people to look at.

A gated head makes each state of the one before and a candidate, ``h_t = (1 - g_t) . h_{t-1} + g_t . n_t``. The gate g
(one minus what torch calls z) says how open the memory is. An open gate lets in nothing where nothing is new, and much
of a trained memory stays half open everywhere; so beside the gate stands what it let in of what is new: the gate times
the change of the features since the frame before, ``g_t |x_t - x_{t-1}|``, each a mean over channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.temporal.head import TemporalHead
from pipeline.models.temporal.maps import ConvGRU
from pipeline.models.temporal.minimal import ConvMinGRU, MinGRU
from pipeline.models.temporal.stack import Stack
from pipeline.models.temporal.vectors import Recurrent


@dataclass(frozen=True)
class Writing:
    """Of a sequence, ``[B, T]`` or for a head of maps ``[B, T, H, W]``.

    Attributes:
        gate: how open the update gate was, 0 to 1, the mean over the state's channels.
        let_in: the gate times how much the features changed since the frame before; 0 at the first.
    """

    gate: Tensor
    let_in: Tensor


@torch.no_grad()
def writing_of(stack: Stack, features: Tensor) -> Writing:
    """The first gated head of ``stack`` on ``features [B, T, D, ...]``, from its initial state.

    Raises:
        UserError: no head has an update gate, or they read both ways.
    """
    x = features.mean(dim=(3, 4)) if features.ndim == 5 and not stack.reads_maps else features
    for head in stack.heads:
        if x.ndim == 5 and not head.reads_maps:
            x = x.mean(dim=(3, 4))  # [B, T, C, H, W] -> [B, T, C]
        gate_of = _gate_of(head)
        outputs, _ = head(x)
        if gate_of is not None:
            start = torch.zeros_like(outputs[:, :1])  # every gated head begins with zeros
            before = torch.cat([start, outputs[:, :-1]], dim=1)
            gate = gate_of(x, before).mean(dim=2)
            change = (x - torch.cat([x[:, :1], x[:, :-1]], dim=1)).abs().mean(dim=2)
            return Writing(gate, gate * change)
        x = outputs
    names = ", ".join(type(head).__name__ for head in stack.heads)
    raise UserError(
        f"this model's temporal head ({names}) has no update gate to show, or reads both ways; train with model.heads "
        "convgru, convmingru (maps), gru or mingru (a strip), and model.bidirectional false"
    )


# The inputs [B, T, ...] and the states before each step [B, T, hidden, ...] -> the gates [B, T, hidden, ...].
Gate = Callable[[Tensor, Tensor], Tensor]


def _gate_of(head: TemporalHead) -> Gate | None:
    if isinstance(head, ConvGRU):
        return lambda x, before: _convgru_gate(head, x, before)
    if isinstance(head, Recurrent) and isinstance(head.layer, nn.GRU) and not head.layer.bidirectional:
        layer = head.layer
        return lambda x, before: _gru_gate(layer, x, before)
    if isinstance(head, (MinGRU, ConvMinGRU)):
        return lambda x, before: torch.sigmoid(head.project(x).chunk(2, dim=2)[0])
    return None


def _convgru_gate(head: ConvGRU, x: Tensor, before: Tensor) -> Tensor:
    """All steps at once: the states are known."""
    channels = head.hidden_channels
    place = slice(channels, 2 * channels)  # reset, update, candidate
    from_input = head.project(x)[:, :, place]
    weight, bias = head.hidden_conv.weight[place], head.hidden_conv.bias
    maps = before.flatten(0, 1)  # [B, T, ...] -> [B T, ...]
    from_past = F.conv2d(maps, weight, None if bias is None else bias[place], padding=head.hidden_conv.padding)
    return torch.sigmoid(-(from_input + from_past.reshape(from_input.shape)))  # 1 - sigmoid(a) is sigmoid(-a)


def _gru_gate(layer: nn.GRU, x: Tensor, before: Tensor) -> Tensor:
    place = slice(layer.hidden_size, 2 * layer.hidden_size)  # reset, update, candidate
    input_weight, past_weight, input_bias, past_bias = (weights[place] for weights in layer.all_weights[0])
    return torch.sigmoid(-(F.linear(x, input_weight, input_bias) + F.linear(before, past_weight, past_bias)))
