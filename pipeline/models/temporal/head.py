"""The contract of a temporal head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.errors import UserError

State = Any  # a tensor, or a tuple of states; opaque to everyone but its head


class TemporalHead(nn.Module):
    """What every head is: these three facts, ``initial_state``, ``forward``, and the two halves of ``forward``:
    ``project``, which reads each frame alone, and ``recur``, which joins frames. Overlapping windows share the first.
    """

    streams: bool
    """Whether a state can be carried on; false for heads that read the future."""
    reads_maps: bool
    """Whether the input is ``[B, T, C, H, W]`` rather than ``[B, T, D]``."""
    num_outputs: int
    """Channels or features of the output."""

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


def cannot_stream(name: str) -> UserError:
    """The error for a state handed to a head that reads the future."""
    return UserError(
        f"a bidirectional {name} reads the future and cannot carry a state on; "
        "use windows instead of a stream, or train with model.bidirectional false"
    )
