"""Programs that take events, on the loopback: an HTTP server and an MQTT broker, as far as a sender needs one. Both die
when they are told to, at the worst moment: they have the event, and nobody hears of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import suppress
from email.message import Message
from http.client import parse_headers
from io import RawIOBase
from typing import Any

from tests.ports import free_port

PATIENCE_SECONDS = 120.0


class EventReceiver(ABC):
    """A server that keeps what it is sent; for a ``with`` statement.

    Args:
        dies_after: numbers of events, counted from 1: with each of these it goes down, and up again a moment later.
        port: where it listens; 0 takes any free one.

    Attributes:
        received: the events in order, repeated ones too.
        num_deaths: up to now.
    """

    def __init__(self, dies_after: Collection[int] = (), port: int = 0) -> None:
        self.port = port or free_port()
        self.received: list[dict[str, Any]] = []
        self.num_deaths = 0
        self._dies_after = frozenset(dies_after)
        self._is_down = False
        self._is_up, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where events are sent, with a login."""

    @abstractmethod
    def serve(self, stream: RawIOBase) -> None:
        """Answer what comes on a connection."""

    def __enter__(self) -> Any:
        self._thread.start()
        assert self._is_up.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._is_down = False
            with socket.create_server(("127.0.0.1", self.port)) as listener:
                listener.settimeout(0.02)
                self._is_up.set()
                while not (self._is_over.is_set() or self._is_down):
                    with suppress(OSError):  # nobody came, or who came went away
                        self._accept(listener)
            time.sleep(0.02)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb", buffering=0) as stream:
            connection.settimeout(PATIENCE_SECONDS)
            self.serve(stream)  # type: ignore[arg-type]

    def keep(self, content: bytes) -> bool:
        """Keep an event. False if that is the end for now."""
        self.received.append(json.loads(content))
        self._is_down = len(self.received) in self._dies_after
        self.num_deaths += self._is_down
        return not self._is_down

    def wait_for(self, count: int) -> None:
        """Wait until so many events are there, repeated ones too."""
        end_seconds = time.monotonic() + PATIENCE_SECONDS
        while len(self.received) < count:
            assert time.monotonic() < end_seconds, self.received[-3:]
            time.sleep(0.01)

    def first_of_each(self) -> list[dict[str, Any]]:
        """The events as a receiver has them that drops what it knows. Asserts that each repeated one is marked."""
        known: dict[str, dict[str, Any]] = {}
        for event in self.received:
            before = known.setdefault(event["id"], event)
            if before is not event:
                assert event["attempt"] > 1
                assert event == before | {"attempt": event["attempt"]}
        return list(known.values())


class HookServer(EventReceiver):
    """An HTTP server.

    Attributes:
        answer: the line and headers that it answers with.
        heads: path and headers of each request.
    """

    answer = "204 No Content"

    def __init__(self, dies_after: Collection[int] = (), port: int = 0) -> None:
        super().__init__(dies_after, port)
        self.heads: list[tuple[str, Message]] = []

    @property
    def url(self) -> str:
        return f"http://me:secret@127.0.0.1:{self.port}/hooks/t0k3n"

    def serve(self, stream: Any) -> None:
        line, head = stream.readline().decode().split(), parse_headers(stream)
        if len(line) < 3 or "content-length" not in head:
            raise ConnectionAbortedError("who came was killed in mid-sentence")
        method, path, _ = line
        self.heads.append((path, head))
        assert method == "POST"
        content = _exactly(stream, int(head["content-length"]))
        if not self.answer.startswith("2") or self.keep(content):
            stream.write(f"HTTP/1.1 {self.answer}\r\nConnection: close\r\n\r\n".encode())


class Broker(EventReceiver):
    """MQTT 3.1.1 for senders of QoS 1.

    Attributes:
        refusal: the code that it answers to CONNECT; 0 accepts.
        connects: what came in each CONNECT after the name of the protocol.
        topics: of the events.
    """

    refusal = 0

    def __init__(self, dies_after: Collection[int] = (), port: int = 0) -> None:
        super().__init__(dies_after, port)
        self.connects: list[bytes] = []
        self.topics: list[str] = []

    @property
    def url(self) -> str:
        return f"mqtt://me:secret@127.0.0.1:{self.port}/house/t0k3n"

    def serve(self, stream: Any) -> None:
        while first := stream.read(1):
            content = self._rest_of_packet(stream)
            kind, flags = first[0] >> 4, first[0] & 15
            if kind == 1:
                self.connects.append(content[6:])
                stream.write(bytes([0x20, 2, 0, self.refusal]))
            elif kind == 3:
                assert flags == 0b0010  # QoS 1, first time in this session, not to be retained
                end = 2 + int.from_bytes(content[:2], "big")
                self.topics.append(content[2:end].decode())
                if not self.keep(content[end + 2 :]):
                    return
                stream.write(b"\x40\x02" + content[end : end + 2])
            else:
                assert kind == 14  # DISCONNECT
                return

    def _rest_of_packet(self, stream: Any) -> bytes:
        length = shift = 0
        while True:
            (byte,) = _exactly(stream, 1)
            length, shift = length | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        return _exactly(stream, length)


def _exactly(stream: Any, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = stream.read(count - len(content))
        if not part:
            raise ConnectionAbortedError("who came was killed in mid-sentence")
        content += part
    return content


RECEIVERS = {"webhook": HookServer, "mqtt": Broker}
