"""The beginning of processes that try heads. Loads nothing itself, so that they can load torch while this one does."""

from __future__ import annotations

import threading
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import ForkServerContext, SpawnContext

from pipeline.learning.candidates import CANDIDATES
from pipeline.machine import num_processes
from pipeline.options import LearnOptions

_LEAST_TRIALS = 10
"""Of a process; fewer would be over before it had loaded torch."""


def processes_for(num_trials: int, wanted: int | None) -> int:
    """Number of processes, at most as many as are worth their while."""
    return min(num_processes(wanted), -(-num_trials // _LEAST_TRIALS))


def process_context() -> SpawnContext | ForkServerContext:
    """Processes begin as copies of one that has loaded what all need, where the system can do that."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["pipeline.learning.trials"])
    return context


def prepare_processes(options: LearnOptions) -> None:
    """Begin to load what the processes need, beside what this one does until then."""
    if processes_for(options.num_folds * options.num_seeds * len(CANDIDATES), options.num_processes) > 1:
        # The first process waits until what all need is loaded.
        threading.Thread(target=process_context().Process(target=int).start, daemon=True).start()
