"""``python -m pipeline`` is ``clipgru``: the process around the command line."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn


def console_main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line as a process of its own: a signal ends it without a traceback, even while it imports, and
    no name or label is too foreign for the terminal's encoding."""
    code = 1
    try:
        from pipeline.files.stopping import exit_code_of, interrupt_on_signals

        interrupt_on_signals()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from pipeline.cli import main

        code = main(args)
    except KeyboardInterrupt as interrupt:
        code = exit_code_of(interrupt) if interrupt.args else 130
    finally:
        _kill_workers()
    _leave(code)


def _kill_workers() -> None:
    """End the workers of loaders: Python would wait for one that hangs."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise
        for child in multiprocessing.active_children():
            child.kill()


def _leave(code: int) -> NoReturn:
    """End the process and leave the interpreter whole: taking it apart lasts most of a second with all that torch has
    loaded, and fails where a thread still waits inside OpenCV for a camera, or inside torch after a signal. Files are
    complete by now; threads that have work are waited for, unless a signal asked to stop."""
    if code < 128 and not any(thread.name == "clipgru-grab" for thread in threading.enumerate()):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # the reader has gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    console_main()
