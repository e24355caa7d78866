"""The live page's server, asked over real connections on the loopback: who is told what, and who may press what."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.serving import server, site
from pipeline.streaming import board, web
from pipeline.streaming.serve import PageView
from tests.live import Feeder, LiveSource

DEADLINE_SECONDS = 30.0
ONE, TWO = LiveSource("one", width=64, height=48), LiveSource("two", width=48, height=64)


@pytest.fixture
def view() -> Iterator[PageView]:
    view = PageView(port=0)
    yield view
    view.close()


def port_of(view: PageView) -> int:
    return int(view.url.rstrip("/").rpartition(":")[2])


@contextmanager
def ask(
    view: PageView, path: str, method: str = "GET", headers: dict[str, str] | None = None, host: str = "127.0.0.1"
) -> Iterator[HTTPResponse]:
    connection = HTTPConnection(host, port_of(view), timeout=DEADLINE_SECONDS)
    try:
        connection.request(method, path, headers=headers or {})
        yield connection.getresponse()
    finally:
        connection.close()


def status_of(view: PageView, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> int:
    with ask(view, path, method, headers) as answer:
        return answer.status


class Watcher:
    """Somebody who watches: reads events one by one, and keeps the strips as the page does."""

    def __init__(self, response: HTTPResponse) -> None:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        self._response = response
        self.runs: dict[str, dict[int, dict[str, object]]] = {}
        self.sources: list[dict[str, object]] = []
        self.token = self.wait_for("hello")["token"]

    def next(self) -> tuple[str, object]:
        fields: dict[str, str] = {}
        while line := self._response.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
        name, content = fields["event"], json.loads(fields["data"])
        if name == "sources":
            self._keep(content)
        return name, content

    def _keep(self, sources: list[dict[str, object]]) -> None:
        self.sources = sources
        for source in sources:
            runs = self.runs.setdefault(source["name"], {})
            runs.update({run["number"]: run for run in source["runs"]})
            for number in [number for number in runs if number < source["oldest_run"]]:
                del runs[number]

    def wait_for(self, event: str, accept: Callable[[object], bool] = lambda content: True) -> object:
        while True:
            name, content = self.next()
            if name == event and accept(content):
                return content


@contextmanager
def watch(view: PageView) -> Iterator[Watcher]:
    with ask(view, "/events") as response:
        yield Watcher(response)


def is_soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


# What is served


def test_the_page_is_served_and_asks_nobody_else(view: PageView) -> None:
    kinds = {".html": "html", ".css": "css", ".js": "javascript", ".svg": "svg"}
    for file in (file for module in (site, web) for file in (Path(module.__file__).parent / "page").iterdir()):
        with ask(view, "/" if file.name == "index.html" else f"/{file.name}") as answer:
            text = answer.read().decode()
            assert (answer.status, kinds[file.suffix] in answer.headers["content-type"]) == (200, True)
            assert not re.search(r"(https?:)?//\w+\.", text.replace("http://www.w3.org/2000/svg", ""))
    with ask(view, "/") as answer:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert status_of(view, "/no/such/page") == 404


def test_the_state_in_one_answer(view: PageView) -> None:
    view.show([ONE.status(0), TWO.status(0)])
    view.show([ONE.status(1), replace(TWO.status(1), state="stalled", message="signal lost")])
    with ask(view, "/status.json") as answer:
        one, two = json.load(answer)["sources"]
    assert (one["name"], one["state"], one["label"], one["frames_used"]) == ("one", "live", "waving", 1)
    assert one["top"][0] == {"label": "waving", "score": pytest.approx(ONE.status(1).top[0][1], abs=1e-4)}
    assert one["latency_ms"] == {"p50": 41.7, "p95": 63.2, "p99": 88.9}
    assert (two["state"], two["message"]) == ("stalled", "signal lost")


def test_health_follows_the_loop(view: PageView, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_of(view, "/health") == 200  # the model still loads
    view.show([ONE.status(0)])
    with ask(view, "/health") as answer:
        told = json.load(answer)
        assert (answer.status, told["status"], told["sources"]) == (200, "ok", {"one": "live"})
    monkeypatch.setattr(web, "_STALE_SECONDS", 0.0)
    assert status_of(view, "/health") == 503


# Those who watch


def test_several_watch_and_a_late_one_gets_the_last_minute(view: PageView) -> None:
    with watch(view) as early, watch(view) as other:
        for step in range(700):
            view.show([ONE.status(step), TWO.status(step)])
            if step % 70 == 0:
                time.sleep(0.1)
        with watch(view) as late:
            for watcher in (early, other, late):
                watcher.wait_for("sources", lambda told: told and told[0]["time_seconds"] == 69.9)
            with ask(view, "/status.json") as answer:
                truth = {source["name"]: source["runs"] for source in json.load(answer)["sources"]}
            for watcher in (early, other, late):
                assert {name: list(runs.values()) for name, runs in watcher.runs.items()} == truth
    assert truth["one"][0]["end_seconds"] >= 9.9
    assert truth["one"][0]["start_seconds"] <= 9.9


def test_what_a_watcher_knows_is_not_told_again(view: PageView) -> None:
    for step in range(600):
        view.show([ONE.status(step)])
    with watch(view) as watcher:
        watcher.wait_for("sources")
        assert len(watcher.sources[0]["runs"]) > 20
        view.show([ONE.status(600)])
        watcher.wait_for("sources")
        assert len(watcher.sources[0]["runs"]) <= 2


def test_sources_come_and_go(view: PageView) -> None:
    with watch(view) as watcher:
        for sources in ([ONE], [ONE, TWO], [TWO], []):
            view.show([source.status(0) for source in sources])
            names = [source.name for source in sources]
            told = watcher.wait_for("sources", lambda told, names=names: [source["name"] for source in told] == names)
        assert told == []
        assert status_of(view, "/pictures/1.jpg") == 204


def test_signs_of_life_when_nothing_changes(view: PageView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "BEAT_SECONDS", 0.05)
    with watch(view) as watcher:
        watcher.wait_for("beat")
        watcher.wait_for("beat")


def test_a_slow_watcher_misses_states_and_holds_up_nobody(view: PageView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "UPDATE_SECONDS", 0.001)
    num_states, message = 400, "x" * 50_000  # after some of these the connection is full
    with watch(view) as fast, watch(view) as slow:
        for step in range(num_states):
            view.show([replace(ONE.status(step), message=message)])
            fast.wait_for("sources", lambda told, step=step: told and told[0]["frames_used"] == step)
        seen: list[int] = []
        while seen[-1:] != [num_states - 1]:
            seen += [source["frames_used"] for source in slow.wait_for("sources")]
    assert seen == sorted(set(seen))
    assert len(seen) < num_states / 2  # the fast one saw all of them; what lay waiting for the slow one was bounded


def test_too_many_watchers_are_refused_until_one_leaves(view: PageView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "MAX_WATCHERS", 2)
    with watch(view):
        with watch(view):
            assert status_of(view, "/events") == 503
        assert is_soon(lambda: status_of(view, "/events") == 200)


# Pictures


def test_a_picture_is_encoded_once_for_all_and_for_nobody_never(
    view: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = board.encode_jpeg, []

    def encode_slowly(rgb: NDArray[np.uint8]) -> bytes:
        encoded.append(1)
        time.sleep(0.1)  # so that all ask meanwhile
        return encode(rgb)

    monkeypatch.setattr(board, "encode_jpeg", encode_slowly)
    for step in range(50):
        view.show([ONE.status(step)])
    with watch(view) as watcher:
        watcher.wait_for("sources")
        assert not encoded
        answers: list[bytes] = []

        def fetch() -> None:
            with ask(view, "/pictures/1.jpg") as answer:
                answers.append(answer.read())

        threads = [threading.Thread(target=fetch) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1
    assert encoded == [1]
    decoded = cv2.imdecode(np.frombuffer(answers[0], np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(decoded.astype(int) - ONE.status(49).picture).mean() < 4


def test_a_picture_one_has_is_not_sent_again(view: PageView) -> None:
    view.show([ONE.status(0)])
    with ask(view, "/pictures/1.jpg") as answer:
        tag = answer.headers["etag"]
        assert answer.headers["content-type"] == "image/jpeg"
    assert status_of(view, "/pictures/1.jpg", headers={"If-None-Match": tag}) == 304
    view.show([ONE.status(1)])
    assert status_of(view, "/pictures/1.jpg", headers={"If-None-Match": tag}) == 200


def test_a_source_without_a_picture_has_none(view: PageView) -> None:
    view.show([replace(ONE.status(0), picture=None, state="connecting")])
    assert status_of(view, "/pictures/1.jpg") == 204


# Buttons


def test_what_is_pressed_comes_out_of_show_in_order(view: PageView) -> None:
    assert list(view.show([ONE.status(0)])) == []
    with watch(view) as watcher:
        headers = {"X-Clipgru-Token": watcher.token, "Origin": view.url.rstrip("/")}
        for name in ("pause", "reset", "quit"):
            assert status_of(view, f"/commands/{name}", "POST", headers) == 202
        assert status_of(view, "/commands/explode", "POST", headers) == 404
        assert status_of(view, "/commands/quit", "GET", headers) == 405
    assert list(view.show([ONE.status(1)])) == ["pause", "reset", "quit"]
    assert list(view.show([ONE.status(2)])) == []


def test_presses_that_nobody_fetches_are_bounded(view: PageView) -> None:
    with watch(view) as watcher:
        headers = {"X-Clipgru-Token": watcher.token}
        answers = [status_of(view, "/commands/pause", "POST", headers) for _ in range(web.MAX_COMMANDS + 2)]
    assert answers == [202] * web.MAX_COMMANDS + [503, 503]
    assert len(view.show([])) == web.MAX_COMMANDS


def test_a_foreign_page_cannot_press(view: PageView) -> None:
    with watch(view) as watcher:
        token = {"X-Clipgru-Token": watcher.token}
        for headers in (
            {**token, "Origin": "http://evil.example"},
            {**token, "Origin": "null"},
            {**token, "Origin": "http://127.0.0.1:1"},  # another server of this machine
            {"X-Clipgru-Token": "guessed"},
            {"X-Clipgru-Token": "\xe9"},
            {},
        ):
            assert status_of(view, "/commands/quit", "POST", headers) == 403, headers
    assert list(view.show([])) == []


def test_under_a_foreign_name_nothing_is_answered(view: PageView) -> None:
    view.show([ONE.status(0)])
    for path in ("/", "/events", "/status.json", "/pictures/1.jpg", "/health"):
        assert status_of(view, path, headers={"Host": f"evil.example:{port_of(view)}"}) == 400, path
        assert status_of(view, path, headers={"Host": f"localhost:{port_of(view)}"}) == 200, path


# Starting and stopping


def test_a_host_open_to_others_must_be_meant() -> None:
    with pytest.raises(UserError, match=r"0\.0\.0\.0 can be reached from other machines.*allow_network"):
        PageView("0.0.0.0", port=0)
    view = PageView("0.0.0.0", port=0, allow_network=True)
    try:
        assert status_of(view, "/health", headers={"Host": "camera-box.lan"}) == 200
    finally:
        view.close()


def test_a_taken_port_says_so(view: PageView) -> None:
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port_of(view)}.*taken.*another"):
        PageView(port=port_of(view))


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70_000, "port 70000 does not exist"),
        ("no such host", 0, "no such host"),
        ("192.0.2.1", 0, "not an address of this machine"),
    ],
)
def test_an_address_that_cannot_be_had_says_why(host: str, port: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PageView(host, port, allow_network=True)


def test_ipv6(view: PageView) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    other = PageView("::1", port=0)
    try:
        assert other.url == f"http://[::1]:{port_of(other)}/"
        with ask(other, "/health", host="::1") as answer:
            assert answer.status == 200
    finally:
        other.close()


def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.streaming.web", "pipeline.serving.site"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(UserError, match=r"pip install 'clipgru\[serve\]'"):
        PageView(port=0)


def test_closing_tells_the_watchers_and_frees_port_and_threads() -> None:
    threads = set(threading.enumerate())
    view = PageView(port=0)
    with Feeder(view, [ONE], interval_seconds=0.01), watch(view) as watcher:
        watcher.wait_for("sources", lambda told: told)
        assert status_of(view, "/pictures/1.jpg") == 200
        view.close()
        watcher.wait_for("end")
    view.close()
    assert is_soon(lambda: set(threading.enumerate()) <= threads)
    PageView(port=port_of(view)).close()


def test_closing_does_not_wait_for_a_watcher_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "UPDATE_SECONDS", 0.001)
    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.2)
    threads = set(threading.enumerate())
    view = PageView(port=0)
    with watch(view):
        for step in range(300):
            view.show([replace(ONE.status(step), message="x" * 50_000)])
            time.sleep(0.002)
        view.close()
    assert set(threading.enumerate()) <= threads
    PageView(port=port_of(view)).close()
