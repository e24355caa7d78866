"""Processes that begin with torch, Lightning and the training imported: forks of one that imports them once.

Importing them takes longer than what most tests do. Whoever forks must have no threads, so it is not the tests' own
process that does.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.two_ranks", "pipeline.evaluation", "pipeline.__main__"])


def start(
    target: Callable[..., None], *arguments: object, output: Path, environment: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Run it in a fork, in a process group of its own; what it prints goes to that file."""
    process = _CONTEXT.Process(target=_begin, args=(target, arguments, output, {**(environment or {})}))
    process.start()
    return process


def _begin(
    target: Callable[..., None], arguments: tuple[object, ...], output: Path, environment: Mapping[str, str]
) -> None:
    import torch

    os.setsid()
    os.environ.update(environment)
    torch.set_num_threads(1)
    with output.open("ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    target(*arguments)


def command(*arguments: str) -> None:
    """``python -m pipeline``, as the target of ``start``: it ends the process."""
    from pipeline import __main__

    sys.modules["__main__"], sys.argv = __main__, [str(__main__.__file__), *arguments]
    __main__.console_main()
