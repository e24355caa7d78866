"""Trainings of heads on some videos, each judged by others: one after the other, or in processes beside each other."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Experiment
from pipeline.errors import UserError
from pipeline.files.stopping import work_for_parent
from pipeline.learning.features import VideoFeatures
from pipeline.learning.heads import fit_head, scores_of
from pipeline.learning.processes import process_context
from pipeline.machine import one_thread

_Scores: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Of each clip: logits ``[N, K]``, its class and the place of its video among those it was judged by, int64 ``[N]``."""


@dataclass(frozen=True)
class Trial:
    """One training, by the places of its videos."""

    experiment: Experiment
    train: Sequence[int]
    test: Sequence[int]


def run_trials(
    trials: Sequence[Trial], labels: Sequence[str], videos: Sequence[VideoFeatures], num_processes: int = 1
) -> Iterator[_Scores]:
    """Scores of each trial, in order; the same whatever ``num_processes`` is, as each training has one thread.

    Raises:
        UserError: a process was lost.
    """
    if num_processes == 1:
        for trial in trials:
            with one_thread():
                scores = _scores(trial, labels, videos)
            yield scores
        return
    # As bytes, and results as arrays: tensors would travel through /dev/shm, which is small in containers.
    shared = pickle.dumps((labels, videos))
    pool = ProcessPoolExecutor(num_processes, process_context(), _begin, (shared,))
    try:
        for arrays in pool.map(_arrays, trials):
            yield tuple(map(torch.from_numpy, arrays))  # type: ignore[misc]
    except BrokenProcessPool:
        raise UserError(
            "a process that trains heads was killed, as systems do when memory runs out; --num_processes 1 needs least"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _scores(trial: Trial, labels: Sequence[str], videos: Sequence[VideoFeatures]) -> _Scores:
    module = fit_head(trial.experiment, labels, [videos[place] for place in trial.train])
    return scores_of(module, labels, [videos[place] for place in trial.test])


# In a process of the pool

_given: tuple[Sequence[str], Sequence[VideoFeatures]] = ((), ())


def _begin(shared: bytes) -> None:
    global _given
    work_for_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which a pool that has lost a process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _given = pickle.loads(shared)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _arrays(trial: Trial) -> list[np.ndarray]:
    return [part.numpy() for part in _scores(trial, *_given)]
