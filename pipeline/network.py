"""HTTP requests that end at a deadline, whatever the server sends, and what to do when one fails: why it did, in words
that repeat no address (those of libraries and servers do, and passwords with it), and when to try again."""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL, RemoteDisconnected
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import unquote_to_bytes

from pipeline.version import __version__

# urllib reads to its end what comes with a redirection.
_MAX_REDIRECTION_BYTES = 1 << 16
_FIRST_RETRY_SECONDS = 0.5


class _Deadline(Protocol):
    """The time that a request may still take."""

    def seconds_left(self) -> float:
        """Return the seconds left. Raises ``TimeoutError`` if there are none."""


class TimeLimit:
    """A deadline so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end_seconds = monotonic() + seconds

    def seconds_left(self) -> float:
        """Return the seconds left. Raises ``TimeoutError`` if there are none."""
        left = self._end_seconds - monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def make_request(
    url: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
) -> urllib.request.Request:
    """Return a request of urllib's for an http or https address: POST if there is content, else GET. A login in the
    address goes to its server alone, not to one that it points to."""
    scheme, login, rest = re.fullmatch(r"(\w+://)(?:([^/?#]*)@)?(.*)", url, re.DOTALL).groups("")  # type: ignore[union-attr]
    request = urllib.request.Request(
        scheme + rest, content, {"User-Agent": f"clipgru/{__version__}", **(headers or {})}
    )
    if login:
        code = base64.b64encode(unquote_to_bytes(login)).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    return request


def open_url(
    request: urllib.request.Request, deadline: _Deadline, *handlers: urllib.request.BaseHandler
) -> HTTPResponse:
    """Send a request, through a proxy where the environment names one, and return the answer, read within the deadline
    too. No redirection is followed unless ``handlers`` has a ``HTTPRedirectHandler``.

    Raises:
        HTTPError: the server answers with an error, or a redirection.
        URLError, HTTPException, OSError, ValueError: as urllib does.
    """
    director = urllib.request.OpenerDirector()
    for handler in (
        # What may be spoken, redirections included: no file:, ftp: or data:.
        urllib.request.ProxyHandler(),
        _Http(deadline),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        *handlers,
    ):
        director.add_handler(handler)
    response: HTTPResponse = director.open(request)
    return response


class _Http(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_timed, HTTPConnection, self._deadline), request)

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_timed, HTTPSConnection, self._deadline), request)


def _timed(kind: type[HTTPConnection], deadline: _Deadline, host: str, **settings: Any) -> HTTPConnection:
    connection = kind(host, **settings)
    connection.response_class = partial(_TimedResponse, deadline=deadline)  # type: ignore[assignment]
    connection._create_connection = partial(_connect, deadline)  # type: ignore[attr-defined]  # there for this purpose
    return connection


class _TimedResponse(HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, deadline: _Deadline, **settings: Any) -> None:
        super().__init__(connection, *args, **settings)
        self.fp = io.BufferedReader(_TimedStream(connection, self.fp.detach(), deadline))

    def read(self, amt: int | None = None) -> bytes:
        return super().read(_MAX_REDIRECTION_BYTES if amt is None else amt)


class _TimedStream(io.RawIOBase):
    """A connection that is read no longer than its deadline."""

    def __init__(self, connection: socket.socket, stream: io.RawIOBase, deadline: _Deadline) -> None:
        self._connection, self._stream, self._deadline = connection, stream, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._deadline.seconds_left())
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _connect(deadline: _Deadline, address: tuple[str, int], *_: object) -> socket.socket:
    """Connect as ``socket.create_connection`` does, but in the time that is left. Raises ``OSError``."""
    failure = OSError()
    for family, kind, protocol, _name, where in look_up(*address, deadline.seconds_left()):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(deadline.seconds_left())
            connection.connect(where)
            connection.settimeout(deadline.seconds_left())
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


def look_up(host: str, port: int, timeout_seconds: float) -> list[Any]:
    """Return the addresses of a host, as ``socket.getaddrinfo``. Asks in a thread: nothing else ends a wait for names.

    Raises:
        TimeoutError, OSError, ValueError: there is no answer in time, no such host, or the name is none.
    """
    answers: SimpleQueue[list[Any] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, ValueError) as error:
            answers.put(error)

    Thread(target=ask, name="clipgru-names", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_seconds)
    except Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def answer_in_words(error: HTTPError) -> str:
    """Return ``503 Service Unavailable``, in the words of the standard and not of the server."""
    return status_in_words(error.code)


def status_in_words(code: int) -> str:
    """Return ``503 Service Unavailable`` for 503."""
    return str(code) + next((f" {status.phrase}" for status in HTTPStatus if status == code), "")


def reason_of_failure(reason: BaseException | str) -> str:
    """Return why a connection failed; no timeout, of which the caller knows more."""
    if isinstance(reason, socket.gaierror):
        return "there is no such host"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message.partition(',')[0]})"
    if isinstance(reason, ssl.SSLError):
        return f"the server does not speak TLS as it should ({reason.reason})"
    if isinstance(reason, RemoteDisconnected):
        return "the server hangs up without an answer"
    if isinstance(reason, OSError) and reason.errno:
        return os.strerror(reason.errno)
    if isinstance(reason, HTTPException) and not isinstance(reason, InvalidURL):
        return f"the server does not speak HTTP as it should ({type(reason).__name__})"
    return "it is no http or https address that can be read, or points to such a one"


def retry_seconds(num_failures: int, max_seconds: float) -> float:
    """Return the seconds to wait after so many failures in a row: 0.5, 1, 2, 4, ... and at most ``max_seconds``."""
    doublings = min(num_failures - 1, 30)
    return float(min(_FIRST_RETRY_SECONDS * 2**doublings, max_seconds))
