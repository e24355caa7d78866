"""Loaders whose workers die, hang, or find no room in /dev/shm."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from pipeline.__main__ import console_main
from pipeline.config import DataConfig
from pipeline.datasets.loading import ClipLoader, InMemory, can_send_in_memory, lost_workers
from pipeline.datasets.videos import BadVideo, ClipBatch, Sample, collate
from pipeline.errors import UserError

pytestmark = pytest.mark.skipif(not can_send_in_memory(), reason="needs Linux")


class Made(Dataset[Sample]):
    """Samples that a function makes in a worker."""

    def __init__(self, make: Callable[[int], Sample]) -> None:
        self.make = make

    def __getitem__(self, place: int) -> Sample:
        return self.make(place)


def loader_of(make: Callable[[int], Sample], batches: Sequence[Sequence[int]], **settings: Any) -> ClipLoader:
    settings = {"num_workers": 1, "collate_fn": InMemory(), "timeout": 60.0} | settings
    return ClipLoader(Made(make), batch_sampler=batches, **settings)  # type: ignore[arg-type]


def sample(place: int) -> Sample:
    if place % 5 == 4:
        return Sample(place, 1, None, BadVideo(f"{place}.mp4", "open", "cut off"))
    kind = torch.float32 if place >= 20 else torch.uint8
    frames = torch.arange(2 * 3 * 3 * 4 * 4).reshape(2, 3, 3, 4, 4) + place
    return Sample(place, place % 3, frames.to(kind))


def test_a_batch_that_comes_from_a_worker_is_the_one_made_there() -> None:
    batches = [[0, 1, 2], [4], [3, 4, 5], [20, 21], [9, 14]]
    with lost_workers():
        came = list(loader_of(sample, batches, num_workers=2))
    for batch, places in zip(came, batches, strict=True):
        expected = collate([sample(place) for place in places])
        assert isinstance(batch, ClipBatch)
        for name in ("frames", "labels", "rows"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
            assert getattr(batch, name).dtype == getattr(expected, name).dtype
        assert batch.bad == expected.bad
    came[0].frames[0] = 7  # nobody else has it
    assert torch.equal(came[2].frames, collate([sample(place) for place in batches[2]]).frames)


def test_a_worker_keeps_no_batch_that_was_taken() -> None:
    def count(place: int) -> Sample:
        return Sample(place, len(os.listdir("/proc/self/fd")), torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8))

    numbers = [int(batch.labels) for batch in loader_of(count, [[place] for place in range(40)])]  # type: ignore[attr-defined]
    assert max(numbers) - numbers[0] <= 5


def hang(_: int) -> Sample:
    time.sleep(1000)
    raise AssertionError


def freeze(_: int) -> Sample:
    os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError


def die(_: int) -> Sample:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def late(deed: Callable[[int], Sample]) -> Callable[[int], Sample]:
    """Two good batches first, of a worker that is then gone."""
    return lambda place: sample(place) if place < 2 else deed(place)


@pytest.mark.parametrize("deed", [hang, freeze, late(freeze), late(hang)])
def test_workers_that_hang_end_the_run(deed: Callable[[int], Sample]) -> None:
    loader = loader_of(deed, [[place] for place in range(6)], num_workers=2, timeout=1.0, persistent_workers=True)
    with pytest.raises(UserError, match=r"no batch of videos came for 1 s \(data\.timeout_seconds\)"):
        list(loader)
    workers = loader._iterator._workers  # type: ignore[union-attr]
    assert not any(worker.is_alive() for worker in workers)


def test_workers_that_hang_between_two_epochs_end_the_run() -> None:
    loader = loader_of(sample, [[0], [1]], num_workers=2, timeout=1.0, persistent_workers=True)
    assert len(list(loader)) == 2
    workers = loader._iterator._workers  # type: ignore[union-attr]
    os.kill(workers[0].pid, signal.SIGSTOP)
    epoch = iter(loader)  # Lightning cannot bear an error here
    with pytest.raises(UserError, match="no batch of videos came for 1 s"):
        next(epoch)
    assert not any(worker.is_alive() for worker in workers)


def test_a_worker_that_is_killed_ends_the_run_wherever_that_is() -> None:
    with pytest.raises(UserError, match=r"was ended by SIGKILL.*data\.num_workers"):
        list(loader_of(late(die), [[0], [1], [2], [3]]))

    def train() -> None:
        for _ in loader_of(late(die), [[0], [1], [2], [3]], prefetch_factor=4):
            time.sleep(600)  # a step, in the midst of which a worker is killed

    start = time.monotonic()
    with pytest.raises(UserError, match="was ended by SIGKILL"), lost_workers():
        train()
    assert time.monotonic() - start < 500


def test_a_process_that_fails_does_not_wait_for_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # the command's own would end this process
    monkeypatch.setattr("pipeline.__main__._leave", sys.exit)  # and so would this
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,), daemon=True)
    worker.start()
    os.kill(worker.pid or 0, signal.SIGSTOP)
    try:
        with pytest.raises(SystemExit) as caught:
            console_main(["no such command"])
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert caught.value.code == 2
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="something else"), lost_workers():
        raise RuntimeError("something else")
    with pytest.raises(UserError, match=r"data\.timeout_seconds must be positive"):
        DataConfig(timeout_seconds=0)


def large(place: int) -> Sample:
    return Sample(place, 0, torch.full((1, 8, 3, 256, 256), place, dtype=torch.uint8))


def test_batches_leave_shared_memory_alone() -> None:
    """With a /dev/shm of 128 kB, of which only a thread and what it starts know, batches of 3 MB come through."""
    libc, came, failed = ctypes.CDLL(None, use_errno=True), list[int](), list[str]()

    def run() -> None:
        if libc.unshare(0x00020000):  # CLONE_NEWNS
            failed.append(os.strerror(ctypes.get_errno()))
            return
        private = libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
        if private or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=128k"):
            failed.append(os.strerror(ctypes.get_errno()))
            return
        assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 131_072
        for _ in range(2):
            batches = [[2 * place, 2 * place + 1] for place in range(8)]
            loader = loader_of(large, batches, num_workers=2, prefetch_factor=4, timeout=20)
            came.extend(int(batch.frames[1, 0, 0, 0, 0]) for batch in loader)  # type: ignore[attr-defined]

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        pytest.skip(f"this system gives nobody a /dev/shm of their own ({failed[0]})")
    assert came == [2 * place + 1 for place in range(8)] * 2


def test_a_batch_is_a_file_in_memory() -> None:
    held = list(loader_of(large, [[0], [1]]))
    mapped = Path("/proc/self/maps").read_text()
    assert mapped.count("memfd:clipgru-batch") == len(held)
    assert "/dev/shm/torch" not in mapped
    del held
    assert "memfd:clipgru-batch" not in Path("/proc/self/maps").read_text()


def test_no_room_for_the_locks_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def lock() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Lock", lock)
    with pytest.raises(UserError, match=r"No space left on device.*--shm-size.*data\.num_workers 0"):
        list(loader_of(sample, [[0]]))
    assert len(list(loader_of(sample, [[0]], num_workers=0, timeout=0, collate_fn=collate))) == 1
