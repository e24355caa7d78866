"""The live page as a web application: which address answers with what, and who may press a button.

    /                    the page; its styles, scripts and icon beside it
    /events              the state of all sources as server-sent events, whenever it changes
    /pictures/N.jpg      the newest picture of source N, with an ETag; 204 if there is none
    /commands/NAME       POST: pause, reset or quit
    /status.json         the state of all sources, once
    /metrics             figures of all sources and deliveries, as Prometheus reads them
    /health              200 while the loop that recognises goes on, else 503

``serving.site`` says what keeps other sites out.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.serving import site
from pipeline.serving.site import NO_STORE, Site, event
from pipeline.sinks.delivery import Delivery
from pipeline.streaming.board import Board, Card, describe_card
from pipeline.streaming.metrics import CONTENT_TYPE, metrics_text
from pipeline.streaming.status import Command

MAX_COMMANDS = 16
"""Pressed and not yet fetched by the loop; more are refused."""
_STALE_SECONDS = 30.0
"""Since the last step, after which the loop counts as hung."""


class LiveSite(Site):
    """The application and all that it holds: what is shown, and what was pressed.

    Args:
        board: what is told.
        deliveries: those whose figures ``/metrics`` tells.
        own_names, allowed_hosts: as ``Site`` takes them.
    """

    def __init__(
        self,
        board: Board,
        deliveries: Sequence[Delivery],
        own_names: Sequence[str] | None,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        self.commands: deque[Command] = deque()
        self.shown_at: float | None = None
        """By the monotonic clock, when the loop last showed something; None before the first time."""
        self._board, self._deliveries = board, deliveries
        super().__init__(Path(__file__).parent / "page", own_names, allowed_hosts)

    def routes(self) -> list[Route]:
        """Return what is answered beside the page itself."""
        return [
            Route("/pictures/{number}.jpg", self._picture),
            Route("/commands/{name}", self._command, methods=["POST"]),
            Route("/status.json", self._status),
            Route("/metrics", self._metrics),
            Route("/health", self._health),
        ]

    async def tell(self) -> AsyncIterator[str]:
        """Yield the cards of all sources whenever they change."""
        told: tuple[Card, ...] | None = None
        newest_runs: dict[int, int] = {}
        told_at = time.monotonic()
        while not self.is_closing:
            cards = self._board.cards
            if cards is not told:
                yield event("sources", [describe_card(card, newest_runs.get(card.number, 0)) for card in cards])
                newest_runs = {card.number: card.runs[-1].number for card in cards if card.runs}
                told, told_at = cards, time.monotonic()
            elif time.monotonic() - told_at > site.BEAT_SECONDS:
                yield event("beat", None)
                told_at = time.monotonic()
            await asyncio.sleep(site.UPDATE_SECONDS)

    async def _picture(self, request: Request) -> Response:
        number = request.path_params["number"]
        if not re.fullmatch(r"\d{1,9}", number, re.ASCII):
            return PlainTextResponse("no number of a picture", status_code=400)
        picture = next((card.picture for card in self._board.cards if card.number == int(number)), None)
        if picture is None:
            return Response(status_code=204)  # the source has gone, or has shown none yet
        # The token makes the tag of an earlier run of the program another one.
        headers = {"ETag": f'"{self.token[:8]}-{picture.number}"', "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(await asyncio.to_thread(picture.jpeg), media_type="image/jpeg", headers=headers)

    async def _command(self, request: Request) -> Response:
        if refusal := self.refusal(request):
            return refusal
        name = request.path_params["name"]
        if name not in get_args(Command):
            return PlainTextResponse(f"no such command; known: {', '.join(get_args(Command))}", status_code=404)
        if len(self.commands) >= MAX_COMMANDS:
            return PlainTextResponse("too many commands are waiting; try again", status_code=503)
        self.commands.append(cast(Command, name))
        return PlainTextResponse("asked for", status_code=202)

    async def _status(self, request: Request) -> Response:
        return JSONResponse({"sources": [describe_card(card) for card in self._board.cards]}, headers=NO_STORE)

    async def _metrics(self, request: Request) -> Response:
        statuses = [card.status for card in self._board.cards]
        text = metrics_text(statuses, [d.figures for d in self._deliveries], self._seconds_since_step)
        return Response(text, headers=NO_STORE | {"Content-Type": CONTENT_TYPE})

    @property
    def _seconds_since_step(self) -> float | None:
        return None if self.shown_at is None else time.monotonic() - self.shown_at

    async def _health(self, request: Request) -> Response:
        """Answer a container's health check. Before the first step (a model that loads) all is well."""
        age_seconds = self._seconds_since_step
        is_well = age_seconds is None or age_seconds < _STALE_SECONDS
        states = {card.status.name: card.status.state for card in self._board.cards}
        answer = {"status": "ok" if is_well else "stale", "seconds_since_step": age_seconds, "sources": states}
        return JSONResponse(answer, status_code=200 if is_well else 503, headers=NO_STORE)
