"""The tutorial, word by word: its commands in their order, and on the labelling page the keys that it tells of."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest

from pipeline.cli import main
from pipeline.datasets.motion import MotionSetConfig, make_motion_set
from pipeline.labelling.stretches import Span
from tests.browsing import find_chromium
from tests.docs.test_docs import commands_in
from tests.newcomer import Labeller, Truth
from tests.ports import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PATIENCE_SECONDS = 60
LONG_VIDEOS = MotionSetConfig(0, 0, 0, size_px=48, num_untrimmed=4, untrimmed_seconds=10.0)


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Truth:
    """Changes into a folder with my_videos, three long videos without a label, and long_video.mp4; the times that only
    a person knows."""
    made = make_motion_set(tmp_path / "made", LONG_VIDEOS) / "untrimmed"
    *three, last = sorted(made.glob("*.mp4"))
    own = tmp_path / "own"
    (own / "my_videos").mkdir(parents=True)
    for path in three:
        shutil.copy(path, own / "my_videos")
    shutil.copy(last, own / "long_video.mp4")
    monkeypatch.chdir(own)
    found: dict[str, list[Span]] = {}
    with (made / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            span = Span(row["label"].partition("_")[0], float(row["start_seconds"]), float(row["end_seconds"]))
            found.setdefault(row["path"], []).append(span)
    return found


@pytest.fixture
def browser_if_there(request: pytest.FixtureRequest) -> Browser | None:
    """The machine's Chromium; without one the page's server is asked as the page asks it."""
    is_asked_for = find_chromium() or os.environ.get("CLIPGRU_BROWSER") == "required"
    return request.getfixturevalue("browser") if is_asked_for else None


def test_the_tutorial_word_by_word(
    truth: Truth, browser_if_there: Browser | None, capsys: pytest.CaptureFixture[str]
) -> None:
    check, label, predict, webcam = commands_in(TUTORIAL)
    run(check, capsys)
    with served_apart(label) as url:
        if browser_if_there:
            label_by_keys(browser_if_there, url, truth)
        else:
            label_over_http(url, truth)
    assert Path("my_videos/manifest.csv").read_text().count("\n") > 5
    run(predict, capsys)
    for name in ("my_videos/model.safetensors", "out/long_video.html", "timeline.csv"):
        assert Path(name).stat().st_size > 0
    with served_here(webcam) as url:
        if browser_if_there:
            watch(browser_if_there, url)
        else:
            wait_for_answer(url)


def run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"


def with_port(command: str, port: int) -> list[str]:
    """Its words but the first; the usual port may be taken."""
    words = [word for word in shlex.split(command)[1:] if word != "--serve"]
    return [*words, "--serve", f"127.0.0.1:{port}"]


@contextmanager
def served_apart(command: str) -> Iterator[str]:
    """The page's address. A process of its own, which starts others; ctrl-c ends them all."""
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "pipeline", *with_port(command, port)], env=environment)
    try:
        yield address(port)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0


@contextmanager
def served_here(command: str) -> Iterator[str]:
    """The same in a thread of this process, which has loaded torch; somebody presses Quit, or a few seconds end it."""
    port, codes = free_port(), list[int]()
    words = [*with_port(command, port), "--seconds", "6"]
    thread = threading.Thread(target=lambda: codes.append(main(words)))
    thread.start()
    try:
        yield address(port)
    finally:
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
        assert labeller.open_next_video()
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
    wait_until(lambda: any(source["top"] for source in json.load(urlopen(f"{url}status.json"))))


def folder_of(url: str) -> Any:
    return json.load(urlopen(f"{url}folder.json"))


def ask(url: str, path: str, values: dict[str, Any]) -> None:
    with urlopen(f"{url}events") as events:
        (token,) = re.findall(r'"token": "(.*?)"', next(line.decode() for line in events if b'"token"' in line))
    headers = {"X-Clipgru-Token": token, "Content-Type": "application/json"}
    urlopen(Request(f"{url}{path}", json.dumps(values).encode(), headers)).close()


def wait_until(is_so: Any) -> None:
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
    videos = choose_videos(Path("../made/untrimmed"))
    assert [path.name for path in (*videos.labelled, videos.last)] == ["000.mp4", "001.mp4", "002.mp4", "003.mp4"]
    assert [len(spans) for spans in videos.truth.values()] == [len(spans) for spans in truth.values()]
