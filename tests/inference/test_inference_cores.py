"""A batch in pieces gives what it gives whole, and torch's settings stay as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from pipeline.inference.cores import CorePool


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 31, 32, 64])
def test_the_pieces_make_the_whole(count: int) -> None:
    seen: list[tuple[int, int, str]] = []

    def double(batch: torch.Tensor) -> torch.Tensor:
        seen.append((len(batch), torch.get_num_threads(), threading.current_thread().name))
        return 2 * batch

    pool, batch = CorePool(2), torch.arange(3.0 * count).reshape(count, 3)
    assert torch.equal(pool.map(double, batch), 2 * batch)
    assert torch.get_num_threads() == 2
    assert sum(size for size, _, _ in seen) == count
    if count < 4:
        assert [threads for _, threads, _ in seen] == [2]
    else:
        assert [threads for _, threads, _ in seen] == [1] * (2 if count < 32 else 4)
    pool.close()
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [2]


def test_one_core_takes_the_batch_whole() -> None:
    sizes: list[int] = []

    def note(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch

    CorePool(1).map(note, torch.zeros(64))
    assert sizes == [64]


def test_calls_keep_their_order_and_errors_come_out() -> None:
    pool = CorePool(2)
    assert pool.each([partial(int, "3"), partial(int, "4")]) == [3, 4]
    pool.map(torch.clone, torch.zeros(8))
    assert pool.each([partial(int, str(number)) for number in range(9)]) == list(range(9))
    with pytest.raises(ValueError, match="x"):
        pool.each([partial(int, "1"), partial(int, "x")])
    pool.close()
