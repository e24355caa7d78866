"""The live page: a view that any number of browsers can watch at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.serving.server import PageServer
from pipeline.sinks.delivery import Delivery
from pipeline.streaming.board import Board
from pipeline.streaming.status import Command, SourceStatus

if TYPE_CHECKING:
    from pipeline.streaming.web import LiveSite


class PageView:
    """Shows the sources on a web page and hands over what is pressed there. A ``View``.

    Args:
        host, port, allow_network, allowed_hosts: as ``PageServer`` takes them.
        deliveries: those whose figures ``/metrics`` tells.

    Attributes:
        url: where the page is, for people.

    Raises:
        UserError: as ``PageServer``.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        allow_network: bool = False,
        allowed_hosts: Sequence[str] = (),
        deliveries: Sequence[Delivery] = (),
    ) -> None:
        self._board, self._deliveries = Board(), deliveries
        self._server = PageServer(self._make_site, host, port, allow_network, allowed_hosts)
        self.url = self._server.url

    def _make_site(self, own_names: Sequence[str] | None, allowed_hosts: Sequence[str]) -> LiveSite:
        from pipeline.streaming.web import LiveSite

        return LiveSite(self._board, self._deliveries, own_names, allowed_hosts)

    def show(self, statuses: Sequence[SourceStatus]) -> Sequence[Command]:
        """Tells all who watch, without waiting for any; to be called by one thread.

        A picture is kept, not copied, until the next one: each must be an array of its own, not written to afterwards.

        Returns:
            What was pressed since the last call, in order.
        """
        self._board.publish(statuses)
        site = self._server.site
        site.shown_at = time.monotonic()
        return [site.commands.popleft() for _ in range(len(site.commands))]

    def close(self) -> None:
        """Tells those who watch that it is over, frees the port and ends the thread. May be called twice."""
        self._server.close()
