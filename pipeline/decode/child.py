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
from pathlib import Path

# One thread: such processes work side by side, and idle threads cost memory.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}


def start_child(code: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Runs ``code`` in a new interpreter that imports what this one can. Its argument is the number of its end of the
    socket; ours is returned. When either side goes away, the other reads the end of the stream."""
    ours, theirs = socket.socketpair()
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
            pass_fds=[theirs.fileno()],
        )
    return process, ours


def how_it_ended(return_code: int) -> str:
    """In words: "was ended by SIGKILL", "ended with 1"."""
    return f"was ended by {signal.Signals(-return_code).name}" if return_code < 0 else f"ended with {return_code}"
