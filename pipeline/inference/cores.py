"""A large batch on a CPU: a piece for each core, instead of each operation spread over all cores.

The operations of a mobile network are so short that threads which share one spend much of their time waiting for each
other, and all of them wait when another program takes a core for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier
from typing import Any, TypeVar

from pipeline.embedding.arrays import Features, joined

T = TypeVar("T")

# Fewer frames than this for each core are not worth the hand-over.
_MIN_FRAMES_A_CORE = 2
# From this many frames for each core on, a core gets two pieces, one after the other: decoders that run meanwhile slow
# some pieces down, and then the core that is done first takes over.
_MIN_FRAMES_FOR_TWO_PIECES = 16


class CorePool:
    """Calls a function on pieces of a batch at the same time.

    Args:
        num_cores: threads at most; unset: as many as torch uses. With 1 the batch stays whole, and no torch is needed.
    """

    def __init__(self, num_cores: int | None = None) -> None:
        self._num_cores = num_cores or _num_threads()
        self._pool: ThreadPoolExecutor | None = None  # made when first needed

    def map(self, function: Callable[[Any], Features], batch: Any) -> Features:
        """Return the function of ``batch [n, ...]``, computed in pieces; it must treat each of the n alone. The pieces
        depend on nothing but n."""
        num_pieces = min(self._num_cores, len(batch) // _MIN_FRAMES_A_CORE)
        if num_pieces < 2:
            return function(batch)
        if len(batch) >= _MIN_FRAMES_FOR_TWO_PIECES * self._num_cores:
            num_pieces *= 2
        if self._pool is None:
            self._pool = _start(self._num_cores)
        edges = [len(batch) * piece // num_pieces for piece in range(num_pieces + 1)]
        return joined(list(self._pool.map(function, [batch[low:high] for low, high in pairwise(edges)])))

    def each(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The answers of independent calls. At the same time only where ``map`` has been worth it."""
        if self._pool is None or len(calls) < 2:
            return [call() for call in calls]
        return list(self._pool.map(lambda call: call(), calls))

    def close(self) -> None:
        """Ends the threads; new ones come when they are needed again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()


def _start(num_cores: int) -> ThreadPoolExecutor:
    """Threads in each of which torch's operations use that thread alone. The setting is the thread's own, and also what
    later threads begin with, so that is put back."""
    import torch  # there already: with one core, as without torch, no pool is started

    ready = Barrier(num_cores + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the setting of all: before ours, not after
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(num_cores, thread_name_prefix="clipgru-core", initializer=begin)
    for _ in range(num_cores):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(num_cores)
    return pool
