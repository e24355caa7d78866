"""Videos from the web: none unless allowed, then fetched whole or refused with the cause, and nothing left behind."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, open_video
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
        ("sideways.mp4", "302 .* not allowed"),
        ("ftp.mp4", "cannot be fetched: unknown url type: ftp"),
        ("cut.mp4", r"cut off: the server announces 190651 bytes and sends 1000"),
        ("page.mp4", "it is a web page"),
        ("list.mp4", "playlist"),
        ("huge.mp4", r"larger than decode\.max_download_mb = 1 allows"),
        ("endless.mp4", r"larger than decode\.max_download_mb = 1 allows"),
        ("silence.mp4", r"the server is silent for 1 s \(decode\.timeout_seconds\)"),
        ("halfway.mp4", r"the server is silent for 1 s"),
        ("drops.mp4", "too slow: "),
    ],
)
def test_bad_answers(tmp_path: Path, site: str, name: str, cause: str) -> None:
    start = time.monotonic()
    config = DecodeConfig(allow_url=True, timeout_seconds=1.0, max_download_mb=1)
    with VideoOpener(config) as opener, pytest.raises(DecodeError, match=cause) as caught:
        opener.open(f"{site}/{name}")
    assert str(caught.value).startswith(f"{site}/{name}: open: ")
    assert time.monotonic() - start < 10
    assert not list(tmp_path.iterdir())
    assert Site.asked == [f"/{name}"]  # nothing that a playlist names


def test_nobody_there(tmp_path: Path) -> None:
    with VideoOpener(ALLOWED) as opener:
        for url in ("http://127.0.0.1:9/video.mp4", "http://127.0.0.1:bad/video.mp4", "http:///video.mp4"):
            with pytest.raises(DecodeError, match="cannot be fetched"):
                opener.open(url)


def test_no_address_unless_allowed(site: str) -> None:
    with pytest.raises(DecodeError, match=r"only local files are read.*decode\.allow_url"):
        VideoOpener(DecodeConfig()).open(f"{site}/whole.mp4")
    with pytest.raises(UserError, match="--allow_url lets it be fetched"):
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
    assert main([*command, "--allow_url", "--srt", str(tmp_path / "srt")]) == 1
    missing, whole = json.loads(capsys.readouterr().out)["videos"]
    assert [missing["path"], whole["path"]] == urls
    assert "the server answers 404" in missing["error"]
    assert (whole["status"], whole["duration_seconds"]) == ("ok", 10.0)
    assert sorted(path.name for path in (tmp_path / "srt").iterdir()) == ["whole.srt"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "srt"}
