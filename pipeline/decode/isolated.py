"""The firewall: the same ``VideoReader`` with the decoder in another process.

A file that hangs, crashes or floods a decoder ends that process, not the one that asked; it becomes a ``DecodeError``
like any other bad file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.decode.child import Child, how_it_ended
from pipeline.decode.container import Header, check_process, check_regular_file
from pipeline.decode.health import Examination
from pipeline.decode.index import VideoIndex
from pipeline.decode.reader import Picture
from pipeline.decode.wire import LateError, Message, WireError, receive, send, unpack_header, unpack_index
from pipeline.errors import DecodeError, UserError

_START_SECONDS = 60.0
_BYTES_OF_INDEX_PER_FRAME, _MAX_BYTES_OF_HEALTH = 24, 100_000
_MIN_BYTES_PER_SECOND = 250_000.0
_COMMAND = "from pipeline.decode.worker import main; main()"


class DecodingProcess:
    """A child process that decodes one file at a time, and is used for one after the other.

    Raises:
        UserError: it cannot be started.
    """

    def __init__(self) -> None:
        if os.name != "posix":
            raise UserError("decode.isolate needs Linux or macOS; turn it off")
        self._child, self._is_waiting = Child(_COMMAND), False
        try:
            receive(self._child.connection, _START_SECONDS)
        except WireError as error:
            self.stop()
            raise UserError(f"the decoding process cannot be started: {error}; set decode.isolate to false") from error

    @property
    def is_usable(self) -> bool:
        """False after it was stopped or interrupted, and in another process than the one that started it."""
        return self._child.is_usable and not self._is_waiting

    def ask(
        self, request: str, arguments: Message, timeout_seconds: float, max_payload_bytes: int = 0
    ) -> tuple[Message, bytearray]:
        """Sends a request and waits for the answer, for so long in all. Raises ``WireError``, and then the process is
        stopped."""
        self._is_waiting = True  # until the answer is here; an interrupt in between leaves a process of no use
        end = monotonic() + timeout_seconds
        message = {"do": request, "with": arguments, "timeout_seconds": timeout_seconds}
        try:
            send(self._child.connection, message, timeout_seconds=timeout_seconds)
            answer = receive(self._child.connection, end - monotonic(), max_payload_bytes)
        except LateError:
            self.stop()
            raise
        except WireError as error:
            raise WireError(_last_words(self._child.end(), error)) from error
        self._is_waiting = False
        return answer

    def stop(self) -> None:
        """Ends the process, by force. May be called twice."""
        self._child.stop()


def _last_words(return_code: int | None, error: WireError) -> str:
    if return_code is None:
        return f"the decoding process went wrong ({error}) and was stopped; the file may have damaged it"
    how = how_it_ended(return_code)
    return f"the decoding process {how}: the file crashes the decoder, or needs more than decode.max_memory_mb"


class IsolatedFile:
    """A file that another process has open; the counterpart of ``VideoFile``, a file of this process.

    Raises:
        DecodeError: the file cannot be opened, or the process did not live to say so.
    """

    def __init__(
        self, path: Path, config: DecodeConfig, process: DecodingProcess, release: Callable[[DecodingProcess], None]
    ) -> None:
        self.path, self.config = path, config
        self._process, self._release, self._owner = process, release, os.getpid()
        self._is_closed, self._failure = False, ""
        self._index: VideoIndex | None = None
        check_regular_file(path)
        arguments = {"path": str(path.absolute()), "config": asdict(config)}
        message, _ = self.ask("open", arguments, "open", config.timeout_seconds)
        self.header: Header = unpack_header(message)

    @property
    def index(self) -> VideoIndex:
        """Raises ``DecodeError`` if the file cannot be indexed."""
        if self._index is None:
            max_bytes = _BYTES_OF_INDEX_PER_FRAME * self.config.max_frames
            message, payload = self.ask("index", {}, "index", self.config.timeout_seconds, max_bytes)
            self._index = unpack_index(message, payload, self.path)
        return self._index

    def ask(
        self, request: str, arguments: Message, stage: str, timeout_seconds: float, max_payload_bytes: int = 0
    ) -> tuple[Message, bytearray]:
        """One request about this file.

        Raises:
            DecodeError: the file is bad, or has ended the process.
            ValueError: the reader is closed.
            RuntimeError: another process opened it.
        """
        check_process(self.path, self._owner)
        if self._is_closed:
            raise ValueError(f"{self.path}: the reader is closed")
        if self._failure:
            raise DecodeError(self.path, stage, self._failure)
        try:
            message, payload = self._process.ask(request, arguments, timeout_seconds, max_payload_bytes)
        except LateError as error:
            cause = f"not done within {self.config.timeout_seconds:g} s (decode.timeout_seconds)"
            self._fail(stage, f"{cause}; the decoding process was stopped", error)
        except WireError as error:
            self._fail(stage, str(error), error)
        _raise_refusal(self.path, message)
        return message, payload

    def _fail(self, stage: str, cause: str, error: WireError) -> NoReturn:
        self._failure = cause
        raise DecodeError(self.path, stage, self._failure) from error

    def close(self) -> None:
        """Hands the process back, for the next file."""
        if self._is_closed or self._owner != os.getpid():
            return
        if not self._failure:
            with suppress(DecodeError):
                self.ask("close", {}, "decode", self.config.timeout_seconds)
        self._is_closed = True
        self._release(self._process)


def _raise_refusal(path: Path, message: Message) -> None:
    """Raise the error that the decoding process reports."""
    if "cause" in message:
        raise DecodeError(path, message["stage"], message["cause"])
    if "user_error" in message:
        raise UserError(message["user_error"])


def examine_isolated(path: Path, config: DecodeConfig, process: DecodingProcess) -> Examination:
    """``health.examine`` in another process. Whatever the file does there becomes the reason why it is unusable."""
    seconds = config.timeout_seconds
    try:
        check_regular_file(path)
        seconds += path.stat().st_size / _MIN_BYTES_PER_SECOND  # all of it is decoded
        arguments = {"path": str(path), "config": asdict(config)}
        message, payload = process.ask("health", arguments, seconds, _MAX_BYTES_OF_HEALTH)
        _raise_refusal(path, message)
    except LateError:
        return Examination.of_unreadable(path, f"hangs the decoder: not done within {seconds:.0f} s")
    except WireError as error:
        return Examination.of_unreadable(path, str(error))
    except DecodeError as error:
        return Examination.of_unreadable(path, f"{error.stage}: {error.cause}")
    return Examination.from_message(message, payload)


class IsolatedBackend:
    """Any decoder, in another process. Pixels come when they are asked for, one picture at a time."""

    def __init__(self, file: IsolatedFile) -> None:
        self._file, self._num_readings = file, 0

    def iter_frames(self) -> Generator[Picture, None, None]:
        # Each picture may take the whole time: a long video is not a hanging one.
        return self._read(None, with_pixels=False)

    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        return self._read(list(numbers), with_pixels=True)

    def _read(self, numbers: list[int] | None, with_pixels: bool) -> Generator[Picture, None, None]:
        self._num_readings += 1
        reading, seconds_left = self._num_readings, self._file.config.timeout_seconds
        before = monotonic()
        self._ask("start", {"reading": reading, "numbers": numbers})
        seconds_left = max(seconds_left - (monotonic() - before), 1e-3)
        is_over = False
        try:
            while True:
                before = monotonic()
                message, pixels = self._ask("next", {"reading": reading, "with_pixels": with_pixels}, seconds_left)
                if numbers is not None:
                    seconds_left = max(seconds_left - (monotonic() - before), 1e-3)
                if not message:
                    is_over = True
                    return
                yield self._picture(message, pixels, reading)
        except DecodeError:
            is_over = True
            raise
        finally:
            if not is_over:
                with suppress(DecodeError, ValueError, RuntimeError):  # it may be closed already
                    self._ask("stop", {"reading": reading})

    def _picture(self, message: Message, pixels: bytearray, reading: int) -> Picture:
        shape = message.pop("shape", None)

        def rgb() -> NDArray[np.uint8]:
            given, content = (shape, pixels) if shape else self._rgb(reading)
            image: NDArray[Any] = np.frombuffer(content, np.uint8)
            return image.reshape(given)

        return Picture(**message, rgb=rgb)

    def _rgb(self, reading: int) -> tuple[list[int], bytearray]:
        message, pixels = self._ask("rgb", {"reading": reading})
        return message["shape"], pixels

    def _ask(self, request: str, arguments: Message, timeout_seconds: float | None = None) -> tuple[Message, bytearray]:
        config = self._file.config
        seconds = config.timeout_seconds if timeout_seconds is None else timeout_seconds
        return self._file.ask(request, arguments, "decode", seconds, max_payload_bytes=3 * config.max_pixels)
