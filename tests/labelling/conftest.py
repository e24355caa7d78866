"""A folder of small videos, and the labelling page over it, without the processes that learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pipeline.labelling import assistant as assistant_module
from pipeline.labelling.assistant import Assistant
from pipeline.labelling.command import open_page
from pipeline.labelling.messages import News, VideoDrafts
from pipeline.labelling.proposals import Offer
from pipeline.labelling.store import LabelStore
from pipeline.options import LabelOptions
from pipeline.serving.server import PageServer
from tests.videos import encode

KINDS = ("bframes.avi", "h264.ts", "hevc.mp4", "vp9.webm", "mpeg4.mp4")


class LabelPage:
    """The page over a folder.

    Attributes:
        jobs: what the learner was asked for.
    """

    def __init__(self, folder: Path, server: PageServer, assistant: Assistant, jobs: list[object]) -> None:
        self.folder, self.server, self.assistant, self.jobs = folder, server, assistant, jobs
        self.url = server.url

    def tell(self, news: News) -> None:
        """News as from a process."""
        with self.assistant._lock:
            self.assistant._take(news)

    def draft(self, video: str, *segments: tuple[str, float, float, float]) -> None:
        labels = ("walk", "run", "background")
        scores = np.full((10, 3), 85, np.uint8)
        self.tell(News("drafts", video, drafts=VideoDrafts(labels, 4.0, scores, segments)))

    def offer(self, *offers: Offer) -> None:
        self.tell(News("learned", seconds={"training": 1.5, "offers": 0.1}, figures={"F1@25": 0.5}, offers=offers))

    def lines(self) -> list[str]:
        path = self.folder / "manifest.csv"
        return path.read_text().splitlines()[1:] if path.exists() else []

    @property
    def store(self) -> LabelStore:
        return self.server.site._store


@pytest.fixture(scope="session")
def five_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five containers, each picture of which carries its number; those that this FFmpeg can write."""
    folder = tmp_path_factory.mktemp("five")
    for name in KINDS:
        encode(folder, name)
    return folder


@pytest.fixture
def make_page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], LabelPage]]:
    """Opens the page over a folder; it is closed at the end."""
    stack, jobs = ExitStack(), list[object]()
    found: list[Assistant] = []

    def started(context: object, target: object, *args: object) -> tuple[object, object]:
        from multiprocessing import Pipe

        ours, theirs = Pipe()
        stack.callback(theirs.close)
        return ours, _Process()

    class _Process:
        def is_alive(self) -> bool:
            return True

        def kill(self) -> None:
            pass

        def join(self, timeout: float | None = None) -> None:
            pass

    begin = Assistant.__init__

    def kept(self: Assistant, *args: object, **settings: object) -> None:
        found.append(self)
        begin(self, *args, **settings)

    monkeypatch.setattr(Assistant, "__init__", kept)
    monkeypatch.setattr(assistant_module, "_started", started)
    monkeypatch.setattr(assistant_module, "_send", lambda pipe, message: jobs.append(message))

    def make(folder: Path) -> LabelPage:
        server = open_page(folder, LabelOptions(), stack, "127.0.0.1", 0)
        return LabelPage(folder, server, found[-1], jobs)

    yield make
    stack.close()
