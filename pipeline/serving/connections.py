"""Connections of the live page: a bounded number, and none that keeps its place while nothing happens on it."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 256
"""More than all watchers with their pictures need; far fewer than the files that a process may open."""
IDLE_SECONDS = 10.0
"""For a whole request to come, after the connection or the answer before; and to take more of an answer."""


class GuardedConnection(H11Protocol):
    """uvicorn's connection with deadlines. ``check`` is to be called often."""

    def connection_made(self, transport: Any) -> None:
        """Accept as uvicorn does. Of too many connections, abort the one that has waited longest for its request."""
        super().connection_made(transport)
        self._mark: tuple[object, ...] = ()
        self._since = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            others = [other for other in self.connections if isinstance(other, GuardedConnection)]
            waiting = [other for other in others if other._is_waiting and not other.transport.is_closing()]
            min(waiting, key=lambda other: other._since, default=self).transport.abort()

    @property
    def _is_waiting(self) -> bool:
        """For a request, of which the head is not complete."""
        return self.cycle is None or self.cycle.response_complete

    def check(self) -> None:
        """Cuts the connection off if nothing has moved on it for too long. Bytes of a request do not count, but a whole
        one; what is sent counts as long as it is taken."""
        num_unsent = self.transport.get_write_buffer_size()
        mark = (self.cycle, self._is_waiting, num_unsent)
        if mark != self._mark:
            self._mark, self._since = mark, self.loop.time()
        elif (self._is_waiting or num_unsent) and self.loop.time() - self._since > IDLE_SECONDS:
            self.transport.abort()
