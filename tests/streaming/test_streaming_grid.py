"""The time grid of a live source, by a clock that the test turns: as in a file, whatever comes when."""

from __future__ import annotations

import bisect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clip import Image
from pipeline.streaming.grid import LATE_SHARE, GridSlot, Tick

FPS = 8.0
STEP_MS = 125


def image(number: int) -> Image:
    return np.full((1, 1, 3), number % 256, np.uint8)


def shown_at(captured_ms: list[int], index: int) -> int:
    """What a file would show at a grid frame: the last picture whose time is not later (but for the tolerance)."""
    return bisect.bisect_right(captured_ms, (index + LATE_SHARE) * STEP_MS) - 1


def played(captured_ms: list[int], taken_ms: list[int], max_gap: float = 1e9) -> list[tuple[int, Tick | None]]:
    """Puts and takes in the order of the clock; (time, answer) of each take. Picture i was captured at its own time."""
    slot = GridSlot(FPS, max_gap)
    moments = [(time, 0, number) for number, time in enumerate(captured_ms)] + [(time, 1, 0) for time in taken_ms]
    answers = []
    for time, is_take, number in sorted(moments):
        if is_take:
            answers.append((time, slot.take(time / 1000)))
        else:
            slot.put(image(number), time / 1000)
    return answers


@given(
    st.lists(st.integers(1, 4000), max_size=60, unique=True),
    st.lists(st.integers(0, 6000), min_size=1, max_size=40, unique=True),
)
def test_each_grid_frame_taken_shows_what_a_file_would(gaps: list[int], taken_ms: list[int]) -> None:
    captured_ms = [0, *sorted(gaps)]
    last_index, used = -1, -1
    for time, tick in played(captured_ms, taken_ms):
        index = int(np.floor(time / STEP_MS - LATE_SHARE))
        if index <= last_index:
            assert tick is None
            continue
        assert tick is not None
        expected = shown_at(captured_ms, index)
        between = range(last_index + 1, index)
        assert tick.index == index
        assert tick.is_first == (used == -1)
        if expected == used:
            assert tick.shot is None
            assert tick.num_dropped == 0
        else:
            assert tick.shot is not None
            assert round(1000 * tick.shot.captured_seconds) == captured_ms[expected]
            assert tick.num_dropped == sum(shown_at(captured_ms, k) != used for k in between)
        assert tick.num_held == (0 if tick.is_first else len(between))
        last_index, used = index, expected


def test_a_punctual_reader_drops_nothing_and_holds_nothing() -> None:
    captured = [33 * k for k in range(100)]
    ticks = [tick for _, tick in played(captured, [STEP_MS * k + 13 for k in range(26)])]
    assert [tick.index for tick in ticks if tick] == list(range(26))
    assert all(tick and tick.shot and not tick.num_dropped and not tick.num_held for tick in ticks)


def test_a_camera_whose_clock_wavers_shows_each_picture_once() -> None:
    """At the grid's own rate, up to a tenth of a step late."""
    late = [0, 9, 3, 12, 0, 11, 2, 7]
    ticks = [
        tick for _, tick in played([STEP_MS * k + late[k] for k in range(8)], [STEP_MS * k + 13 for k in range(8)])
    ]
    assert all(tick and tick.shot for tick in ticks)


def test_a_slow_camera_is_held() -> None:
    ticks = [tick for _, tick in played([0, 500], [STEP_MS * k + 20 for k in range(5)])]
    assert [tick is not None and tick.shot is not None for tick in ticks] == [True, False, False, False, True]
    assert sum(tick.num_dropped for tick in ticks if tick) == 0


@pytest.mark.parametrize(("back_ms", "is_first"), [(1900, False), (2100, True)])
def test_a_gap_that_is_too_long_begins_anew(back_ms: int, is_first: bool) -> None:
    (_, first), (_, second) = played([0, back_ms], [20, back_ms + 120], max_gap=2.0)
    assert first is not None
    assert second is not None
    assert second.is_first == is_first
    assert second.num_held == (0 if is_first else second.index - 1)


def test_nothing_is_shown_that_is_too_old() -> None:
    slot = GridSlot(FPS, max_gap_seconds=2.0)
    assert slot.take(0.0) is None
    assert not slot.is_stale(100.0)
    slot.put(image(0), 10.0)
    assert not slot.is_stale(11.9)
    assert slot.is_stale(12.1)
    slot.cut()
    assert slot.take(12.2) is None
    assert slot.due_seconds() == float("inf")


def test_times_go_on_after_a_cut_and_pictures_of_before_are_gone() -> None:
    slot = GridSlot(FPS, max_gap_seconds=2.0)
    slot.put(image(0), 10.0)
    first = slot.take(10.02)
    slot.put(image(1), 10.1)
    slot.cut()
    assert slot.take(11.0) is None
    slot.put(image(2), 12.0)
    assert slot.take(12.0) is None  # its grid frame is not due yet: 16 would be at 12.0, and 0.1 of a step later
    tick = slot.take(12.02)
    assert first is not None
    assert tick is not None
    assert tick.shot is not None
    assert (first.index, tick.index, tick.is_first, tick.num_held) == (0, 16, True, 0)
    assert tick.shot.picture[0, 0, 0] == 2
    assert slot.due_seconds() == pytest.approx(10.0 + 17.1 / FPS)
    assert (slot.num_in, slot.num_used) == (3, 2)


def test_it_holds_two_pictures_at_most() -> None:
    import gc
    import weakref

    slot, pictures = GridSlot(FPS, 2.0), []
    for number in range(100):
        picture = image(number)
        pictures.append(weakref.ref(picture))
        slot.put(picture, number / 100)
        del picture
    gc.collect()
    assert sum(reference() is not None for reference in pictures) <= 2
