"""Videos from the web, and objects of buckets for who cannot read them by ranges: fetched whole into a temporary file,
which is then read like any other.

FFmpeg itself never goes to the network. So it follows no playlist, an address cannot bring a format or protocol that is
not allowed, certificates are checked, and the file cannot change between two readings of it.
"""

from __future__ import annotations

import re
import ssl
from http.client import HTTPException
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler

from pipeline.buckets import BucketPath, is_bucket_address
from pipeline.config import DecodeConfig
from pipeline.decode.container import check_regular_file
from pipeline.errors import DecodeError
from pipeline.network import answer_in_words, make_request, open_url, reason_of_failure
from pipeline.sources import file_name_of

_URL = re.compile(r"https?://", re.IGNORECASE)
_CHUNK_BYTES = 1 << 18
# A server that sends less than this, once it had time to begin, is as good as silent.
_MIN_BYTES_PER_SECOND = 10_000
# A download may take so many times decode.timeout_seconds in all.
_MAX_TIMEOUTS = 60


def is_url(source: str | Path) -> bool:
    """True for an http or https address or one of an object in a bucket. False for a ``Path``, which would have lost a
    slash."""
    return isinstance(source, str) and (bool(_URL.match(source)) or is_bucket_address(source))


def fetch(url: str, folder: Path, config: DecodeConfig) -> Path:
    """Bring a file from the web into a folder, and return its path.

    Raises:
        DecodeError: at stage ``open``; the server does not give it, is too slow, or it is too large.
    """
    deadline, num_bytes, target = _Deadline(config.timeout_seconds), 0, folder / file_name_of(url)
    try:
        with open_url(make_request(url), deadline, HTTPRedirectHandler()) as response, target.open("wb") as stream:
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


def check_object(path: BucketPath, config: DecodeConfig) -> None:
    """Raise ``DecodeError`` at stage ``open`` if there is no such object, or it is larger than the settings allow."""
    check_regular_file(path)
    _check_size(path, config, path.stat().st_size)


def fetch_object(path: BucketPath, folder: Path, config: DecodeConfig) -> Path:
    """Bring an object into a folder, and return its path there. Raises ``DecodeError`` at stage ``open``."""
    check_object(path, config)
    target = folder / file_name_of(str(path))
    try:
        with path.open("rb") as source, target.open("wb") as stream:
            while chunk := source.read(_CHUNK_BYTES):
                stream.write(chunk)
    except OSError as error:
        raise DecodeError(path, "open", str(error.strerror)) from None
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


def _check_size(url: str | Path, config: DecodeConfig, num_bytes: int) -> None:
    if num_bytes > config.max_download_mb * 1_000_000:
        cause = f"it is larger than decode.max_download_mb = {config.max_download_mb} allows; raise it if you trust it"
        raise DecodeError(url, "open", cause)


def _cause(error: Exception, deadline: _Deadline) -> str:
    if isinstance(error, HTTPError):
        error.close()
        where = ", which leads to no http or https address" if 300 <= error.code < 400 else ""
        return f"the server answers {answer_in_words(error)}{where}"
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return deadline.cause()
    return f"cannot be fetched: {reason_of_failure(reason)}"
