"""Videos from the web: fetched whole into a temporary file, which is then read like any other.

FFmpeg itself never goes to the network. So it follows no playlist, an address cannot bring a format or protocol that is
not allowed, certificates are checked, and the file cannot change between two readings of it. Failures are
reported in words of our own: those of libraries and servers repeat the address, and passwords with it.
"""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import ssl
import urllib.request
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote_to_bytes

from pipeline.config import DecodeConfig
from pipeline.errors import DecodeError
from pipeline.sources import file_name_of
from pipeline.version import __version__

_URL = re.compile(r"https?://", re.IGNORECASE)
_CHUNK_BYTES = 1 << 18
# A server that sends less than this, once it had time to begin, is as good as silent.
_MIN_BYTES_PER_SECOND = 10_000
# A download may take so many times decode.timeout_seconds in all.
_MAX_TIMEOUTS = 60
# urllib reads to its end what comes with a redirection.
_MAX_REDIRECTION_BYTES = 1 << 16


def is_url(source: str | Path) -> bool:
    """True for an http or https address. False for a ``Path``, which would have lost a slash."""
    return isinstance(source, str) and bool(_URL.match(source))


def fetch(url: str, folder: Path, config: DecodeConfig) -> Path:
    """Bring a file from the web into a folder, and return its path.

    Raises:
        DecodeError: at stage ``open``; the server does not give it, is too slow, or it is too large.
    """
    deadline, num_bytes, target = _Deadline(config.timeout_seconds), 0, folder / file_name_of(url)
    try:
        with _ask(url, deadline) as response, target.open("wb") as stream:
            announced = response.length
            deadline.count(0)
            while chunk := response.read1(_CHUNK_BYTES):
                num_bytes += len(chunk)
                deadline.count(num_bytes)
                _check_size(url, config, max(num_bytes, announced or 0))
                stream.write(chunk)
    except (URLError, HTTPException, ssl.SSLError, ConnectionError, TimeoutError, ValueError) as error:
        raise DecodeError(url, "open", _cause(error, deadline)) from None
    except OSError as error:
        raise DecodeError(url, "open", f"cannot be kept in {folder}: {error.strerror}") from None
    if announced is not None and num_bytes < announced:
        raise DecodeError(url, "open", f"cut off: the server announces {announced} bytes and sends {num_bytes}")
    return target


class _Deadline:
    """The time that a server may still take, whatever it sends meanwhile: one limit for connections, redirections and
    the head of its answer together; then a least rate, a longest silence, and a limit for the whole."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._begun = self._heard = monotonic()
        self._num_bytes: int | None = None  # of the body; None before it begins

    def count(self, num_bytes: int) -> None:
        """Notes how much of the body has come."""
        self._num_bytes, self._heard = num_bytes, monotonic()

    def _end(self) -> tuple[float, str]:
        """Return the end of the time, by the monotonic clock, and the cause to report then."""
        limit, begun = self._timeout_seconds, self._begun
        if self._num_bytes is None:
            return begun + limit, f"no answer within {limit:g} s"
        so_far = f"{self._num_bytes} bytes in {self._heard - begun:.0f} s"
        return min(
            (begun + max(limit, self._num_bytes / _MIN_BYTES_PER_SECOND), f"too slow: {so_far}"),
            (self._heard + limit, f"the server is silent for {limit:g} s after {so_far}"),
            (begun + _MAX_TIMEOUTS * limit, f"not done within {_MAX_TIMEOUTS * limit:g} s: {so_far}"),
        )

    def seconds_left(self) -> float:
        """Return the seconds left. Raises ``TimeoutError`` if there are none."""
        left = self._end()[0] - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def cause(self) -> str:
        """Return the cause why the time is over."""
        return f"{self._end()[1]} (decode.timeout_seconds = {self._timeout_seconds:g})"

    def connect(self, address: tuple[str, int], *_: object) -> socket.socket:
        """Connect as ``socket.create_connection`` does, but in the time that is left. Raises ``OSError``."""
        failure = OSError()
        for family, kind, protocol, _, where in _look_up(*address, self.seconds_left()):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self.seconds_left())
                connection.connect(where)
                connection.settimeout(self.seconds_left())
                return connection
            except OSError as error:
                connection.close()
                failure = error
        raise failure


def _look_up(host: str, port: int, timeout_seconds: float) -> list[Any]:
    """Return the addresses of a host. Asks in a thread: nothing else ends a wait for names."""
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


class _TimedResponse(HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, deadline: _Deadline, **settings: Any) -> None:
        super().__init__(connection, *args, **settings)
        self.fp = io.BufferedReader(_TimedStream(connection, self.fp.detach(), deadline))

    def read(self, amt: int | None = None) -> bytes:
        return super().read(_MAX_REDIRECTION_BYTES if amt is None else amt)


def _timed(kind: type[HTTPConnection], deadline: _Deadline, host: str, **settings: Any) -> HTTPConnection:
    connection = kind(host, **settings)
    connection.response_class = partial(_TimedResponse, deadline=deadline)  # type: ignore[assignment]
    connection._create_connection = deadline.connect  # type: ignore[attr-defined]  # there for this purpose
    return connection


class _Http(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_timed, HTTPConnection, self._deadline), request)

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_timed, HTTPSConnection, self._deadline), request)


def _ask(url: str, deadline: _Deadline) -> HTTPResponse:
    director = urllib.request.OpenerDirector()
    for handler in (
        # What may be spoken, redirections included: no file:, ftp: or data:.
        urllib.request.ProxyHandler(),
        _Http(deadline),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        director.add_handler(handler)
    scheme, login, rest = re.fullmatch(r"(\w+://)(?:([^/?#]*)@)?(.*)", url, re.DOTALL).groups("")  # type: ignore[union-attr]
    request = urllib.request.Request(scheme + rest, headers={"User-Agent": f"clipgru/{__version__}"})
    if login:  # for this server alone, not for one that it points to
        code = base64.b64encode(unquote_to_bytes(login)).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    response: HTTPResponse = director.open(request)
    return response


def _check_size(url: str, config: DecodeConfig, num_bytes: int) -> None:
    if num_bytes > config.max_download_mb * 1_000_000:
        cause = f"it is larger than decode.max_download_mb = {config.max_download_mb} allows; raise it if you trust it"
        raise DecodeError(url, "open", cause)


def _cause(error: Exception, deadline: _Deadline) -> str:
    if isinstance(error, HTTPError):
        error.close()
        phrase = next((f" {status.phrase}" for status in HTTPStatus if status == error.code), "")
        where = ", which leads to no http or https address" if 300 <= error.code < 400 else ""
        return f"the server answers {error.code}{phrase}{where}"
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return deadline.cause()
    return f"cannot be fetched: {_reason(reason)}"


def _reason(reason: BaseException | str) -> str:
    if isinstance(reason, socket.gaierror):
        return "there is no such host"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message.partition(',')[0]})"
    if isinstance(reason, ssl.SSLError):
        return f"the server does not speak TLS as it should ({reason.reason})"
    if isinstance(reason, OSError) and reason.errno:
        return os.strerror(reason.errno)
    if isinstance(reason, HTTPException) and not isinstance(reason, InvalidURL):
        return f"the server does not speak HTTP as it should ({type(reason).__name__})"
    return "it is no http or https address that can be read, or points to such a one"
