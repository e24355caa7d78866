"""The grabber with captures that stall, break, lie and hang. Waits poll a condition; no test asserts a short time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Condition, Event, active_count

import numpy as np
import pytest

from pipeline.clip import Image
from pipeline.config import StreamingConfig
from pipeline.network import retry_seconds
from pipeline.streaming.captures import Capture, SignalLost, SourceEnded, as_rgb
from pipeline.streaming.grabber import Grabber, SourceEvent
from pipeline.streaming.grid import GridSlot

PATIENCE_SECONDS = 60.0


def picture(number: int = 0) -> Image:
    return np.full((4, 6, 3), number % 256, np.uint8)


class Script:
    """A capture that does what a list says: a picture, None for garbage, an exception, or a call."""

    def __init__(self, steps: list[object]) -> None:
        self.steps = iter(steps)
        self.is_closed = False

    def read(self) -> tuple[Image | None, float]:
        step = next(self.steps, SourceEnded(""))
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
            step = picture()
        time.sleep(0.001)
        return step, time.monotonic()  # type: ignore[return-value]

    def close(self) -> None:
        self.is_closed = True


class Grabbed:
    """A grabber over scripts, one a connection, and all it has told."""

    def __init__(self, scripts: list[list[object] | Exception], **config: float) -> None:
        self.opened: list[Script] = []
        self.events: list[SourceEvent] = []
        self._scripts = iter(scripts)
        settings = {"timeout_seconds": 60.0, "max_retry_seconds": 0.01, "max_gap_seconds": 60.0} | config
        self.slot = GridSlot(1000.0, settings["max_gap_seconds"])
        self.grabber = Grabber(self._open, self.slot, StreamingConfig(**settings), Condition())
        self.grabber.start()

    def _open(self, given_up: Event) -> Capture:
        script = next(self._scripts, SourceEnded(""))
        if isinstance(script, Exception):
            raise script
        self.opened.append(Script(script))
        return self.opened[-1]

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.events += self.grabber.watch(time.monotonic())
            if is_so():
                return
            assert time.monotonic() < deadline, self.events
            time.sleep(0.002)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def release() -> Iterator[Event]:
    """Set at the end, so that hanging reads return."""
    event = Event()
    yield event
    event.set()


def test_pictures_come_in_and_the_newest_stays() -> None:
    grabbed = Grabbed([[picture(k) for k in range(50)]])
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert grabbed.kinds == ["connecting", "live", "ended"]
    assert grabbed.slot.num_in == 50
    tick = grabbed.grabber.take(time.monotonic() + 0.002)  # past the grid frame that first shows the last picture
    assert tick is not None
    assert tick.shot is not None
    assert tick.shot.picture[0, 0, 0] == 49
    assert grabbed.opened[0].is_closed


def test_it_comes_back_after_failures_and_says_so_once() -> None:
    lost = SignalLost("gone")
    grabbed = Grabbed([lost, lost, [picture(), lost], lost, lost, lost, [picture(), picture()]])
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert grabbed.kinds == ["connecting", "stalled", "live", "stalled", "reconnected", "ended"]
    assert [event.message for event in grabbed.events if event.kind == "stalled"] == ["gone", "gone"]
    assert grabbed.slot.num_in == 3
    assert all(script.is_closed for script in grabbed.opened)


def test_garbage_between_pictures_is_counted_and_survived() -> None:
    grabbed = Grabbed([[picture(), None, None, picture(), np.zeros((9, 2, 3), np.uint8), None]])
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert grabbed.kinds == ["connecting", "live", "ended"]
    assert (grabbed.slot.num_in, grabbed.grabber.num_bad) == (3, 3)


def test_nothing_but_garbage_is_a_lost_signal() -> None:
    grabbed = Grabbed([[None] * 1000, [picture()]])
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert grabbed.kinds == ["connecting", "stalled", "live", "ended"]
    assert grabbed.grabber.num_bad == 100


def test_a_read_that_never_returns_is_given_up(release: Event) -> None:
    grabbed = Grabbed([[picture(), release.wait], [picture()] * 3], timeout_seconds=0.5)
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert grabbed.kinds == ["connecting", "live", "stalled", "reconnected", "ended"]
    assert grabbed.slot.num_in == 4
    assert not grabbed.opened[0].is_closed
    release.set()
    grabbed.until(lambda: grabbed.opened[0].is_closed)
    assert grabbed.slot.num_in == 4  # what it brings so late is not wanted


def test_threads_that_hang_are_few(release: Event) -> None:
    before = active_count()
    grabbed = Grabbed([[release.wait]] * 20 + [[picture()]], timeout_seconds=0.3)
    grabbed.until(lambda: len(grabbed.opened) == 4)
    deadline = time.monotonic() + 1.0
    grabbed.until(lambda: time.monotonic() > deadline)
    assert len(grabbed.opened) == 4
    assert active_count() - before <= 4
    assert grabbed.kinds == ["connecting", "stalled"]
    release.set()  # the driver comes to its senses
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert "live" in grabbed.kinds


def test_no_picture_for_long_is_a_stall_within_the_connection(release: Event) -> None:
    grabbed = Grabbed([[picture(), release.wait, picture()]], max_gap_seconds=0.05)
    grabbed.until(lambda: "stalled" in grabbed.kinds)
    release.set()
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert grabbed.kinds == ["connecting", "live", "stalled", "live", "ended"]
    assert len(grabbed.opened) == 1


def test_it_gives_up_only_if_asked_to() -> None:
    grabbed = Grabbed([SignalLost("gone")] * 1000, give_up_seconds=0.2)
    grabbed.until(lambda: "ended" in grabbed.kinds)
    assert grabbed.kinds == ["connecting", "stalled", "ended"]
    assert grabbed.events[-1].is_failure


def test_closing_ends_the_thread() -> None:
    grabbed = Grabbed([[picture()] * 100_000])
    grabbed.until(lambda: "live" in grabbed.kinds)
    connection = grabbed.grabber._current
    assert connection is not None
    grabbed.grabber.close(PATIENCE_SECONDS)
    assert not connection.thread.is_alive()
    assert grabbed.opened[0].is_closed


def test_attempts_become_rarer_up_to_a_limit() -> None:
    assert [retry_seconds(n, 10.0) for n in (1, 2, 3, 4, 5, 6, 7, 100_000)] == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_only_pictures_in_colours_are_pictures() -> None:
    bgr = np.zeros((2, 3, 3), np.uint8)
    bgr[..., 0] = 200
    rgb = as_rgb(bgr)
    assert rgb is not None
    assert rgb[0, 0].tolist() == [0, 0, 200]
    for bad in (None, np.zeros((0, 0, 3), np.uint8), np.zeros((2, 3), np.uint8), np.zeros((2, 3, 3), np.float32)):
        assert as_rgb(bad) is None
