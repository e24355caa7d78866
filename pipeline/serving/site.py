"""``Site``: a page as a web application, closed to pages of other sites.

A page of another site can neither read nor press anything: no answer permits its origin, what changes things needs a
token that only ``/events`` tells, and under a host name that is not ours nothing is answered at all (DNS rebinding). A
request that makes no sense is answered with 400.
"""

from __future__ import annotations

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.version import __version__

MAX_WATCHERS = 64
"""Open ``/events`` at once; more are refused, so that memory is bounded."""
UPDATE_SECONDS = 1 / 15
"""Between two looks for news to tell a watcher, who is told the newest state and nothing of those between."""
BEAT_SECONDS = 5.0
"""Between two signs of life when nothing changes."""
NO_STORE = {"Cache-Control": "no-store"}
_RETRY_MS = 2000
"""After which a browser that lost the connection tries again."""
_HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.IGNORECASE | re.ASCII)
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
"""Said here, as guesses by name differ between machines."""
_COMMON = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Site(ABC):
    """The application: the files of its page, the look that all pages share, events, and what a subclass adds.

    Args:
        page: folder of the page's own files.
        own_names: names under which the site answers, at any port; None: under all.
        allowed_hosts: others, exactly as given, such as ``example.org`` or ``example.org:8443``.
    """

    def __init__(self, page: Path, own_names: Sequence[str] | None, allowed_hosts: Sequence[str] = ()) -> None:
        self.is_closing = False
        self.token, self._num_watchers = secrets.token_urlsafe(), 0
        self._allowed_hosts = frozenset(map(str.lower, allowed_hosts))
        own = None if own_names is None else frozenset(own_names)
        gate = Middleware(_Gate, own_names=own, allowed_hosts=self._allowed_hosts)
        files = [*_file_routes(page), *_file_routes(_COMMON), Route("/events", self._events)]
        self.app = Starlette(routes=[*files, *self.routes()], middleware=[gate])
        self.app.router.redirect_slashes = False

    @abstractmethod
    def routes(self) -> list[Route]:
        """Return the routes beside the files of the page and ``/events``."""

    @abstractmethod
    def tell(self) -> AsyncIterator[str]:
        """One watcher's events, made by ``event``, until the site closes. When the watcher reads slowly, this waits at
        ``yield`` and skips what it missed."""

    async def _events(self, request: Request) -> Response:
        if self._num_watchers >= MAX_WATCHERS:
            return PlainTextResponse(f"{MAX_WATCHERS} people are watching, and no more may", status_code=503)
        self._num_watchers += 1  # here, with no wait since the look
        headers = {**NO_STORE, "X-Accel-Buffering": "no"}  # what proxies need to on_event to pass events on at once
        return _Watching(self._greet_and_tell(), self._leave, headers)

    async def _greet_and_tell(self) -> AsyncIterator[str]:
        yield f"retry: {_RETRY_MS}\n" + event("hello", {"token": self.token, "version": __version__})
        async for text in self.tell():
            yield text
        yield event("end", None)

    def _leave(self) -> None:
        self._num_watchers -= 1

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that comes from a page of another site, or without our token; else None."""
        origin = request.headers.get("origin", "")
        scheme, _, host = origin.lower().partition("://")
        if origin not in ("", "null") and not (scheme.isalnum() and _HOST.fullmatch(host)):
            return PlainTextResponse("the origin makes no sense", status_code=400)
        if origin and host != request.headers["host"].lower() and host not in self._allowed_hosts:
            return PlainTextResponse("a page of another site may not press buttons here", status_code=403)
        if not secrets.compare_digest(request.headers.get("x-clipgru-token", "").encode(), self.token.encode()):
            return PlainTextResponse("the token is missing or old; reload the page", status_code=403)
        return None


def event(name: str, content: object) -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(content, allow_nan=False)}\n\n"


def _file_routes(page: Path) -> list[Route]:
    return [
        Route("/" if file.name == "index.html" else f"/{file.name}", _file_endpoint(file, _KINDS[file.suffix]))
        for file in sorted(page.iterdir())
        if file.suffix in _KINDS
    ]


def _file_endpoint(path: Path, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "no-cache"})

    return answer


class _Watching(StreamingResponse):
    """Events for a watcher, who leaves when the answer ends, however it does."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


class _Gate:
    """Answers under known names alone, and adds the same headers to every answer, refusals too."""

    def __init__(self, app: ASGIApp, own_names: frozenset[str] | None, allowed_hosts: frozenset[str]) -> None:
        self._app, self._own_names, self._allowed_hosts = app, own_names, allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app: ASGIApp = self._app
        if not self._knows(Headers(scope=scope).get("host", "").lower()):
            app = PlainTextResponse("this page is not served under that host name (--allowed_hosts)", status_code=400)
        await app(scope, receive, send_with_headers)

    def _knows(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        return self._own_names is None or found[1] in self._own_names or host in self._allowed_hosts
