"""Videos from the web: none unless allowed, then fetched whole or refused with the cause, and nothing left behind."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, open_video, remote
from pipeline.errors import DecodeError, UserError
from pipeline.prediction import find_videos
from tests.small import small_model

ALLOWED = DecodeConfig(allow_url=True, timeout_seconds=1.0)
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n"


class Site(BaseHTTPRequestHandler):
    """A few good and bad answers to the same kind of request."""

    video = b""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        getattr(self, "give_" + Path(self.path.partition("?")[0]).stem)()

    def answer(self, content: bytes, announced: int | None = None, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        if announced != -1:
            self.send_header("Content-Length", str(len(content) if announced is None else announced))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def give_whole(self) -> None:
        self.answer(self.video)

    def give_unannounced(self) -> None:
        self.answer(self.video, announced=-1)

    def give_moved(self) -> None:
        self.answer(b"", code=302, Location="/whole.mp4")

    def give_sideways(self) -> None:
        self.answer(b"", code=302, Location="file:///etc/hostname")

    def give_ftp(self) -> None:
        self.answer(b"", code=302, Location="ftp://127.0.0.1/whole.mp4")

    def give_missing(self) -> None:
        self.send_error(404)

    def give_cut(self) -> None:
        self.answer(self.video[:1000], announced=len(self.video))

    def give_page(self) -> None:
        self.answer(b"<!DOCTYPE html><html><body>Please log in</body></html>")

    def give_list(self) -> None:
        self.answer(PLAYLIST)

    def give_huge(self) -> None:
        self.answer(self.video, announced=10**12)

    def give_endless(self) -> None:
        self.answer(b"", announced=-1)
        for _ in range(100):
            self.wfile.write(bytes(100_000))

    def give_silence(self) -> None:
        self.server.is_over.wait(20)  # type: ignore[attr-defined]

    def give_halfway(self) -> None:
        self.answer(self.video[:1000], announced=len(self.video))
        self.wfile.flush()
        self.server.is_over.wait(20)  # type: ignore[attr-defined]

    def give_drops(self) -> None:
        self.answer(b"", announced=len(self.video))
        while not self.server.is_over.wait(0.1):  # type: ignore[attr-defined]
            self.wfile.write(b"x")

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


class QuietServer(ThreadingHTTPServer):
    """Clients that hang up are what is tested."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing."""


@pytest.fixture
def site(shared_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Site.video, Site.asked = (shared_data / "odd_videos" / "h264_gop12.mp4").read_bytes(), []
    server = QuietServer(("127.0.0.1", 0), Site)
    server.is_over = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.is_over.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("name", ["whole.mp4", "unannounced.mp4", "moved.mp4", "whole.mp4?next=http://a//b"])
def test_the_same_frames(shared_data: Path, tmp_path: Path, site: str, name: str, isolate: bool) -> None:
    numbers = [249, 0, 100]
    with open_video(shared_data / "odd_videos" / "h264_gop12.mp4") as video:
        truth = video.frames(numbers)
    config = DecodeConfig(allow_url=True, isolate=isolate)
    with VideoOpener(config) as opener, opener.open(f"{site}/{name}") as video:
        assert torch.equal(video.frames(numbers).frames, truth.frames)
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
    assert Site.asked[0] == f"/{name}"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("missing.mp4", "the server answers 404"),
        ("sideways.mp4", "302 Found, which leads to no http or https address"),
        ("ftp.mp4", "it is no http or https address that can be read, or points to such a one"),
        ("cut.mp4", r"cut off: the server announces 190651 bytes and sends 1000"),
        ("page.mp4", "it is a web page"),
        ("list.mp4", "playlist"),
        ("huge.mp4", r"larger than decode\.max_download_mb = 1 allows"),
        ("endless.mp4", r"larger than decode\.max_download_mb = 1 allows"),
        ("silence.mp4", r"no answer within 1 s \(decode\.timeout_seconds = 1\)"),
        ("halfway.mp4", r"too slow: 1000 bytes in 0 s"),
        ("drops.mp4", "too slow: "),
    ],
)
def test_bad_answers(tmp_path: Path, site: str, name: str, cause: str) -> None:
    timeout_seconds = 1.0 if "slow" in cause or "no answer" in cause else 60.0  # of those that never end
    config = DecodeConfig(allow_url=True, timeout_seconds=timeout_seconds, max_download_mb=1)
    with VideoOpener(config) as opener, pytest.raises(DecodeError, match=cause) as caught:
        opener.open(f"{site}/{name}")
    assert str(caught.value).startswith(f"{site}/{name}: open: ")
    assert not list(tmp_path.iterdir())
    assert Site.asked == [f"/{name}"]  # nothing that a playlist names


def test_nobody_there(tmp_path: Path) -> None:
    with VideoOpener(ALLOWED) as opener:
        for url in ("http://127.0.0.1:9/video.mp4", "http://127.0.0.1:bad/video.mp4", "http:///video.mp4"):
            with pytest.raises(DecodeError, match="cannot be fetched"):
                opener.open(url)


@contextmanager
def slow_server(head: bytes, drop: bytes, pause_seconds: float) -> Iterator[str]:
    """Answers every request with ``head`` and then ``drop`` again and again; with no ``drop`` it
    hangs up, and with neither it says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # the listener is closed, or the client has had enough
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(10_000)
                    connection.sendall(head)
                    if not head + drop:
                        connection.recv(10_000)
                    while drop:
                        connection.sendall(drop)
                        time.sleep(pause_seconds)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = OK + b"Content-Length: 90000000\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "drop", "pause_seconds", "cause"),
    [
        (b"", b"H", 0.02, "no answer within"),
        (OK + b"X: ", b"x", 0.02, "no answer within"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0, "no answer within"),
        (CHUNKED + b"5;", b"x", 0.02, "too slow: 0 bytes"),
        (CHUNKED, b"1;" + b"x" * 1000 + b"\r\ny\r\n", 0.01, "too slow"),
        (CHUNKED + b"0\r\n", b"X: y\r\n", 0.02, "too slow: 0 bytes"),  # trailers
        (LENGTH, b"x", 0.02, "too slow"),
        (LENGTH, b"x" * 2_000, 0.01, r"not done within (1\.2|12) s"),  # fast enough, but it never ends
        (b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", b"", 0.0, "302 Found, which leads to no"),
        (b"HTTP/1.1 302 Found\r\nLocation: /a\r\n\r\n", b"x" * 10_000, 0.0, "302 Found, which leads|no answer"),
        (b"HTTP/1.1 302 Found\r\nLocation: /a\r\n\r\n", b"x", 0.02, "no answer within"),
    ],
)
def test_a_deadline_is_a_total(
    monkeypatch: pytest.MonkeyPatch, head: bytes, drop: bytes, pause_seconds: float, cause: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(remote, "_MAX_TIMEOUTS", 4)
    with slow_server(head, drop, pause_seconds) as address:
        # The second where this machine takes longer than the first for an answer that comes.
        told = (refusal_of(f"http://{address}/video.mp4", replace(ALLOWED, timeout_seconds=s)) for s in (0.3, 3.0))
        assert any(re.search(cause, said) for said in told)


def refusal_of(url: str, config: DecodeConfig) -> str:
    """What is said; nothing is kept that would hold the connection open."""
    try:
        with VideoOpener(config) as opener:
            opener.open(url)
    except DecodeError as error:
        return str(error)
    return "nothing"


def test_a_silent_handshake_and_slow_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    config = replace(ALLOWED, timeout_seconds=0.2)
    silent = r"no answer within 0\.2 s"
    with (
        slow_server(b"", b"", 0.0) as address,
        VideoOpener(config) as opener,
        pytest.raises(DecodeError, match=silent),
    ):
        opener.open(f"https://{address}/video.mp4")
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **settings: over.wait(20) and [])
    with VideoOpener(config) as opener, pytest.raises(DecodeError, match=r"no answer within 0\.2 s"):
        opener.open("http://slow.example/video.mp4")
    over.set()


def test_no_address_unless_allowed(site: str) -> None:
    with pytest.raises(DecodeError, match=r"only local files are read.*decode\.allow_url"):
        VideoOpener(DecodeConfig()).open(f"{site}/whole.mp4")
    with pytest.raises(UserError, match=r"--decode\.allow_url true lets it be fetched"):
        find_videos([f"{site}/whole.mp4"])
    assert find_videos([f"{site}/whole.mp4?a=http://b//c"], allow_url=True) == [f"{site}/whole.mp4?a=http://b//c"]
    for other in ("ftp://127.0.0.1/whole.mp4", "file:///etc/hostname", "concat:a.mp4|b.mp4", "rtsp://127.0.0.1/"):
        with pytest.raises(DecodeError, match=r"only local files are read|does not exist"):
            VideoOpener(ALLOWED).open(other)
    assert not Site.asked


def test_predict_reads_addresses_if_asked(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model.safetensors", small_model())
    urls = [f"{site}/missing.mp4", f"{site}/whole.mp4?a=http://b//c"]
    command = ["predict", str(tmp_path / "model.safetensors"), *urls, "--json", "-", "--quiet"]
    assert main(command) == 2
    assert not Site.asked
    assert main([*command, "--decode.allow_url", "true", "--srt", str(tmp_path / "srt")]) == 1
    missing, whole = json.loads(capsys.readouterr().out)["videos"]
    assert [missing["path"], whole["path"]] == [f"{site}/missing.mp4", f"{site}/whole.mp4?***"]
    assert "the server answers 404" in missing["error"]
    assert (whole["status"], whole["duration_seconds"]) == ("ok", 10.0)
    assert sorted(path.name for path in (tmp_path / "srt").iterdir()) == ["whole.srt"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "srt"}
