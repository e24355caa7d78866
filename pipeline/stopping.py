"""SIGINT and SIGTERM as a request that a loop looks at where it can stop in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked this process to stop. False until ``listening`` hears a signal.

    Attributes:
        signal_number: the first signal, or None; a shell expects exit code 128 + this.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects: 128 + the signal; 0 without one."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:  # asked twice: do not wait
            raise KeyboardInterrupt
        self.signal_number = signal_number

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Takes both signals over and gives them back. A second signal raises ``KeyboardInterrupt`` at once. In another
        thread than the main one, where Python allows no handlers, signals do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, self._receive) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)
