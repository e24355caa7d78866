"""The process behind ``isolated``: decodes one file at a time for the reader at the other end of a socket.

Started as ``python -c "from pipeline.decode.worker import main; main()" FD``. It ends when the reader goes away, and by
an alarm if it hangs after that. A fault that is not foreseen ends it, and the reader says so.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import DecodeConfig
from pipeline.decode.decoders import open_with_backend
from pipeline.decode.health import examine
from pipeline.decode.reader import Backend, Picture, VideoFile
from pipeline.decode.wire import Message, WireError, pack_header, pack_index, receive, send
from pipeline.errors import DecodeError, UserError
from pipeline.files.stopping import work_for_parent

_Reply = tuple[Message, bytes | memoryview]
# The reader kills a late process; this much later the process gives up by itself, in case there is no reader left.
_GRACE_SECONDS = 5.0


_REQUESTS = ("open", "index", "start", "next", "rgb", "stop", "close", "health", "memory")


class DecodeWorker:
    """Answers requests about one open file. Each method is a request; its arguments are the request's."""

    def __init__(self) -> None:
        self._file: VideoFile | None = None
        self._backend: Backend | None = None
        self._readings: dict[int, Generator[Picture, None, None]] = {}
        self._pictures: dict[int, Picture] = {}
        self._has_limit = False

    def open(self, path: str, config: dict[str, Any]) -> _Reply:
        """The header of a file, after closing the one before it."""
        self.close()
        settings = DecodeConfig(**config)
        self._limit_memory(settings.max_memory_mb)
        self._file, self._backend = open_with_backend(Path(path), settings)
        return pack_header(self._file.header), b""

    def index(self) -> _Reply:
        assert self._file is not None
        return pack_index(self._file.index)

    def start(self, reading: int, numbers: list[int] | None) -> _Reply:
        """Begins to read the pictures with these numbers, or all of them."""
        assert self._backend is not None
        self._readings[reading] = self._backend.iter_frames() if numbers is None else self._backend.get_frames(numbers)
        return {}, b""

    def next(self, reading: int, with_pixels: bool) -> _Reply:
        """The next picture of a reading; an empty answer at its end."""
        picture = next(self._readings[reading], None)
        if picture is None:
            return self.stop(reading)
        self._pictures[reading] = picture
        about = {"number": picture.number, "pts_seconds": picture.pts_seconds}
        shape, pixels = self.rgb(reading) if with_pixels else ({}, b"")
        return about | shape, pixels

    def rgb(self, reading: int) -> _Reply:
        """The pixels of the picture that ``next`` gave last."""
        image = np.ascontiguousarray(self._pictures[reading].rgb())
        return {"shape": list(image.shape)}, image.data.cast("B")

    def stop(self, reading: int) -> _Reply:
        """Ends a reading before its end."""
        self._pictures.pop(reading, None)
        if reading in self._readings:
            self._readings.pop(reading).close()
        return {}, b""

    def close(self) -> _Reply:
        """Closes the file."""
        for reading in list(self._readings):
            self.stop(reading)
        if self._file is not None:
            self._file.close()
        self._file = self._backend = None
        return {}, b""

    def health(self, path: str, config: dict[str, Any]) -> _Reply:
        """The health of a file, which need not be open."""
        self.close()
        settings = DecodeConfig(**config)
        self._limit_memory(settings.max_memory_mb)
        return examine(Path(path), settings).to_message()

    def memory(self) -> _Reply:
        """The most memory that this process has ever had, in MB."""
        status = Path("/proc/self/status")
        if status.is_file():  # elsewhere the figure may be that of the parent before the start
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            return {"peak_mb": int(found[1]) / 1e3 if found else 0.0}, b""
        import resource

        unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kB elsewhere
        return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}, b""

    def _limit_memory(self, max_megabytes: int) -> None:
        """Limit the memory allocated beyond that of the process now, on Linux."""
        if self._has_limit or not sys.platform.startswith("linux"):
            return
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # private and writable
        limit = pages * resource.getpagesize() + max_megabytes * 1_000_000
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        self._has_limit = True

    def answer(self, request: Message) -> _Reply:
        """Return the answer to a request, or the fault of the file."""
        do: dict[str, Callable[..., _Reply]] = {name: getattr(self, name) for name in _REQUESTS}
        try:
            return do[request["do"]](**request["with"])
        except DecodeError as error:
            return {"stage": error.stage, "cause": error.cause}, b""
        except UserError as error:
            return {"user_error": str(error)}, b""
        except MemoryError:
            cause = "needs more memory than decode.max_memory_mb allows; its pictures may be very large"
            return {"stage": request["do"] if request["do"] in ("open", "index") else "decode", "cause": cause}, b""


def _serve(connection: socket.socket) -> None:
    """Answers until the reader goes away."""
    worker = DecodeWorker()
    send(connection, {"ready": True})
    while True:
        try:
            request, _ = receive(connection, timeout_seconds=None)
        except WireError:
            return
        signal.setitimer(signal.ITIMER_REAL, request["timeout_seconds"] + _GRACE_SECONDS)
        message, payload = worker.answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, message, payload)


def main() -> None:
    """Takes the number of the socket from the command line."""
    work_for_parent()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _serve(connection)
