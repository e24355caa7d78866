"""Videos from the web: fetched whole into a temporary file, which is then read like any other.

FFmpeg itself never goes to the network. So it follows no playlist, an address cannot bring a format or protocol that is
not allowed, certificates are checked, and the file cannot change between two readings of it.
"""

from __future__ import annotations

import re
import ssl
import tempfile
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from pipeline.config import DecodeConfig
from pipeline.errors import DecodeError
from pipeline.version import __version__

_URL = re.compile(r"https?://", re.IGNORECASE)
_CHUNK_BYTES = 1 << 18
# A server that sends less than this, once it had time to begin, is as good as silent.
_MIN_BYTES_PER_SECOND = 10_000
# What may be spoken, redirections included: no file:, ftp: or data:.
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


def is_url(source: str | Path) -> bool:
    """Whether that is an http or https address. Never a ``Path``: it would have lost a slash."""
    return isinstance(source, str) and bool(_URL.match(source))


def file_name(source: str | Path) -> Path:
    """A path as it is; of an address the last part of its path, without what a file system might not like."""
    if not is_url(source):
        return Path(source)
    name = re.sub(r"[^\w.-]", "_", Path(unquote(urlsplit(str(source)).path)).name)[-100:]
    return Path(name.lstrip(".") or "video")


class FetchedVideo:
    """A file from the web in a folder of its own, until ``remove``.

    Raises:
        DecodeError: at stage ``open``; the server does not give it, is too slow, or it is too large.
    """

    def __init__(self, url: str, config: DecodeConfig) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="clipgru-")
        self.path = Path(self._folder.name) / file_name(url)
        try:
            with self.path.open("wb") as stream:
                _fetch(url, stream, config)
        except (DecodeError, KeyboardInterrupt):
            self.remove()
            raise
        except OSError as error:
            self.remove()
            raise DecodeError(url, "open", f"cannot be kept in {self._folder.name}: {error.strerror}") from error

    def remove(self) -> None:
        """Deletes the file. May be called twice."""
        self._folder.cleanup()


def _fetch(url: str, stream: BinaryIO, config: DecodeConfig) -> None:
    begun, num_bytes = monotonic(), 0
    try:
        with _ask(url, config.timeout_seconds) as response:
            announced = response.length
            while chunk := response.read1(_CHUNK_BYTES):
                num_bytes += len(chunk)
                _check(url, config, max(num_bytes, announced or 0), num_bytes, monotonic() - begun)
                stream.write(chunk)
    except HTTPError as error:
        error.close()
        raise DecodeError(url, "open", f"the server answers {error.code} {error.reason}") from error
    except (URLError, HTTPException, ssl.SSLError, ConnectionError, TimeoutError, ValueError) as error:
        raise DecodeError(url, "open", _cause(error, config.timeout_seconds)) from error
    if announced is not None and num_bytes < announced:
        raise DecodeError(url, "open", f"cut off: the server announces {announced} bytes and sends {num_bytes}")


def _ask(url: str, timeout_seconds: float) -> HTTPResponse:
    director = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        director.add_handler(handler())
    request = urllib.request.Request(url, headers={"User-Agent": f"clipgru/{__version__}"})
    response: HTTPResponse = director.open(request, timeout=timeout_seconds)
    return response


def _check(url: str, config: DecodeConfig, least_size: int, num_bytes: int, seconds: float) -> None:
    if least_size > config.max_download_mb * 1_000_000:
        cause = f"it is larger than decode.max_download_mb = {config.max_download_mb} allows; raise it if you trust it"
        raise DecodeError(url, "open", cause)
    if seconds > config.timeout_seconds and num_bytes < seconds * _MIN_BYTES_PER_SECOND:
        raise DecodeError(url, "open", f"too slow: {num_bytes} bytes in {seconds:.0f} s")


def _cause(error: Exception, timeout_seconds: float) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return f"the server is silent for {timeout_seconds:g} s (decode.timeout_seconds)"
    return f"cannot be fetched: {reason}"
