"""Loaders whose workers cannot keep a run waiting for ever: transfer of batches, and errors for lost workers.

torch's workers hand batches over in /dev/shm. A container has 64 MB of it unless it is given more, and a worker that
finds no room there loses its batch, for which the trainer waits. Here a batch comes in a file in memory (memfd, Linux),
which is as quick and bounded by nothing but the memory; what is needed of /dev/shm are a few locks.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.datasets.videos import BadVideo, ClipBatch, Sample, collate
from pipeline.decode.child import how_it_ended
from pipeline.errors import UserError

_TAKEN = b"1"
_END_SECONDS = 0.5
_KILL_SECONDS = 2.0
_LOST = re.compile(r"DataLoader (?:timed out|worker \(pid)")
_SIGNAL = re.compile(r"killed by signal: (.*?)\. ")


def can_send_in_memory() -> bool:
    """True if other processes of ours can open a file in memory: on Linux, where /proc shows processes as they are."""
    here = Path("/proc/self")
    if not hasattr(os, "memfd_create") or not here.is_symlink():
        return False
    return os.readlink(here) == str(os.getpid()) and here.stat().st_uid == os.geteuid()


class InMemory:
    """Collates samples in a worker. The result arrives in the trainer as a ``ClipBatch``."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}  # descriptor -> bytes of the batch in it

    def __call__(self, samples: Sequence[Sample]) -> _Sent:
        self._close_taken()
        batch = collate(samples)
        content = batch.frames.contiguous().view(torch.uint8).flatten().numpy()
        descriptor = os.memfd_create("clipgru-batch")
        self._files[descriptor] = content.nbytes
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(content.data)
            stream.write(b"0")  # becomes _TAKEN
        return _Sent(batch, descriptor)

    def _close_taken(self) -> None:
        for descriptor, size in list(self._files.items()):
            if os.pread(descriptor, 1, size) == _TAKEN:
                os.close(descriptor)
                del self._files[descriptor]


class _Sent:
    """A batch on its way."""

    def __init__(self, batch: ClipBatch, descriptor: int) -> None:
        frames, labels, rows = batch.frames, batch.labels.tolist(), batch.rows.tolist()
        self._facts = os.getpid(), descriptor, frames.dtype, tuple(frames.shape), labels, rows, batch.bad

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, self._facts


def _receive(
    process: int,
    descriptor: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    labels: list[int],
    rows: list[int],
    bad: tuple[tuple[int, BadVideo], ...],
) -> ClipBatch:
    # Not sent through a socket, which a worker that hangs would not serve.
    try:
        ours = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR)
    except OSError as error:
        raise RuntimeError(f"DataLoader worker (pid {process}) is gone") from error  # as torch says it
    try:
        content = mmap.mmap(ours, 0)
    finally:
        os.close(ours)
    content[-1:] = _TAKEN
    frames = torch.empty(shape, dtype=dtype)
    if len(content) > 1:
        frames = torch.frombuffer(content, dtype=torch.uint8, count=len(content) - 1).view(dtype).reshape(shape)
    return ClipBatch(frames, _int64(labels), _int64(rows), bad)


def _int64(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


class ClipLoader(DataLoader[Sample]):
    """A loader of ``ClipBatch``es.

    Raises:
        UserError: while it is read: no batch comes in its ``timeout``, a worker ends, or none can be started.
    """

    def __iter__(self) -> Any:
        try:
            if self.num_workers:
                _check_locks(self.num_workers)
            batches: Any = super().__iter__()
        except (UserError, RuntimeError) as error:  # workers that hang since the last epoch
            batches = _raising(error)
        return _watched(batches, getattr(self._iterator or batches, "_workers", ()))


def _check_locks(num_workers: int) -> None:
    """Make as many locks as torch is about to, a page of /dev/shm each: its own failure leaves a trace of another."""
    try:
        [multiprocessing.Lock() for _ in range(8 + 3 * num_workers)]
    except OSError as error:
        raise UserError(
            f"the workers of the loader cannot be started ({error.strerror}): /dev/shm may be full or missing; make "
            "room there (docker run --shm-size), or set data.num_workers 0"
        ) from error


def _raising(error: Exception) -> Iterator[Any]:
    """Yield nothing and raise the error when read: Lightning has no place for an error before."""
    yield from ()
    raise error


def _watched(batches: Any, workers: Sequence[BaseProcess]) -> Iterator[Any]:
    with lost_workers():  # torch's signal may also come while the first error is dealt with
        try:
            yield from batches
        except (Exception, KeyboardInterrupt) as error:
            codes = _end(workers, _END_SECONDS if _LOST.match(str(error)) else 0.0)
            _raise_lost(error, how_it_ended(codes[0]) if codes else "")
            raise


def _end(workers: Sequence[BaseProcess], wait_seconds: float) -> list[int]:
    """Kills the workers: those that hang would keep this process from ending. Returns the exit codes of those that had
    ended by themselves, after a wait for one that is about to."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None  # torch's would raise in our midst
    try:
        ended = wait([worker.sentinel for worker in workers], wait_seconds)
        for worker in workers:
            if worker.sentinel in ended:
                worker.join(_KILL_SECONDS)  # its files are closed a moment before its exit code is there
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(_KILL_SECONDS)
    finally:
        if is_main:
            signal.signal(signal.SIGCHLD, before)
    return codes


@contextmanager
def lost_workers() -> Iterator[None]:
    """Says in a sentence that a worker ended or hangs. For whatever reads a loader: the end of a worker is told by a
    signal, which may arrive anywhere in its loop.

    Raises:
        UserError: with what to do.
    """
    try:
        yield
    except RuntimeError as error:
        found = _SIGNAL.search(str(error))
        names = {signal.strsignal(number): number for number in signal.Signals}
        _raise_lost(error, how_it_ended(-names[found[1]]) if found and found[1] in names else "ended")
        raise


def _raise_lost(error: BaseException, how: str) -> None:
    """Raise ``UserError`` if the error is torch's report of lost workers."""
    message = str(error)
    if not isinstance(error, RuntimeError) or not _LOST.match(message):
        return
    cure = "clipgru check names a video that does so, and decode.isolate true ends its decoding alone"
    if "timed out" in message:
        seconds = float(re.findall(r"\d+(?:\.\d+)?", message)[0])
        raise UserError(
            f"no batch of videos came for {seconds:g} s (data.timeout_seconds): a video hangs its decoder, a disk does "
            f"not answer, memory or /dev/shm is full, or it takes longer. {cure}; else raise data.timeout_seconds"
        ) from error
    raise UserError(
        f"a process that decodes {how or 'ended'}. Where memory is short the system does that: set data.num_workers or "
        f"data.batch_size lower. A video may also crash its decoder: {cure}"
    ) from error
