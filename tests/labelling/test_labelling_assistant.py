"""The assistant: what it offers before anything is learned, and its processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import DecodeConfig
from pipeline.labelling.assistant import Assistant
from pipeline.labelling.messages import News
from pipeline.labelling.proposals import Offer
from pipeline.labelling.store import LabelStore
from tests.labelling.conftest import LabelPage
from tests.videos import encode

MakePage = Callable[[Path], LabelPage]


def test_what_next_knows_of_videos_that_are_looked_at_meanwhile(make_page: MakePage, five_videos: Path) -> None:
    label = make_page(five_videos)
    first, second = sorted(path.name for path in five_videos.glob("*.mp4"))[:2]
    label.draft(first, ("?", 0.2, 1.0, 0.0))
    assert label.assistant.next_offer() == Offer(first, 0.2, 1.0, "something moves")
    assert label.assistant.next_offer() is None
    label.draft(second, ("?", 0.4, 1.2, 0.0))
    assert label.assistant.next_offer() == Offer(second, 0.4, 1.2, "something moves")
    assert label.assistant.next_offer() is None
    again = Offer(first, 0.2, 1.0, "it looks new")
    for _ in range(2):  # what was passed over may be offered after the next learning
        label.offer(again)
        assert label.assistant.next_offer() == again
        label.assistant._last_offer = None
        assert label.assistant.next_offer() is None


def test_it_is_busy_until_every_video_has_been_looked_at(make_page: MakePage, five_videos: Path) -> None:
    label = make_page(five_videos)
    names = list(label.store.videos)
    assert label.assistant.status()["state"] == "embedding"
    label.tell(News("bad", names[0], words="it cannot be read"))
    for name in names[1:]:
        assert label.assistant.status()["state"] == "embedding"
        label.tell(News("embedded", name))
    assert label.assistant.status()["state"] == "idle"


@pytest.mark.parametrize(
    ("news", "words"),
    [
        (
            News("learned", seconds={"training": 1.5, "offers": 0.5}, figures={"F1@25": 0.5}),
            "learned in 2.0 s; figures are of videos that were held out",
        ),
        (News("failed", words="nothing is labelled yet"), "nothing is labelled yet"),
    ],
)
def test_what_a_learning_came_to_is_still_told_when_the_last_video_has_been_looked_at(
    make_page: MakePage, five_videos: Path, news: News, words: str
) -> None:
    label = make_page(five_videos)
    *names, last = list(label.store.videos)
    for name in names:
        label.tell(News("embedded", name))
    label.tell(news)
    label.tell(News("embedding", last, share=0.5))
    assert label.assistant.status()["words"] == f"looking at {last}: 50%; 4 done"
    label.tell(News("embedded", last))
    assert label.assistant.status()["words"] == words


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process ignores is read in /proc")
def test_processes_that_ignore_signals_end_with_the_page(tmp_path: Path) -> None:
    encode(tmp_path, "bframes.avi")
    store = LabelStore(tmp_path)
    assistant = Assistant(store, DecodeConfig())
    while not all(ignores_terminate(process.pid) for process in assistant._processes):
        time.sleep(0.02)
    assistant.close()
    assert not any(process.is_alive() for process in assistant._processes)
    store.close()


def ignores_terminate(pid: int) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn")]
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
