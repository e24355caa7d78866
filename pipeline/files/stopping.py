"""SIGINT, SIGTERM and SIGHUP as a request that a loop looks at where it can stop in good order."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _StoppedBySignal(KeyboardInterrupt):
    """The signal of that number ends the process. A type of its own, because after a plain ``KeyboardInterrupt`` inside
    ``exec``, as of a dataclass that is imported, Python ends itself by SIGINT whatever becomes of it."""


class Interrupted(Exception):  # noqa: N818 (not an error: somebody asked)
    """A signal ended a training in good order. No ``KeyboardInterrupt``: Lightning would end the process for it.

    Attributes:
        signal_number: which; a shell expects exit code 128 + this.
        going_on: how to go on from there, in words.
        checkpoint: what ``train --resume`` continues from; None where none was written.
    """

    def __init__(self, signal_number: int, going_on: str, checkpoint: Path | None = None) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; {going_on}")
        self.signal_number, self.going_on, self.checkpoint = signal_number, going_on, checkpoint


class StopRequest:
    """Whether somebody asked this process to stop. False until ``listening`` hears a signal.

    Args:
        answer: said on standard error at the first signal, where it takes a while to stop.

    Attributes:
        signal_number: the first signal, or None; a shell expects exit code 128 + this.
    """

    def __init__(self, answer: str = "") -> None:
        self.signal_number: int | None = None
        self._answer = answer

    def __bool__(self) -> bool:
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects: 128 + the signal; 0 without one."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:  # asked twice: do not wait
            raise _StoppedBySignal(signal_number)
        self.signal_number = signal_number
        if self._answer:
            with suppress(OSError):
                os.write(2, f"\n{self._answer}\n".encode())  # no stream: the signal may have come in its midst

    def listen(self) -> None:
        """Take the signals over; not SIGHUP where it is ignored, as under ``nohup``."""
        for number in _NUMBERS:
            if number != _NUMBERS[-1] or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the signals over and give them back. A second signal raises ``_StoppedBySignal`` at once. In another
        thread than the main one, where Python allows no handlers, signals do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = [signal.getsignal(number) for number in _NUMBERS]
        try:
            self.listen()
            yield self
        finally:
            for number, handler in zip(_NUMBERS, previous, strict=True):
                signal.signal(number, handler or signal.SIG_DFL)


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Return what a shell expects of a process that was interrupted: 128 + the signal."""
    return 128 + (interrupt.args[0] if isinstance(interrupt, _StoppedBySignal) else signal.SIGINT)


def interrupt_on_signals() -> None:
    """From here on each of the signals raises ``_StoppedBySignal``, so that a command that does not listen ends too
    with nothing half-written. Signals that are ignored stay ignored."""

    def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
        raise _StoppedBySignal(signal_number)

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        # An interrupt inside a callback of an import would be told as a traceback, and forgotten.
        if isinstance(lost.exc_value, KeyboardInterrupt):
            os._exit(exit_code_of(lost.exc_value))
        sys.__unraisablehook__(lost)

    sys.unraisablehook = unraisable
    for number in _NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def work_for_parent() -> None:
    """In a process that works for another: signals to the whole group, and what is to be said, are the other's."""
    logging.getLogger("clipgru").disabled = True
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
