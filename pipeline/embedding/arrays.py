"""Frames and features in memory, whichever library made them: numpy's arrays or torch's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Features = Any
"""Output of a runtime's ``embed`` and input of its heads: sliced along its first axes here, and opaque otherwise."""


def joined(parts: Sequence[Any]) -> Any:
    """``[n, ...]`` each -> a fresh ``[sum of n, ...]``."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch  # there already: it made the parts

    return torch.cat(list(parts))


def consecutive(frames: Any, length: int) -> Any:
    """``[n, ...]`` -> all so many in a row, ``[n - length + 1, length, ...]``: a view, nothing is copied."""
    if isinstance(frames, np.ndarray):
        # Nobody writes to them; torch would warn of arrays that cannot be written to.
        return np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, length, axis=0, writeable=True), -1, 1)
    return frames.unfold(0, length, 1).movedim(-1, 1)


def stacked(parts: Sequence[Any], axis: int = 0) -> Any:
    """``[...]`` each -> one array with a new axis. The order in memory (channels last) is kept."""
    if isinstance(parts[0], np.ndarray):
        return np.stack(parts, axis)
    import torch

    return torch.stack(list(parts), axis)
