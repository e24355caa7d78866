"""``python -m pipeline`` is ``clipgru``: the process around the command line."""

from __future__ import annotations

import sys
from typing import NoReturn


def console_main() -> NoReturn:
    """Run the command line as a process of its own: a signal ends it without a traceback, even while it imports, and
    no name or label is too foreign for the terminal's encoding."""
    try:
        from pipeline.files.stopping import exit_code_of, interrupt_on_signals

        interrupt_on_signals()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from pipeline.cli import main

        code = main()
    except KeyboardInterrupt as interrupt:
        code = exit_code_of(interrupt) if interrupt.args else 130
    sys.exit(code)


if __name__ == "__main__":
    console_main()
