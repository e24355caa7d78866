"""Reading ahead: the same items, never too many, and a thread that ends with its reader."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from pipeline.inference.ahead import read_ahead


class Source:
    """Numbers from 0, with a record of how many were made and whether it was closed."""

    def __init__(self, num_items: int, error: Exception | None = None) -> None:
        self.num_items, self.error = num_items, error
        self.num_made = 0
        self.is_closed = False

    def items(self) -> Generator[int, None, None]:
        try:
            for number in range(self.num_items):
                self.num_made += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.is_closed = True


def num_decoding_threads() -> int:
    return sum(thread.name == "clipgru-decode" for thread in threading.enumerate())


@pytest.mark.parametrize("num_ahead", [1, 3, 100])
def test_the_items_come_in_order(num_ahead: int) -> None:
    source = Source(20)
    assert list(read_ahead(source.items(), num_ahead)) == list(range(20))
    assert source.is_closed
    assert num_decoding_threads() == 0


def test_it_is_never_further_ahead_than_allowed() -> None:
    source = Source(1000)
    for number in read_ahead(source.items(), 4):
        assert source.num_made <= number + 1 + 4
    assert source.num_made == 1000


def test_an_error_comes_after_the_items_before_it() -> None:
    source = Source(3, error=ValueError("at the end"))
    seen = []
    with pytest.raises(ValueError, match="at the end"):
        seen.extend(read_ahead(source.items(), 2))
    items = read_ahead(Source(3, error=ValueError("at the end")).items(), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="at the end"):
        next(items)
    assert source.is_closed
    assert num_decoding_threads() == 0


def test_closing_ends_the_thread_and_closes_the_source() -> None:
    source = Source(1_000_000)
    items = read_ahead(source.items(), 5)
    assert next(items) == 0
    items.close()
    assert source.is_closed
    assert num_decoding_threads() == 0
    assert source.num_made <= 7
