"""GRU, LSTM and plain RNN over vectors ``[B, T, D]``: torch's own layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.temporal.head import State, TemporalHead, cannot_stream


class Recurrent(TemporalHead):
    """torch's own RNN, LSTM or GRU (cuDNN's on a GPU) as a temporal head."""

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

    def forget(self, state: State, lanes: Tensor) -> State:
        """The state, begun anew for some lanes, as of every head; here the batch is the second axis."""
        if isinstance(state, tuple):
            return tuple(self.forget(part, lanes) for part in state)
        return state.masked_fill(lanes.view(1, -1, 1), 0)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, D]`` -> ``[B, T, D']``.

        Raises:
            UserError: a state is handed to a bidirectional head.
        """
        if state is not None and not self.streams:
            raise cannot_stream(type(self.layer).__name__)
        y, state = self.layer(projected, self.initial_state(projected) if state is None else state)
        return y, state

    def update_gate(self, x: Tensor, before: Tensor) -> Tensor | None:
        """1 - z of a GRU that reads forwards; the rest have no such gate."""
        if not isinstance(self.layer, nn.GRU) or self.layer.bidirectional:
            return None
        rows = slice(self.layer.hidden_size, 2 * self.layer.hidden_size)  # r, z, n
        input_weight, hidden_weight, input_bias, hidden_bias = (weights[rows] for weights in self.layer.all_weights[0])
        z = torch.sigmoid(F.linear(x, input_weight, input_bias) + F.linear(before, hidden_weight, hidden_bias))
        return 1 - z
