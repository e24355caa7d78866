"""Training runs that end before their time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from pipeline.training import callbacks


def signal_in_batch(patch: pytest.MonkeyPatch, number: int, which: signal.Signals) -> None:
    """The process gets a signal while the batch of that number is trained on."""
    _in_batch(patch, number, lambda: os.kill(os.getpid(), which))


def crash_in_batch(patch: pytest.MonkeyPatch, number: int) -> None:
    """The run ends there without another word: what it left is the checkpoint of the epoch before."""

    def crash() -> None:
        raise MemoryError("the machine fell over")

    _in_batch(patch, number, crash)


def _in_batch(patch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    count = 0
    original = callbacks.Throughput.on_train_batch_end

    def hook(self: callbacks.Throughput, *args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            act()
        original(self, *args, **kwargs)  # type: ignore[arg-type]

    patch.setattr(callbacks.Throughput, "on_train_batch_end", hook)
