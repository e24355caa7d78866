"""What the live page does with those who mean no good: who say nothing, too little, too much, or nonsense."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection

import pytest

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.options import WebcamOptions
from pipeline.serving import connections, site
from pipeline.streaming.serve import PageView
from tests.streaming.test_streaming_serve import ONE, is_soon, port_of, status_of, watch

PATIENCE_SECONDS = 30.0


@pytest.fixture
def view() -> Iterator[PageView]:
    view = PageView(port=0)
    view.show([ONE.status(0)])
    yield view
    view.close()


@contextmanager
def connected(view: PageView) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port_of(view)), timeout=PATIENCE_SECONDS) as client:
        yield client


def said(view: PageView, request: bytes) -> bytes:
    """All of the answer to a request after which nothing more is to come."""
    with connected(view) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def is_cut_off(client: socket.socket, drop: bytes = b"") -> bool:
    """Whether the server ends the connection, whatever is sent meanwhile, before all patience is over."""
    end = time.monotonic() + PATIENCE_SECONDS
    client.settimeout(0.02)
    while time.monotonic() < end:
        with suppress(TimeoutError):
            try:
                client.sendall(drop)
                if not client.recv(65_536):
                    return True
            except (ConnectionResetError, BrokenPipeError):
                return True
    return False


def test_silent_connections_give_way(view: PageView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    held = view._server._server.server_state.connections
    with ExitStack() as stack, watch(view) as watcher:
        silent = [stack.enter_context(connected(view)) for _ in range(70)]
        assert is_soon(lambda: len(held) <= 20)
        assert status_of(view, "/health") == 200
        assert len(held) <= 21
        assert is_cut_off(silent[0])
        view.show([ONE.status(1)])
        watcher.wait_for("sources")  # who watches is left alone
        silent[-1].settimeout(0.05)
        with pytest.raises(TimeoutError):  # and so is the newest
            silent[-1].recv(1)


@pytest.mark.parametrize(
    ("request_", "drop"),
    [
        (b"", b""),
        (b"", b"G"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),  # one request, and then nothing
        (b"POST /commands/quit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n", b"x"),
        (b"POST /commands/quit HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x"),
    ],
)
def test_a_connection_that_does_not_come_to_the_point_is_cut_off(
    view: PageView, monkeypatch: pytest.MonkeyPatch, request_: bytes, drop: bytes
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    with connected(view) as client:
        client.sendall(request_)
        assert is_cut_off(client, drop)
    assert status_of(view, "/health") == 200


def test_a_watcher_who_does_not_read_is_cut_off_and_one_who_asks_on_is_not(
    view: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(site, "UPDATE_SECONDS", 0.001)
    other = HTTPConnection("127.0.0.1", port_of(view), timeout=PATIENCE_SECONDS)
    with connected(view) as client, closing(other):
        client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        end, step = time.monotonic() + PATIENCE_SECONDS, 0
        while view._server.site._num_watchers == 0 and time.monotonic() < end:
            time.sleep(0.01)
        while view._server.site._num_watchers and time.monotonic() < end:
            step += 1
            view.show([replace(ONE.status(step), message="x" * 50_000)])
            other.auto_open = step == 1  # the same connection all the time
            other.request("GET", "/health")
            assert other.getresponse().read().startswith(b'{"status":"ok"')
            time.sleep(0.02)
        assert view._server.site._num_watchers == 0
        assert step > 10


def test_the_number_of_watchers_is_kept_when_many_come_at_once(view: PageView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "MAX_WATCHERS", 3)
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(view)) for _ in range(30)]
        barrier, answers = threading.Barrier(len(clients)), list[bytes]()

        def ask(client: socket.socket) -> None:
            barrier.wait()
            client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answers.append(client.recv(12))

        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 27
        assert view._server.site._num_watchers == 3
    assert is_soon(lambda: view._server.site._num_watchers == 0)


HOST = b"\r\nHost: localhost\r\n"
TOKEN = b"X-Clipgru-Token: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /pictures/" + b"9" * 6000 + b".jpg HTTP/1.1" + HOST + b"\r\n", 400),
        (b"GET /pictures/-1.jpg HTTP/1.1" + HOST + b"\r\n", 400),
        (b"GET /pictures/%D9%A1.jpg HTTP/1.1" + HOST + b"\r\n", 400),
        (b"GET /pictures/1.jpg/ HTTP/1.1" + HOST + b"\r\n", 404),
        (b"GET /status.json/ HTTP/1.1" + HOST + b"\r\n", 404),
        (b"GET /%ff%fe%00%zz% HTTP/1.1" + HOST + b"\r\n", 404),
        (b"GET /commands/%00 HTTP/1.1" + HOST + b"\r\n", 405),
        (b"GET //evil/..%2f..%2fetc HTTP/1.1" + HOST + b"\r\n", 404),
        (b"GET http://[ HTTP/1.1" + HOST + b"\r\n", 404),
        (b"GET * HTTP/1.1" + HOST + b"\r\n", 404),
        (b"BREW / HTTP/1.1" + HOST + b"\r\n", 405),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost:port\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost@evil\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1" + HOST + b"X: " + b"x" * 30_000, 400),
        (b"GET / HTTP/1.1" + HOST + b"X: y\r\n" * 4_000, 400),
        (b"GET / HTTP/1.1" + HOST + b"Content-Length: x\r\n\r\n", 400),
        (b"GET /" + b"a" * 30_000 + b" HTTP/1.1" + HOST + b"\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"nonsense\r\n\r\n", 400),
        *(
            (b"POST /commands/quit HTTP/1.1" + HOST + TOKEN + b"Origin: " + origin + b"\r\n\r\n", status)
            for origin, status in (
                (b"http://[", 400),
                (b"http://", 400),
                (b"://localhost", 400),
                (b"http://localhost/path", 400),
                (b"http://a@localhost", 400),
                (b"\xff\xfe", 400),
                (b"x" * 10_000, 400),
                (b"null", 403),
                (b"http://evil", 403),
                (b"http://localhost", 403),  # for want of the token
            )
        ),
    ],
)
def test_nonsense_is_answered_as_such(
    view: PageView, capfd: pytest.CaptureFixture[str], request_: bytes, status: int
) -> None:
    assert said(view, request_)[:12] == b"HTTP/1.1 %d" % status
    assert capfd.readouterr() == ("", "")
    assert list(view.show([ONE.status(1)])) == []


def test_a_proxy_that_changes_the_host() -> None:
    """The page stands at https://cams.example in browsers; the proxy asks as 127.0.0.1 or as itself."""
    port, hosts = 0, ("Cams.example", "cams.example:8443")
    view = PageView("127.0.0.1", port, allowed_hosts=hosts)
    try:
        with watch(view) as watcher:
            token = {"X-Clipgru-Token": str(watcher.token)}
        for host in ("cams.example", "CAMS.example", "cams.example:8443", f"localhost:{port_of(view)}"):
            assert status_of(view, "/health", headers={"Host": host}) == 200
        for host in ("cams.example:1", "evil.example", "sub.cams.example", "cams.example."):
            assert status_of(view, "/health", headers={"Host": host}) == 400
        for origin in ("https://cams.example", "https://cams.example:8443", f"http://localhost:{port_of(view)}"):
            headers = {**token, "Origin": origin, "Host": f"localhost:{port_of(view)}"}
            assert status_of(view, "/commands/pause", "POST", headers) == 202
        for origin in ("https://evil.example", "https://cams.example:1", "https://cams.example.evil"):
            headers = {**token, "Origin": origin, "Host": "cams.example"}
            assert status_of(view, "/commands/quit", "POST", headers) == 403
        assert list(view.show([])) == ["pause"] * 3
    finally:
        view.close()


def test_an_open_page_with_allowed_hosts_answers_under_no_other() -> None:
    view = PageView("0.0.0.0", 0, allow_network=True, allowed_hosts=("cams.example",))
    try:
        assert status_of(view, "/health", headers={"Host": "cams.example"}) == 200
        assert status_of(view, "/health", headers={"Host": "camera-box.lan"}) == 400
        assert status_of(view, "/health") == 200  # a container's own check
    finally:
        view.close()


@pytest.mark.parametrize("host", ["http://cams.example", "*", "", "a b", "cams.example/", "cams.example:port"])
def test_allowed_hosts_are_names(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="write HOST or HOST:PORT"):
        WebcamOptions(serve="127.0.0.1:0", allowed_hosts=(host,))
    assert main(["webcam", "absent.safetensors", "--allowed_hosts=cams.example"]) == 2
    assert "add --serve" in capsys.readouterr().err
