"""Real servers on loopback: MJPEG over HTTP from this process, RTSP from PyAV to OpenCV."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.clip import Prediction
from pipeline.config import InferenceConfig, StreamingConfig
from pipeline.inference import Model
from pipeline.streaming.sources import parse_sources
from pipeline.streaming.streams import Notice, StreamEvent, Streams
from tests.ports import free_port
from tests.small import small_model

PATIENCE_SECONDS = 120.0
CONFIG = StreamingConfig(max_gap_seconds=0.5, timeout_seconds=1.0, max_retry_seconds=0.5)


def jpeg(number: int, width: int = 64) -> bytes:
    picture = np.full((48, width, 3), 40 + number % 180, np.uint8)
    return bytes(cv2.imencode(".jpg", picture)[1])


class MjpegServer:
    """A camera whose mood the test changes: serve, stall, garbage, odd sizes, close. Counts its connections."""

    def __init__(self) -> None:
        self.mood, self.num_connections, self.num_sent = "serve", 0, 0
        self.is_over = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.serve(self)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://me:secret@127.0.0.1:{self._http.server_address[1]}/camera.mjpg"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.num_connections += 1
        if self.mood == "refuse":
            handler.send_error(503)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        try:
            while not self.is_over and self.mood not in ("close", "refuse"):
                if self.mood != "stall":
                    self._send(handler)
                time.sleep(0.03)
        except OSError:
            pass  # the reader went away

    def _send(self, handler: BaseHTTPRequestHandler) -> None:
        self.num_sent += 1
        body = jpeg(self.num_sent, 96 if self.mood == "other size" else 64)
        if self.mood == "garbage":
            body = np.random.default_rng(self.num_sent).bytes(len(body))
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        handler.wfile.write(head.encode() + body + b"\r\n")

    def close(self) -> None:
        self.is_over = True
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.close()


class Watched:
    """Streams over URLs and what they have told."""

    def __init__(self, urls: list[str], config: StreamingConfig = CONFIG) -> None:
        self.notices: list[Notice] = []
        self.windows: list[Prediction] = []
        self.streams = Streams(Model(small_model()), self._on_event, InferenceConfig(mode="stream"), streaming=config)
        for source in parse_sources(urls):
            self.streams.add(source)

    def _on_event(self, name: str, event: StreamEvent) -> None:
        assert "secret" not in name
        if isinstance(event, Notice):
            assert "secret" not in event.message
            self.notices.append(event)
        elif isinstance(event, Prediction):
            self.windows.append(event)

    @property
    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            if not self.streams.step():
                self.streams.wait()
            assert time.monotonic() < deadline, self.notices

    def until_windows(self, count: int) -> None:
        wanted = len(self.windows) + count
        self.until(lambda: len(self.windows) >= wanted)


def test_mjpeg_over_http_through_good_and_bad_times(server: MjpegServer) -> None:
    watched = Watched([server.url])
    watched.until_windows(4)
    assert watched.kinds == ["connecting", "live"]
    server.mood = "other size"
    watched.until_windows(4)
    server.mood = "garbage"
    watched.until(lambda: watched.kinds[-1] == "stalled")
    server.mood = "serve"
    watched.until(lambda: watched.kinds[-1] in ("live", "reconnected"))
    watched.until_windows(3)
    server.mood = "close"
    watched.until(lambda: watched.kinds[-1] == "stalled")
    server.mood = "refuse"
    tries = server.num_connections
    watched.until(lambda: server.num_connections > tries + 1)
    server.mood = "serve"
    watched.until(lambda: "reconnected" in watched.kinds[-2:])
    watched.until_windows(3)
    watched.streams.close()
    assert watched.kinds[-1] == "ended"
    starts = [window.start_seconds for window in watched.windows]
    assert starts == sorted(starts)
    assert "reset" in watched.kinds


def test_a_server_that_stalls_is_left_and_found_again(server: MjpegServer) -> None:
    """It keeps the connection and sends nothing: the read's own time limit ends it."""
    watched = Watched([server.url])
    watched.until_windows(3)
    server.mood = "stall"
    watched.until(lambda: "stalled" in watched.kinds and server.num_connections > 1)
    server.mood = "serve"
    watched.until(lambda: watched.kinds[-1] != "stalled")
    before = watched.windows[-1].start_seconds
    watched.until_windows(3)
    assert watched.windows[-1].start_seconds > before + CONFIG.max_gap_seconds
    watched.streams.close()


def test_a_camera_that_is_off_at_first(server: MjpegServer) -> None:
    server.mood = "refuse"
    other = MjpegServer()
    watched = Watched([server.url, other.url])
    watched.until(lambda: "stalled" in watched.kinds)
    watched.until_windows(3)  # the other one does not wait
    server.mood = "serve"
    watched.until(lambda: watched.kinds.count("live") == 2)
    watched.streams.close()
    other.close()


RTSP_READER = """
import json, sys
from pipeline.cli import main
from tests.small import small_model
from pipeline.checkpoint import save_model
from pathlib import Path
model, port = sys.argv[1:]
save_model(Path(model), small_model())
print("ready", flush=True)
sys.exit(main(["webcam", model, f"rtsp://127.0.0.1:{port}/live", "--headless", "--quiet", "--seconds", "120",
               "--inference.mode", "stream", "--streaming.timeout_seconds", "60"]))
"""

RTSP_PUSHER = """
import sys, time, av, numpy as np
from fractions import Fraction
port, deadline = sys.argv[1], time.monotonic() + 60
while True:
    try:
        container = av.open(f"rtsp://127.0.0.1:{port}/live", "w", format="rtsp", options={"rtsp_transport": "tcp"})
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        frames = [np.full((48, 64, 3), 3 * k, np.uint8) for k in range(75)]
        container.start_encoding()
        break
    except (OSError, av.error.FFmpegError):
        assert time.monotonic() < deadline
        time.sleep(0.2)
start = time.monotonic()
for k, frame in enumerate(frames):
    time.sleep(max(0, start + k / 25 - time.monotonic()))
    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
container.mux(stream.encode())
container.close()
"""


def test_rtsp(tmp_path: Path) -> None:
    """FFmpeg's reader listens and PyAV pushes 3 seconds: real RTSP over TCP, both ends in processes of their own. Then
    the reader is asked to stop."""
    port = free_port()
    listening = os.environ | {
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_flags;listen|rtsp_transport;tcp|listen_timeout;60",
    }
    command = [sys.executable, "-c", RTSP_READER, str(tmp_path / "m.safetensors"), str(port)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=listening)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    pusher = subprocess.run([sys.executable, "-c", RTSP_PUSHER, str(port)], capture_output=True, text=True)
    assert pusher.returncode == 0, pusher.stderr
    events = []
    for line in reader.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "stalled":  # once
            reader.send_signal(signal.SIGTERM)
    assert reader.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert reader.stderr is not None
    assert "Traceback" not in reader.stderr.read()
    reader.stdout.close()
    reader.stderr.close()
    kinds = [event["event"] for event in events]
    assert kinds[:3] == ["run", "connecting", "live"]
    starts = [round(5 * event["start_seconds"]) for event in events if event["event"] == "window"]
    assert starts == list(range(starts[0], starts[0] + len(starts)))
    assert 10 <= len(starts) <= 25  # 75 pictures are 3 s, and the last is held for no longer than the greatest gap
    assert kinds[-1] == "ended"
    assert "segment" in kinds


READER_THAT_HANGS = """
import sys, time
from threading import Condition
from pipeline.__main__ import _leave
from pipeline.config import StreamingConfig
from pipeline.streaming.captures import CameraCapture
from pipeline.streaming.grabber import Grabber
from pipeline.streaming.grid import GridSlot
from pipeline.streaming.sources import parse_sources
source = parse_sources(sys.argv[1:])[0]
config = StreamingConfig(timeout_seconds=60)
grabber = Grabber(lambda given_up: CameraCapture(source, 60), GridSlot(8, 2), config, Condition())
grabber.start()
sys.stdin.read()  # until the server has said what it says
grabber.close(0.1)
print("all is written", end="")
class Late:  # what the interpreter takes apart long after it has begun to end
    def __del__(self):
        print(".", end="", flush=True)
        time.sleep(1)
late = Late()
print(".", end="", flush=True)
_leave(3)
"""


def test_a_thread_that_waits_inside_opencv_does_not_abort_the_process_at_its_end() -> None:
    """A camera that begins a picture, and whose connection breaks while the interpreter shuts down."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n--f\r\nContent-Length: 9\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(120)  # of a process that never gets so far
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/camera.mjpg"
        process = subprocess.Popen(
            [sys.executable, "-c", READER_THAT_HANGS, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        connection, _ = listener.accept()
        with process, connection:
            connection.recv(1000)
            connection.sendall(head)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            said = process.stdout.read(len("all is written."))
            time.sleep(0.3)
            connection.close()
            assert (said + process.stdout.read(), process.stderr.read()) == (b"all is written.", b"")  # type: ignore[union-attr]
    assert process.returncode == 3
