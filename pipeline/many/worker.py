"""A process that works on one file after the other, and dies alone.

A file that crashes it, or needs more memory than there is, costs that file and nothing else: it is recorded, not tried
again, and a new process goes on with the next. The process ends when the one that started it does, however that ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from pipeline.decode.child import how_it_ended, start_child
from pipeline.decode.wire import WireError, receive, send
from pipeline.errors import UserError
from pipeline.many.job import FileResult, Job

_START_SECONDS, _STOP_SECONDS = 600.0, 2.0  # imports and weights may come over a slow network
_CODE = (
    "from pipeline.files.stopping import work_for_parent; work_for_parent(); "
    "from pipeline.many.worker import main; main()"
)


class PredictionWorker:
    """``Processor.process`` in another process, which is started for the first file, and anew after one that ended it.
    One thread uses it, others may stop it.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock, self._is_stopped = Lock(), False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def process(self, path: str) -> FileResult:
        """Return the record of a file, even of one that ends the process.

        Raises:
            UserError: no file can be worked on like this.
        """
        if self._process is None or self._process.poll() is not None:  # one that dies while it rests costs no file
            self._start()
        assert self._connection is not None
        try:
            send(self._connection, {"path": path})
            message, _ = receive(self._connection, timeout_seconds=None)
        except WireError:
            cause = f"{path}: the process that worked on it {self._end()}"
            return FileResult.of_crash(path, cause, self._job.source(path))
        return FileResult.from_message(_checked(message), "a worker")

    def _start(self) -> None:
        with self._lock:
            if self._is_stopped:
                raise UserError("the run was stopped")
            self._kill()
            self._process, self._connection = start_child(_CODE)
        try:
            send(self._connection, self._job.to_message(), timeout_seconds=_START_SECONDS)
            message, _ = receive(self._connection, _START_SECONDS)
        except WireError as error:
            cure = "if memory is short, take fewer --workers"
            raise UserError(f"a worker cannot be started: its process {self._end()}; {cure}") from error
        _checked(message)

    def _end(self) -> str:
        """Makes sure that the process has ended, and says how."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._kill()
        code = self._process.returncode
        return how_it_ended(-signal.SIGKILL if code is None else code)

    def _kill(self) -> None:
        if self._process is not None and self._connection is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a disk that does not answer may hold even this up
                self._process.wait(_STOP_SECONDS)
            self._connection.close()

    def stop(self) -> None:
        """Ends the process, by force. A file that it is working on looks as if it had crashed."""
        with self._lock:
            self._is_stopped = True
            self._kill()


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    if "user_error" in message:
        raise UserError(message["user_error"])
    return message


# The rest runs in the process itself.


def main() -> None:
    """Serve the socket whose number is on the command line."""
    # Never closed: it ends with the process, or the thread that listens would end that first, as if all were well.
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        serve(connection)
    except UserError as error:
        send(connection, {"user_error": str(error)})


def serve(connection: socket.socket) -> None:
    """Takes the job, then a file after the other."""
    messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
    Thread(target=_listen, args=(connection, messages), daemon=True).start()
    import torch

    from pipeline.many.processor import Processor

    torch.set_num_threads(1)
    job = Job.from_message(messages.get())
    job.enter_folder()
    processor = Processor(job)
    send(connection, {"ready": True})
    while True:
        send(connection, processor.process(messages.get()["path"]).to_message())


def _listen(connection: socket.socket, messages: SimpleQueue[dict[str, Any]]) -> None:
    """Receive messages in a thread of its own, so that the process ends at once when nobody wants its answer."""
    while True:
        try:
            message, _ = receive(connection, timeout_seconds=None)
        except WireError:
            os._exit(0)
        messages.put(message)
