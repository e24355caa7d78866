"""A process that works on one file after the other, and dies alone.

A file that crashes it, or needs more memory than there is, costs that file and nothing else: it is recorded, not tried
again, and a new process goes on with the next. The process ends when the one that started it does, however that ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import asdict
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from pipeline.decode.child import Child, how_it_ended
from pipeline.decode.wire import WireError, receive, send
from pipeline.errors import UserError
from pipeline.many.job import FileResult, Job, result_of
from pipeline.schema import read_checked

_START_SECONDS = 600.0  # imports and weights may come over a slow network
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
        self._child: Child | None = None

    def process(self, path: str) -> FileResult:
        """Return the record of a file, even of one that ends the process.

        Raises:
            UserError: no file can be worked on like this.
        """
        child = self._child
        if child is None or child.process.poll() is not None:  # one that dies while it rests costs no file
            child = self._started()
        try:
            send(child.connection, {"path": path})
            message, _ = receive(child.connection, timeout_seconds=None)
        except WireError:
            cause = f"{path}: the process that worked on it {_end(child)}"
            return FileResult.of_crash(path, cause, self._job.source(path))
        return result_of(message, "a worker")

    def _started(self) -> Child:
        with self._lock:
            if self._is_stopped:
                raise UserError("the run was stopped")
            self._child = child = Child(_CODE)  # the one before ends
        try:
            send(child.connection, self._job.to_message(), timeout_seconds=_START_SECONDS)
            message, _ = receive(child.connection, _START_SECONDS)
        except WireError as error:
            cure = "if memory is short, take fewer --workers"
            raise UserError(f"a worker cannot be started: its process {_end(child)}; {cure}") from error
        if "user_error" in message:
            raise UserError(message["user_error"])
        return child

    def stop(self) -> None:
        """Ends the process, by force. A file that it is working on looks as if it had crashed."""
        with self._lock:
            self._is_stopped = True
            if self._child is not None:
                self._child.stop()


def _end(child: Child) -> str:
    code = child.end()
    return how_it_ended(-signal.SIGKILL if code is None else code)


# The rest runs in the process itself.


def main() -> None:
    """Serve the socket whose number is on the command line."""
    # Never closed: it ends with the process, or the thread that listens would end that first, as if all were well.
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        _serve(connection)
    except UserError as error:
        send(connection, {"user_error": str(error)})


def _serve(connection: socket.socket) -> None:
    """Takes the job, then a file after the other."""
    messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
    Thread(target=_listen, args=(connection, messages), daemon=True).start()
    import torch

    from pipeline.many.processor import Processor

    torch.set_num_threads(1)
    job = read_checked(Job, messages.get(), "the job")
    job.enter_folder()
    processor = Processor(job)
    send(connection, {"ready": True})
    while True:
        send(connection, asdict(processor.process(messages.get()["path"])))


def _listen(connection: socket.socket, messages: SimpleQueue[dict[str, Any]]) -> None:
    """Receive messages in a thread of its own, so that the process ends at once when nobody wants its answer."""
    while True:
        try:
            message, _ = receive(connection, timeout_seconds=None)
        except WireError:
            os._exit(0)
        messages.put(message)
