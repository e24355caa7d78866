"""``PageServer``: a site, served to any number of browsers from a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from pipeline.errors import UserError

if TYPE_CHECKING:
    from uvicorn import Server

    from pipeline.serving.connections import GuardedConnection
    from pipeline.serving.site import Site

_SEND_BUFFER_BYTES = 128 * 1024
"""Bytes that the system holds for a watcher who does not read: a second or two of events, not minutes."""
_BACKLOG = 128
"""Connections accepted at once; only then is there a look at how many they are."""
_TICK_SECONDS = 0.05
_GRACE_SECONDS = 1.0
"""For watchers to read that it is over; whoever does not is cut off."""
_STOP_SECONDS = 5.0
"""Longest wait for the server's thread to end."""

_SiteType = TypeVar("_SiteType", bound="Site")


class PageServer(Generic[_SiteType]):
    """Serves one site until it is closed.

    Args:
        make_site: from the names under which the site answers (None: all) and the other hosts that are allowed.
        host: a name or address of this machine; with the default only this machine itself can connect.
        port: 0 takes any free one; ``url`` says which.
        allow_network: must be true for a host that other machines can reach: whoever reaches it sees the pictures
            and can press the buttons; there is no password.
        allowed_hosts: ``HOST`` or ``HOST:PORT`` as it stands in browsers where a proxy serves the page; under no other
            foreign name is it served then.

    Attributes:
        site: what is served.
        url: where the page is, for people.

    Raises:
        UserError: the ``serve`` extra is not installed, the host is none of this machine, is open to the network
            without ``allow_network``, or the port is taken.
    """

    def __init__(
        self,
        make_site: Callable[[Sequence[str] | None, Sequence[str]], _SiteType],
        host: str = "127.0.0.1",
        port: int = 8000,
        allow_network: bool = False,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        self._socket, is_loopback = _listen(host, port, allow_network)
        # In a container the names are not known; an open host is open under any if none is given.
        own = ["127.0.0.1", "localhost", "[::1]", host.lower()] if is_loopback or allowed_hosts else None
        try:
            self.site, self._server = _make_server(lambda: make_site(own, allowed_hosts))
        except UserError:
            self._socket.close()
            raise
        self.url = _url(host, self._socket.getsockname()[1])
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="page server", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        if not self._server.started:
            raise RuntimeError("the page's server did not start; its thread has said why")

    def close(self) -> None:
        """Tells those who watch that it is over, frees the port and ends the thread. May be called twice."""
        self.site.is_closing = self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)
        self._socket.close()

    async def _serve(self) -> None:
        """Until ``close``. In a thread that is not the main one uvicorn leaves signals alone."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not (self.site.is_closing or serving.done()):
            await asyncio.sleep(_TICK_SECONDS)
            for connection in list(self._server.server_state.connections):
                cast("GuardedConnection", connection).check()
        await asyncio.wait([serving], timeout=_GRACE_SECONDS)
        for connection in list(self._server.server_state.connections):
            cast("GuardedConnection", connection).transport.abort()
        await serving


def _make_server(make_site: Callable[[], _SiteType]) -> tuple[_SiteType, Server]:
    try:
        from uvicorn import Config, Server

        from pipeline.serving.connections import GuardedConnection

        site = make_site()
    except ImportError as error:
        cause = f"the page needs packages that are not installed ({error.name}); pip install 'clipgru[serve]'"
        raise UserError(cause) from error
    config = Config(
        site.app,
        loop="asyncio",
        http=GuardedConnection,
        backlog=_BACKLOG,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # whoever sends nonsense is answered, and need not be heard of
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    return site, Server(config)


def parse_address(text: str, option: str = "--serve") -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` or ``PORT``, an IPv6 host in brackets; the host is this machine alone if left out.

    Raises:
        UserError: it is none of these.
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{option} {text}: write HOST:PORT, for example 127.0.0.1:8000")
    return host.strip("[]") or "127.0.0.1", int(port)


def _listen(host: str, port: int, allow_network: bool) -> tuple[socket.socket, bool]:
    """A socket that listens, and whether only this machine can reach it."""
    if not 0 <= port <= 65535:
        raise UserError(f"port {port} does not exist; ports go from 0 (any free one) to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UserError(f"cannot serve on {host!r}: no such host ({error.strerror})") from error
    is_loopback = ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback
    if not is_loopback and not allow_network:
        raise UserError(
            f"{host} can be reached from other machines: whoever does sees the pictures and can press every button. If "
            "that is meant, say so with allow_network; else serve on 127.0.0.1"
        )
    try:
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UserError(f"cannot serve on {_url(host, port)}: {_cause(error, host)}") from error
    # Connections inherit this.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return listener, is_loopback


def _cause(error: OSError, host: str) -> str:
    causes = {
        errno.EADDRINUSE: "the port is taken (by another run of this program?); choose another one, or 0 for any free",
        errno.EACCES: "this port is for administrators; choose one from 1024 on",
        errno.EADDRNOTAVAIL: f"{host} is not an address of this machine",
    }
    return causes.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
