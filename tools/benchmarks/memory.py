"""How much memory a piece of work takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PERIOD_SECONDS = 0.02


def resident_mb() -> float:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES / 1e6


def peak_growth_mb(run: Callable[[], object]) -> float:
    """The most by which the process grew while ``run`` ran, looked at 50 times a second."""
    before, peak, is_over = resident_mb(), 0.0, Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(_PERIOD_SECONDS):
            peak = max(peak, resident_mb() - before)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    run()
    is_over.set()
    thread.join()
    return max(peak, resident_mb() - before)
