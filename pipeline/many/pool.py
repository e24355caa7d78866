"""Workers side by side on this machine."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from queue import SimpleQueue

from pipeline.machine import num_cores
from pipeline.many.job import FileResult, Job
from pipeline.many.worker import PredictionWorker


def run_pool(job: Job, paths: Sequence[str], num_workers: int | None) -> Generator[FileResult, None, None]:
    """The result of every file, as they come. Closing it stops the workers at once.

    Args:
        num_workers: unset: as many as this process may use cores.

    Raises:
        UserError: no file can be worked on like this.
    """
    num_workers = min(num_workers or num_cores(), len(paths))
    workers = [PredictionWorker(job) for _ in range(num_workers)]
    idle: SimpleQueue[PredictionWorker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def process(path: str) -> FileResult:
        worker = idle.get()
        try:
            return worker.process(path)
        finally:
            idle.put(worker)

    left = iter(paths)
    with ThreadPoolExecutor(max(num_workers, 1)) as executor:
        try:
            # Twice as many as workers: none waits while results are written.
            pending = {executor.submit(process, path) for path in islice(left, 2 * num_workers)}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                pending |= {executor.submit(process, path) for path in islice(left, len(done))}
                for future in done:
                    yield future.result()
        finally:
            for worker in workers:
                worker.stop()
