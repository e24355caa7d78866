"""A process of our own beside us: plain Python at the other end of a socket.

Not one of ``multiprocessing``: those are not allowed in the workers of a loader, and would import the user's main
module.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path

_STOP_SECONDS = 2.0
# One thread: such processes work side by side, and idle threads cost memory.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}


class Child:
    """A new interpreter that runs ``code`` and imports what this one can. Its argument is the number of its end of the
    socket. When either side goes away, the other reads the end of the stream. It ends with this object.

    Attributes:
        process: to be ended by ``stop``.
        connection: our end of the socket.
    """

    def __init__(self, code: str) -> None:
        self.connection, theirs = socket.socketpair()
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
                pass_fds=[theirs.fileno()],
            )
        self._owner = os.getpid()
        self._stop = weakref.finalize(self, _stop, self.process, self.connection, self._owner)

    @property
    def is_usable(self) -> bool:
        """False after it was stopped, and in another process than the one that started it."""
        return self._owner == os.getpid() and self._stop.alive

    def end(self) -> int | None:
        """Make sure that a process has ended which is gone or does not keep to the format. Returns its return code;
        None if it had to be stopped."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        return_code: int | None = self.process.returncode
        self.stop()
        return return_code

    def stop(self) -> None:
        """End the process, by force. May be called twice, and by another thread than the one that waits for it."""
        self._stop()


def _stop(process: subprocess.Popen[bytes], connection: socket.socket, owner: int) -> None:
    if owner == os.getpid():
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a disk that does not answer may hold even this up
            process.wait(_STOP_SECONDS)
    else:  # a fork: the child is not ours
        process.returncode = 0
    connection.close()


def how_it_ended(return_code: int) -> str:
    """In words: "was ended by SIGKILL", "ended with 1"."""
    return f"was ended by {signal.Signals(-return_code).name}" if return_code < 0 else f"ended with {return_code}"
