"""``Delivery``: a thread that sends the events of a spool, and tries again until they are accepted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from threading import Condition, Thread
from typing import Any, Protocol

from pipeline.config import DeliveryConfig
from pipeline.errors import UserError
from pipeline.network import retry_seconds
from pipeline.sinks.spool import Spool

_LATE_SECONDS = 0.5
"""Longest wait for a thread beyond its time."""


class RefusedError(UserError):
    """The receiver will not accept this event, however often it is sent."""


class _Receiver(Protocol):
    """Somebody who takes events, one after the other."""

    name: str
    """For people, without secrets."""

    def send(self, content: bytes, seconds: float) -> None:
        """Send an event, within so many seconds. Raises ``RefusedError`` if it will never be accepted, another
        ``UserError`` if it was not this time, or nobody knows."""

    def close(self) -> None:
        """Let go of the connection; the next ``send`` makes another."""


@dataclass(frozen=True)
class DeliveryFigures:
    """One receiver at one moment; counts are since the start."""

    sink: str
    """webhook or mqtt."""
    waiting: int
    """Events in the spool."""
    delivered: int
    retries: int
    """Attempts that failed."""
    unsaved: int
    """Events that could not be written to the disk when they came; they are sent all the same."""
    lost: int
    """Events that came when too many waited."""
    refused: int
    """Events that the receiver will never accept; they are in a file beside the spool."""


class Delivery:
    """Events for one receiver. Whoever puts them never waits for it.

    Args:
        sink: name in the figures.
        receiver: who takes them.
        spool: holds them meanwhile; is closed with this.
        config: limits in time.
        say: is told in one line of what goes wrong and is right again; true if it is an error. By any thread.
    """

    def __init__(
        self, sink: str, receiver: _Receiver, spool: Spool, config: DeliveryConfig, say: Callable[[str, bool], None]
    ) -> None:
        self._sink, self._receiver, self._spool, self._config, self._say = sink, receiver, spool, config, say
        self._changed = Condition()
        self._end_seconds = math.inf
        self._num_delivered = self._num_retries = self._num_unsaved = self._num_lost = 0
        self._num_refused, self._is_refusing = 0, False
        self._num_failures = 0  # in a row
        self._trouble = ""  # what is wrong with the spool
        self._jitter = Random()
        self._thread = Thread(target=self._run, name=f"clipgru-{sink}", daemon=True)
        self._thread.start()

    @property
    def figures(self) -> DeliveryFigures:
        """Counts up to now. For any thread."""
        counts = self._num_delivered, self._num_retries, self._num_unsaved, self._num_lost, self._num_refused
        return DeliveryFigures(self._sink, self._spool.num_waiting, *counts)

    def put(self, event: dict[str, Any]) -> None:
        """Keep an event to be sent. Where that cannot be done, or not on disk, it is said once, and counted."""
        trouble, said = "", f"are safe on disk again; {self._num_lost} were lost"
        try:
            if problem := self._spool.add(event):
                self._num_unsaved += 1
                trouble, said = "unsaved", f"are sent, but would not outlive this program: {problem}"
        except UserError as error:
            self._num_lost += 1
            trouble, said = "lost", f"are lost: {error}"
        if trouble != self._trouble:
            self._say(f"events for {self._receiver.name} {said}", True)
        self._trouble = trouble
        with self._changed:
            self._changed.notify_all()

    # In the thread.

    def _run(self) -> None:
        while self._wait_for_event():
            self._attempt()
        self._receiver.close()

    def _attempt(self) -> None:
        """Send the next event; after a failure wait."""
        try:
            self._send_next()
        except UserError as error:
            self._num_retries += 1
            self._num_failures += 1
            if self._num_failures == 1:
                self._say(f"{error}; events wait in {self._spool.path}, and are tried again", True)
            self._wait_to_retry()
            return
        if self._num_failures and not self._is_refusing:
            self._say(f"{self._receiver.name} accepts events again", False)
        self._num_failures = 0

    @property
    def _is_closing(self) -> bool:
        return self._end_seconds < math.inf

    def _wait_for_event(self) -> bool:
        """Wait until there is one. False if it is over."""
        if not self._spool.num_waiting:
            self._receiver.close()
        with self._changed:
            self._changed.wait_for(lambda: self._spool.num_waiting or self._is_closing)
        return bool(self._spool.num_waiting) and time.monotonic() < self._end_seconds

    def _wait_to_retry(self) -> None:
        is_closing = self._is_closing  # then there is little time left, and it is tried more often
        seconds = retry_seconds(1 if is_closing else self._num_failures, self._config.max_retry_seconds)
        seconds = min(seconds * self._jitter.uniform(0.5, 1.0), self._end_seconds - time.monotonic())
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing != is_closing, max(seconds, 0.0))

    def _send_next(self) -> None:
        event = self._spool.next()
        if event is not None:
            number, message = event
            seconds = min(self._config.timeout_seconds, self._end_seconds - time.monotonic())
            try:
                self._receiver.send(message, max(seconds, 0.0))
            except RefusedError as error:
                self._set_aside(number, message, error)
                return
            self._is_refusing = False
            self._num_delivered += 1
            self._spool.remove(number)

    def _set_aside(self, number: int, message: bytes, error: RefusedError) -> None:
        self._spool.set_aside(number, message)
        self._num_refused += 1
        if not self._is_refusing:
            self._say(f"{error}; what it refuses is kept in {self._spool.refused_path}, and not sent again", True)
        self._is_refusing = True

    # From outside.

    def stop(self) -> None:
        """Begin to end: what waits is sent in ``end_seconds``, or stays in the spool."""
        with self._changed:
            self._end_seconds = min(self._end_seconds, time.monotonic() + self._config.end_seconds)
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; what is not delivered stays in the spool. May be called twice."""
        self.stop()
        self._thread.join(max(0.0, self._end_seconds - time.monotonic()) + _LATE_SECONDS)
        self._spool.close()
        num_unsaved = self._spool.num_unsaved
        num_waiting, num_lost = self._spool.num_waiting - num_unsaved, self._num_lost + num_unsaved
        left = f", {num_waiting} wait in {self._spool.path}" if num_waiting else ""
        lost = f", {num_lost} lost" if num_lost else ""
        lost += f", {self._num_refused} refused, kept in {self._spool.refused_path}" if self._num_refused else ""
        self._say(f"{self._receiver.name}: {self._num_delivered} delivered{left}{lost}", bool(left or lost))
