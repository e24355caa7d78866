"""The live page as a web application: which address answers with what, and who may press a button.

    /                    the page; its styles, scripts and icon beside it
    /events              the state of all sources as server-sent events, whenever it changes
    /pictures/N.jpg      the newest picture of source N, with an ETag; 204 if there is none
    /commands/NAME       POST: pause, reset or quit
    /status.json         the state of all sources, once
    /health              200 while the loop that recognises goes on, else 503

A page of another site can neither read nor press anything: no answer permits its origin, a button needs a token that
only ``/events`` tells, and under a host name that is not ours nothing is answered at all (DNS rebinding). A request
that makes no sense is answered with 400.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast, get_args

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.streaming.board import Board, Card, describe
from pipeline.streaming.status import Command
from pipeline.version import __version__

MAX_WATCHERS = 64
"""Open ``/events`` at once; more are refused, so that memory is bounded."""
MAX_COMMANDS = 16
"""Pressed and not yet fetched by the loop; more are refused."""
_UPDATE_SECONDS = 1 / 15
"""Between two looks at the board for a watcher. A watcher is told the newest state and nothing of those between."""
_BEAT_SECONDS = 5.0
"""Between two signs of life when nothing changes."""
_RETRY_MS = 2000
"""After which a browser that lost the connection tries again."""
_STALE_SECONDS = 30.0
"""Since the last step, after which the loop counts as hung."""
_HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.IGNORECASE | re.ASCII)
_PAGE = Path(__file__).parent / "page"
_FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "source.css": "text/css",
    "source.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""And what each is; what the machine would guess from the name differs from one to the next."""
_NO_STORE = {"Cache-Control": "no-store"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Site:
    """The application and all that it holds: what is shown, and what was pressed.

    Args:
        board: what is told.
        own_names: names under which the site answers, at any port; None: under all.
        allowed_hosts: others, exactly as given, such as ``example.org`` or ``example.org:8443``.
    """

    def __init__(self, board: Board, own_names: Sequence[str] | None, allowed_hosts: Sequence[str] = ()) -> None:
        self.commands: deque[Command] = deque()
        self.is_closing = False
        self.shown_at: float | None = None
        """By the monotonic clock, when the loop last showed something; None before the first time."""
        self._board, self._token, self._num_watchers = board, secrets.token_urlsafe(), 0
        self._allowed_hosts = frozenset(map(str.lower, allowed_hosts))
        own = None if own_names is None else frozenset(own_names)
        gate = Middleware(_Gate, own_names=own, allowed_hosts=self._allowed_hosts)
        self.app = Starlette(routes=self._routes(), middleware=[gate])
        self.app.router.redirect_slashes = False

    def _routes(self) -> list[Route]:
        return [
            Route("/", _file_endpoint(_PAGE / "index.html", "text/html")),
            *(Route(f"/{name}", _file_endpoint(_PAGE / name, kind)) for name, kind in _FILES.items()),
            Route("/events", self._events),
            Route("/pictures/{number}.jpg", self._picture),
            Route("/commands/{name}", self._command, methods=["POST"]),
            Route("/status.json", self._status),
            Route("/health", self._health),
        ]

    async def _events(self, request: Request) -> Response:
        if self._num_watchers >= MAX_WATCHERS:
            return PlainTextResponse(f"{MAX_WATCHERS} people are watching, and no more may", status_code=503)
        self._num_watchers += 1  # here, with no wait since the look
        headers = {**_NO_STORE, "X-Accel-Buffering": "no"}  # what proxies need to on_event to pass events on at once
        return _Watching(self._tell(), self._leave, headers)

    def _leave(self) -> None:
        self._num_watchers -= 1

    async def _tell(self) -> AsyncIterator[str]:
        """One watcher's events. When the watcher reads slowly, this waits at ``yield`` and skips what it missed."""
        yield f"retry: {_RETRY_MS}\n" + _event("hello", {"token": self._token, "version": __version__})
        told: tuple[Card, ...] | None = None
        newest_runs: dict[int, int] = {}
        told_at = time.monotonic()
        while not self.is_closing:
            cards = self._board.cards
            if cards is not told:
                yield _event("sources", [describe(card, newest_runs.get(card.number, 0)) for card in cards])
                newest_runs = {card.number: card.runs[-1].number for card in cards if card.runs}
                told, told_at = cards, time.monotonic()
            elif time.monotonic() - told_at > _BEAT_SECONDS:
                yield _event("beat", None)
                told_at = time.monotonic()
            await asyncio.sleep(_UPDATE_SECONDS)
        yield _event("end", None)

    async def _picture(self, request: Request) -> Response:
        number = request.path_params["number"]
        if not re.fullmatch(r"\d{1,9}", number, re.ASCII):
            return PlainTextResponse("no number of a picture", status_code=400)
        picture = next((card.picture for card in self._board.cards if card.number == int(number)), None)
        if picture is None:
            return Response(status_code=204)  # the source has gone, or has shown none yet
        # The token makes the tag of an earlier run of the program another one.
        headers = {"ETag": f'"{self._token[:8]}-{picture.number}"', "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(await asyncio.to_thread(picture.jpeg), media_type="image/jpeg", headers=headers)

    async def _command(self, request: Request) -> Response:
        name = request.path_params["name"]
        origin = request.headers.get("origin", "")
        scheme, _, host = origin.lower().partition("://")
        if origin not in ("", "null") and not (scheme.isalnum() and _HOST.fullmatch(host)):
            return PlainTextResponse("the origin makes no sense", status_code=400)
        if origin and host != request.headers["host"].lower() and host not in self._allowed_hosts:
            return PlainTextResponse("a page of another site may not press buttons here", status_code=403)
        if not secrets.compare_digest(request.headers.get("x-clipgru-token", "").encode(), self._token.encode()):
            return PlainTextResponse("the token is missing or old; reload the page", status_code=403)
        if name not in get_args(Command):
            return PlainTextResponse(f"no such command; known: {', '.join(get_args(Command))}", status_code=404)
        if len(self.commands) >= MAX_COMMANDS:
            return PlainTextResponse("too many commands are waiting; try again", status_code=503)
        self.commands.append(cast(Command, name))
        return PlainTextResponse("asked for", status_code=202)

    async def _status(self, request: Request) -> Response:
        return JSONResponse({"sources": [describe(card) for card in self._board.cards]}, headers=_NO_STORE)

    async def _health(self, request: Request) -> Response:
        """Answer a container's health check. Before the first step (a model that loads) all is well."""
        age_seconds = None if self.shown_at is None else time.monotonic() - self.shown_at
        is_well = age_seconds is None or age_seconds < _STALE_SECONDS
        states = {card.status.name: card.status.state for card in self._board.cards}
        answer = {"status": "ok" if is_well else "stale", "seconds_since_step": age_seconds, "sources": states}
        return JSONResponse(answer, status_code=200 if is_well else 503, headers=_NO_STORE)


def _event(name: str, content: object) -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(content, allow_nan=False)}\n\n"


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
