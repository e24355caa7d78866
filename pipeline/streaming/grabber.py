"""A thread that grabs pictures into a slot, so that nothing queues up; it connects anew when the signal is lost.

Some drivers hang in a read for ever, and nobody can end a thread. So ``watch``, called from outside, gives up a
connection whose call does not return, and starts another in a thread of its own; the old one, if it ever returns, finds
that it is not wanted any more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Event, Thread
from typing import Literal, TypeVar

from pipeline.clip import Image
from pipeline.config import StreamingConfig
from pipeline.network import retry_seconds
from pipeline.streaming.captures import Capture, Opener, SignalLost, SourceEnded
from pipeline.streaming.grid import GridSlot, Tick
from pipeline.streaming.status import SourceState

EventKind = Literal["connecting", "live", "stalled", "reconnected", "ended"]

_MAX_ABANDONED = 4
_MAX_BAD_PICTURES = 100  # in a row: then the connection is no good
_MAX_EVENTS = 1000  # that nobody has fetched

T = TypeVar("T")


@dataclass(frozen=True)
class SourceEvent:
    """Something has happened to a source."""

    kind: EventKind
    at_seconds: float
    """By the monotonic clock."""
    message: str = ""
    is_failure: bool = False
    """The source has ended because something is wrong with it."""


class _Connection:
    """One thread, and what it is doing."""

    def __init__(self, run: Callable[[_Connection], None]) -> None:
        self.given_up = Event()
        self.busy_since: float | None = None  # in a call that may never return
        self.thread = Thread(target=run, args=(self,), name="clipgru-grab", daemon=True)

    def timed(self, call: Callable[[], T]) -> T:
        """The call's answer; ``watch`` sees how long it takes."""
        self.busy_since = time.monotonic()
        try:
            return call()
        finally:
            self.busy_since = None


class Grabber:
    """Keeps a source's newest picture at hand.

    Args:
        open_capture: opens the source, in the grabbing thread.
        slot: where the pictures go.
        config: limits in time.
        changed: notified when the source's state changes; its lock is held around all of the slot.
    """

    def __init__(self, open_capture: Opener, slot: GridSlot, config: StreamingConfig, changed: Condition) -> None:
        self.state: SourceState = "connecting"
        self.num_bad = 0
        self._open_capture, self._slot, self._config, self._changed = open_capture, slot, config, changed
        self._events: deque[SourceEvent] = deque(maxlen=_MAX_EVENTS)
        self._current: _Connection | None = None
        self._abandoned: list[_Connection] = []
        self._num_failures = 0
        self._is_new_connection = True
        self._waiting_since = time.monotonic()  # for a picture

    def start(self) -> None:
        """Begins to connect."""
        with self._changed:
            self._enter("connecting", "connecting")
            self._connect()

    def _connect(self) -> None:
        self._current = _Connection(self._run)
        self._current.thread.start()

    # In the grabbing thread.

    def _run(self, connection: _Connection) -> None:
        while not connection.given_up.is_set():
            connection.given_up.wait(self._attempt(connection))

    def _attempt(self, connection: _Connection) -> float:
        """Reads until that ends. Returns how long to wait before the next attempt."""
        ended = ""
        try:
            self._read_all(connection)
        except SignalLost as error:
            with self._changed:
                if connection is self._current:
                    self._num_failures += 1
                    self._lose(str(error))
            return retry_seconds(max(self._num_failures, 1), self._config.max_retry_seconds)
        except SourceEnded as error:
            ended = str(error)
        with self._changed:
            if connection is self._current:
                self._end(ended)
        return 0.0

    def _read_all(self, connection: _Connection) -> None:
        capture: Capture = connection.timed(lambda: self._open_capture(connection.given_up))
        num_bad = 0
        try:
            while not connection.given_up.is_set():
                picture, captured_seconds = connection.timed(capture.read)
                with self._changed:
                    if connection is not self._current:
                        return
                    num_bad = self._put(picture, captured_seconds, num_bad)
                if num_bad == _MAX_BAD_PICTURES:
                    raise SignalLost(f"{num_bad} times in a row it gave something that is no picture")
        finally:
            connection.timed(capture.close)

    def _put(self, picture: Image | None, captured_seconds: float, num_bad: int) -> int:
        if picture is None:
            self.num_bad += 1
            return num_bad + 1
        self._slot.put(picture, captured_seconds)
        self._num_failures, self._waiting_since = 0, captured_seconds
        if self.state != "live":
            is_back = self._is_new_connection and self._slot.num_in > 1
            self._enter("live", "reconnected" if is_back else "live")
        self._is_new_connection = False
        return 0

    # Under the lock, from either side.

    def _enter(self, state: SourceState, kind: EventKind, message: str = "", is_failure: bool = False) -> None:
        self.state = state
        self._events.append(SourceEvent(kind, time.monotonic(), message, is_failure))
        self._changed.notify_all()

    def _lose(self, message: str) -> None:
        self._slot.cut()
        self._is_new_connection = True
        if self.state != "stalled":  # told once, and not again at each attempt
            self._enter("stalled", "stalled", message)

    def _end(self, message: str) -> None:
        if self._current is not None:
            self._current.given_up.set()
            self._current = None
        self._enter("ended", "ended", message, is_failure=bool(message))

    # From outside.

    def watch(self, now_seconds: float) -> list[SourceEvent]:
        """Looks after the connection, and gives what has happened since the last call."""
        with self._changed:
            if self.state != "ended":
                self._watch_connection(now_seconds)
                self._watch_pictures(now_seconds)
            events = list(self._events)
            self._events.clear()
        return events

    def _watch_connection(self, now_seconds: float) -> None:
        current, limit_seconds = self._current, 2 * self._config.timeout_seconds
        busy_since = current.busy_since if current is not None else None
        if current is not None and busy_since is not None and now_seconds - busy_since > limit_seconds:
            current.given_up.set()
            self._abandoned.append(current)
            self._current = None
            self._lose(f"no answer for {limit_seconds:g} s: trying a new connection")
        self._abandoned = [connection for connection in self._abandoned if connection.thread.is_alive()]
        if self._current is None and len(self._abandoned) < _MAX_ABANDONED:
            self._connect()

    def _watch_pictures(self, now_seconds: float) -> None:
        give_up_seconds = self._config.give_up_seconds
        if give_up_seconds and now_seconds - self._waiting_since > give_up_seconds:
            self._end(f"no picture for {give_up_seconds:g} s")
        elif self.state == "live" and self._slot.is_stale(now_seconds):
            self._slot.cut()
            self._enter("stalled", "stalled", "no new picture")

    def take(self, now_seconds: float) -> Tick | None:
        """The newest grid frame, if there is one that has not been taken."""
        with self._changed:
            return self._slot.take(now_seconds)

    def stop(self) -> None:
        """Lets the thread end."""
        with self._changed:
            if self._current is not None:
                self._abandoned.append(self._current)
                self._current.given_up.set()
            self._current, self.state = None, "ended"

    def close(self, timeout_seconds: float = 1.0) -> None:
        """Lets the thread end, and waits for it a little; one that hangs is left behind."""
        self.stop()
        end_seconds = time.monotonic() + timeout_seconds
        for connection in self._abandoned:
            connection.thread.join(max(0.0, end_seconds - time.monotonic()))
