"""The contract of a temporal head, and the convolutions that heads of maps are made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.errors import UserError

State = Any  # a tensor, or a tuple of states; opaque to everyone but its head
Kernel = int | tuple[int, int]  # a side, or height and width; odd


class TemporalHead(nn.Module):
    """Contract of a temporal head: these facts, ``initial_state``, ``forward``, and the two halves of ``forward``:
    ``project``, which reads each frame alone, and ``recur``, which joins frames. Overlapping windows share the first.
    """

    streams: bool
    """True if a state can be carried on; false for heads that read the future."""
    reads_maps: bool
    """True if the input is ``[B, T, C, H, W]`` rather than ``[B, T, D]``."""
    num_outputs: int
    """Channels or features of the output."""
    fast: bool = True
    """True if the forms written by hand for a CPU may be used; see ``fast.applies``."""

    def initial_state(self, x: Tensor) -> State:
        """The state before the first frame, for input like ``x``."""
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        """The part of the work that needs neither the state nor another frame: ``[B, T, ...]`` -> ``[B, T, ...]``."""
        return x

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The outputs for each step of what ``project`` gave, and the state after the last."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The outputs for each step of ``x``, and the state after the last."""
        return self.recur(self.project(x), state)

    def forget(self, state: State, lanes: Tensor) -> State:
        """The state with zeros, which every state begins with, for those of the batch whose ``lanes [B]`` are true."""
        if isinstance(state, tuple):
            return tuple(self.forget(part, lanes) for part in state)
        return state.masked_fill(lanes.view(-1, *[1] * (state.ndim - 1)), 0)

    def update_gate(self, x: Tensor, before: Tensor) -> Tensor | None:
        """Return how far each step opens the state to its candidate, ``[B, T, hidden, ...]`` from 0 to 1, or None for a
        head without such a gate; from the input ``x`` and the states before each step, ``[B, T, hidden, ...]``."""
        return None


def size_keeping(num_inputs: int, num_outputs: int, kernel_size: Kernel, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution whose maps keep their size."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return nn.Conv2d(num_inputs, num_outputs, (height, width), padding=(height // 2, width // 2), bias=bias)


def initialize(input_conv: nn.Conv2d, hidden_conv: nn.Conv2d, num_gates: int) -> None:
    """Glorot for the input side, orthogonal gate by gate for the hidden side (Saxe et al., 2014), biases zero."""
    for gate in input_conv.weight.chunk(num_gates):
        nn.init.xavier_uniform_(gate)
    for gate in hidden_conv.weight.chunk(num_gates):
        nn.init.orthogonal_(gate)
    for conv in (input_conv, hidden_conv):
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)


def cannot_stream(name: str) -> UserError:
    """Return the error for a state handed to a head that reads the future."""
    return UserError(
        f"a bidirectional {name} reads the future and cannot carry a state on; "
        "use windows instead of a stream, or train with model.bidirectional false"
    )
