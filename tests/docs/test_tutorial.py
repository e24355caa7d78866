"""The tutorial, word by word: its commands in their order, and on the labelling page the keys that it tells of."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import av
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.files.stopping import StopRequest
from pipeline.labelling import assistant, command, worker
from pipeline.labelling.stretches import Span
from pipeline.learning import timelines
from tests.browsing import find_chromium
from tests.docs.test_docs import commands_in
from tests.newcomer import Labeller, Truth
from tests.ports import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PATIENCE_SECONDS = 60
COLOURS = {"red": (210, 60, 50), "green": (60, 190, 80)}
HAPPENINGS = {
    "monday.mp4": [("red", 2.0, 4.0), ("green", 6.0, 8.0)],
    "tuesday.avi": [("green", 1.5, 3.5), ("red", 6.5, 9.0)],
    "friday.mkv": [("red", 3.0, 5.0), ("green", 7.0, 8.5)],
    "long_video.mp4": [("green", 2.0, 4.0)],
}


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Truth:
    """Changes into a folder with my_videos, three videos without a label, and long_video.mp4; the times that only a
    person knows."""
    monkeypatch.chdir(tmp_path)
    Path("my_videos").mkdir()
    found = {name: [Span(*happening) for happening in happenings] for name, happenings in HAPPENINGS.items()}
    for name, spans in found.items():
        write_blocks(Path(name) if name == "long_video.mp4" else Path("my_videos") / name, spans)
    return found


def write_blocks(path: Path, spans: Sequence[Span], seconds: float = 10.0, fps: int = 8) -> None:
    """A grey room, through which a block of a colour goes to and fro while it happens."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for place in range(round(seconds * fps)):
            image, now = np.full((64, 64, 3), 120, np.uint8), place / fps
            for span in spans:
                if span.start_seconds <= now < span.end_seconds:
                    left = round(20 + 20 * np.sin(5 * now))
                    image[20:44, left : left + 24] = COLOURS[span.label]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


class ThreadForProcess:
    """Works for the labelling page as its processes do. This process has loaded torch already."""

    def __init__(self, target: Callable[..., None], *args: object) -> None:
        self.ours, theirs = multiprocessing.Pipe()
        self._thread = threading.Thread(target=target, args=(theirs, *args), daemon=True)
        self._thread.start()
        self.is_alive, self.join = self._thread.is_alive, self._thread.join

    def kill(self) -> None:
        self.join(PATIENCE_SECONDS)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[StopRequest]:
    """The page's threads do what its processes would, in few steps; what it hears for ctrl-c."""
    found: list[StopRequest] = []

    class Noted(StopRequest):
        def __init__(self) -> None:
            super().__init__()
            found.append(self)

    def started(context: object, target: Callable[..., None], *args: object) -> tuple[object, object]:
        thread = ThreadForProcess(target, *args)
        return thread.ours, thread

    monkeypatch.setattr(command, "StopRequest", Noted)
    monkeypatch.setattr(assistant, "_started", started)
    monkeypatch.setattr(worker, "_begin", lambda niceness: None)
    monkeypatch.setattr(timelines, "_NUM_STEPS", 40)
    return found


@pytest.fixture
def browser_if_there(request: pytest.FixtureRequest) -> Browser | None:
    """The machine's Chromium; without one the page's server is asked as the page asks it."""
    is_asked_for = find_chromium() or os.environ.get("CLIPGRU_BROWSER") == "required"
    return request.getfixturevalue("browser") if is_asked_for else None


def test_the_tutorial_word_by_word(
    truth: Truth, stops: list[StopRequest], browser_if_there: Browser | None, capsys: pytest.CaptureFixture[str]
) -> None:
    check, label, predict, webcam = commands_in(TUTORIAL)
    run(check, capsys)
    with served(label) as url:
        if browser_if_there:
            label_by_keys(browser_if_there, url, truth)
        else:
            label_over_http(url, truth)
        stops[0].signal_number = signal.SIGINT
    assert Path("my_videos/manifest.csv").read_text().count("\n") > 5
    run(predict, capsys)
    for name in ("my_videos/model.safetensors", "out/long_video.html", "timeline.csv"):
        assert Path(name).stat().st_size > 0
    with served(f"{webcam} --seconds 6") as url:
        if browser_if_there:
            watch(browser_if_there, url)
        else:
            wait_for_answer(url)


def run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"


@contextmanager
def served(command: str) -> Iterator[str]:
    """The page's address, at a free port. The command runs in a thread, and must come to its end by itself."""
    port, codes = free_port(), list[int]()
    words = [word for word in shlex.split(command)[1:] if word != "--serve"]
    thread = threading.Thread(target=lambda: codes.append(main([*words, "--serve", f"127.0.0.1:{port}"])), daemon=True)
    thread.start()
    yield address(port)
    thread.join(PATIENCE_SECONDS)
    assert codes == [0]


def address(port: int) -> str:
    """The page's, once it answers."""
    url = f"http://127.0.0.1:{port}/"
    wait_until(lambda: answers(url))
    return url


def answers(url: str) -> bool:
    try:
        urlopen(url).close()
    except OSError:
        return False
    return True


# With a browser


def label_by_keys(browser: Browser, url: str, truth: Truth) -> None:
    """What is offered, Learn, drafts, Learn again."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        labeller = Labeller(page, truth)
        work = labeller.work
        labeller.label_offers(lambda: work.num_offers >= 4)
        labeller.learn()
        labeller.correct_drafts(lambda: work.num_drafts >= 2)
        labeller.open_next_video()  # unless what was offered last lies in the last one
        labeller.label_offers(lambda: work.num_offers >= 5)
        assert "F1@25, held out" in labeller.learn()
        assert work.num_keys > 30


def watch(browser: Browser, url: str) -> None:
    from playwright.sync_api import expect

    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        source = page.get_by_role("article")
        expect(source.locator(".state")).to_have_text("Live")
        expect(source.locator(".picture img")).to_be_visible()
        expect(source.locator(".top li").first).to_contain_text("%")
        page.get_by_role("button", name="Quit…").press("Enter")
        page.get_by_role("dialog").get_by_role("button", name="Quit").press("Enter")
        expect(page.locator("#connection")).to_have_text("Ended")


# Without one


def label_over_http(url: str, truth: Truth) -> None:
    """Each video's first stretches and the rest as background, Learn."""
    for number, video in enumerate(folder_of(url)["videos"]):
        spans = [[span.label, span.start_seconds, span.end_seconds] for span in truth[video["name"]]]
        edits = [{"id": None, "version": None, "to": span} for span in spans]
        ask(url, "changes", {"video": number, "who": "me", "edits": edits, "rest": "background"})
    ask(url, "learn", {"video": 0})
    wait_until(lambda: folder_of(url)["learning"]["words"].startswith("learned in"))


def wait_for_answer(url: str) -> None:
    wait_until(lambda: any(source["top"] for source in json.load(urlopen(f"{url}status.json"))["sources"]))


def folder_of(url: str) -> Any:
    return json.load(urlopen(f"{url}folder.json"))


def ask(url: str, path: str, values: dict[str, Any]) -> None:
    with urlopen(f"{url}events") as events:
        (token,) = re.findall(r'"token": "(.*?)"', next(line.decode() for line in events if b'"token"' in line))
    headers = {"X-Clipgru-Token": token, "Content-Type": "application/json"}
    urlopen(Request(f"{url}{path}", json.dumps(values).encode(), headers)).close()


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(PATIENCE_SECONDS * 10):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


# The timed way


def test_the_timed_way_through_the_tutorial(monkeypatch: pytest.MonkeyPatch, truth: Truth) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    from benchmarks.newcomer import Step, reading_seconds, verdict
    from check_tutorial import choose_videos, clipgru_commands, install_commands

    assert install_commands(TUTORIAL) == ["make venv", "source .venv/bin/activate"]
    assert clipgru_commands(TUTORIAL) == commands_in(TUTORIAL)
    assert 60 < reading_seconds(TUTORIAL) < 360
    steps = [Step("make venv", 120.0), Step("a", 60.0)]
    assert verdict(steps) == "3.0 minutes, less than twenty."
    assert "MORE than twenty" in verdict([*steps, Step("b", 1200.0)])
    assert verdict([*steps, Step("b", 1.0, 2)]) == "Failed at `b`."
    rows = [f"{name},{s.label},{s.start_seconds},{s.end_seconds}" for name, spans in truth.items() for s in spans]
    Path("manifest.csv").write_text("\n".join(["path,label,start_seconds,end_seconds", *rows]))
    videos = choose_videos(Path())
    assert [path.name for path in (*videos.labelled, videos.last)] == list(HAPPENINGS)
    assert videos.truth == truth
