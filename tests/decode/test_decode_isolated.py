"""The firewall: the same frames from another process, and what becomes of a file that hangs or kills it."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import videos
from small import small_model
from torch.utils.data import DataLoader, Dataset

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, VideoReader, isolated, open_video
from pipeline.decode.wire import LateError
from pipeline.errors import DecodeError, UserError

ISOLATED = DecodeConfig(isolate=True, timeout_seconds=20)
MIXED = ["xvid_bf2.avi", "h264_vfr.mp4", "vp9.webm", "mpeg2.mpg", "rot90.mp4", "one_frame.mp4", "odd_161x121.avi"]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs Linux or macOS")


@pytest.fixture(scope="module")
def opener() -> Iterator[VideoOpener]:
    with VideoOpener(ISOLATED) as opener:
        yield opener


@pytest.fixture(scope="module")
def good_video(shared_data: Path) -> Path:
    return shared_data / "odd_videos" / "h264_gop12.mp4"


def misbehave(monkeypatch: pytest.MonkeyPatch, request: str, deed: str) -> None:
    """New decoding processes do that deed when they get that request."""
    monkeypatch.setattr(
        isolated,
        "_COMMAND",
        "import os, time, sys\nfrom pipeline.decode import worker\n"
        f"def deed(*_, **__):\n    {deed}\n"
        f"worker.DecodeWorker.{request} = deed\nworker.main()",
    )


@pytest.mark.parametrize("name", MIXED)
def test_the_same_reader(shared_data: Path, opener: VideoOpener, name: str) -> None:
    path = shared_data / "odd_videos" / name
    with open_video(path) as here, opener.open(path) as there:
        assert there.info == here.info
        assert torch.equal(there.pts_seconds, here.pts_seconds)
        numbers = [here.info.num_frames - 1, 0, here.info.num_frames // 2, 0]
        a, b = there.frames(numbers), here.frames(numbers)
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.pts_seconds, b.pts_seconds)
        for (image, seconds), (truth, expected) in zip(
            itertools.islice(there, 9), itertools.islice(here, 9), strict=True
        ):
            assert torch.equal(image, truth)
            assert seconds == expected
        times = [k / 3 for k in range(12)]
        streamed = [(image.sum(), seconds) for image, seconds in there.stream_at(times)]
        assert streamed == [(image.sum(), seconds) for image, seconds in here.stream_at(times)]


@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_any_decoder(good_video: Path, decoder: str) -> None:
    config = DecodeConfig(decoder, isolate=True)
    with open_video(good_video, decoder) as here, VideoOpener(config) as opener, opener.open(good_video) as there:
        assert torch.equal(there.frames([3, 200]).frames, here.frames([3, 200]).frames)


def test_frames_may_be_changed_and_readings_overlap(opener: VideoOpener, good_video: Path) -> None:
    with opener.open(good_video) as video:
        for number, (frame, _) in enumerate(itertools.islice(video, 5)):
            assert torch.equal(video.frames([number]).frames[0], frame)
            frame.zero_()
        abandoned = iter(video)
        next(abandoned)
    with pytest.raises(ValueError, match="closed"):
        next(abandoned)
    with pytest.raises(ValueError, match="closed"):
        video.frames([0])


def said_of(open_it: Callable[[Path], VideoReader], path: Path) -> str:
    try:
        with open_it(path) as video:
            return str(video.info)
    except DecodeError as error:
        return str(error)


def test_a_process_serves_many_files(opener: VideoOpener, shared_data: Path) -> None:
    seen = set()
    for name in ("two_frames.mp4", "audio_only.mp4", "trunc_faststart.mp4", "zero.mp4", "one_frame.mp4", "text.mp4"):
        path = shared_data / "odd_videos" / name
        assert said_of(opener.open, path) == said_of(open_video, path)
        seen.update(process._child.process.pid for process in opener._idle)
    assert len(seen) == 1


def test_a_file_that_hangs_is_given_up(good_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misbehave(monkeypatch, "index", "time.sleep(1000)")
    with VideoOpener(DecodeConfig(isolate=True, timeout_seconds=0.5)) as opener:
        with opener.open(good_video) as video:
            process = video._file._process._child.process  # type: ignore[attr-defined]
            with pytest.raises(DecodeError, match=r"index: not done within 0\.5 s \(decode\.timeout_seconds\)"):
                assert video.info
            with pytest.raises(DecodeError, match="the decoding process was stopped"):
                video.frames([0])
        assert process.returncode == -9
        assert not opener._idle
        monkeypatch.undo()
        with opener.open(good_video) as video:  # the next file has a new process
            assert video.info.num_frames == 250


@pytest.mark.parametrize(
    ("deed", "timeout_seconds", "cause"),
    [
        ("os.abort()", 100, "ended by SIGABRT: the file crashes the decoder"),
        ("os._exit(3)", 100, "ended with 3: the file crashes the decoder"),
        ("os.write(int(sys.argv[1]), b'x' * 1000); time.sleep(1000)", 100, "more than can be meant"),
        ("os.write(int(sys.argv[1]), bytes(15)); time.sleep(1000)", 2, r"not done within 2 s"),
    ],
)
def test_a_file_that_kills_the_process(
    good_video: Path, monkeypatch: pytest.MonkeyPatch, deed: str, timeout_seconds: float, cause: str
) -> None:
    misbehave(monkeypatch, "next", deed)
    with (
        VideoOpener(DecodeConfig(isolate=True, timeout_seconds=timeout_seconds)) as opener,
        opener.open(good_video) as video,
    ):
        with pytest.raises(DecodeError, match=cause) as caught:
            video.frames([0])
        assert (caught.value.path, caught.value.stage) == (good_video, "decode")


@pytest.mark.parametrize(
    "deed",
    [
        "take(400_000); drip()",  # reads slower than it is sent, then answers a byte at a time
        "connection.recv(10); time.sleep(1000)",
        "drip()",
    ],
)
def test_a_request_ends_at_its_deadline_whatever_is_dripped(monkeypatch: pytest.MonkeyPatch, deed: str) -> None:
    monkeypatch.setattr(
        isolated,
        "_COMMAND",
        "import socket, struct, sys, time\nfrom pipeline.decode.wire import send\n"
        "connection = socket.socket(fileno=int(sys.argv[1]))\n"
        "def take(count):\n    while count > 0: count -= len(connection.recv(20_000)); time.sleep(0.06)\n"
        "def drip():\n    connection.send(struct.pack('<QQ', 100_000, 0))\n"
        "    while True: connection.send(b' '); time.sleep(0.02)\n"
        "send(connection, {'ready': True})\n" + deed,
    )
    process = isolated.DecodingProcess()
    start = time.monotonic()
    with pytest.raises(LateError):
        process.ask("start", {"numbers": "x" * 500_000}, timeout_seconds=1.5)
    assert time.monotonic() - start >= 1.5
    assert not process.is_usable


def test_the_answer_has_the_time_that_the_request_left(monkeypatch: pytest.MonkeyPatch) -> None:
    process, clock, left = isolated.DecodingProcess(), [100.0], []

    def send(*args: object, timeout_seconds: float) -> None:
        left.append(timeout_seconds)
        clock[0] += 1.25

    def receive(connection: object, timeout_seconds: float, max_payload_bytes: int) -> None:
        left.append(timeout_seconds)
        raise LateError

    monkeypatch.setattr(isolated, "monotonic", lambda: clock[0])
    monkeypatch.setattr(isolated, "send", send)
    monkeypatch.setattr(isolated, "receive", receive)
    with pytest.raises(LateError):
        process.ask("start", {}, timeout_seconds=1.5)
    assert left == [1.5, 0.25]


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is bounded on Linux")
def test_a_file_that_takes_too_much_memory(good_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misbehave(monkeypatch, "rgb", "bytearray(300_000_000)")
    config = DecodeConfig(isolate=True, max_memory_mb=100)
    with VideoOpener(config) as opener, opener.open(good_video) as video:
        with pytest.raises(DecodeError, match=r"needs more memory than decode\.max_memory_mb allows"):
            video.frames([0])
        assert video.info.num_frames == 250  # the process lives on


def test_a_process_that_cannot_start(good_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_COMMAND", "raise SystemExit(1)")
    with pytest.raises(UserError, match="the decoding process cannot be started"):
        VideoOpener(ISOLATED).open(good_video)


def test_an_unknown_decoder() -> None:
    with pytest.raises(UserError, match="unknown decoder 'pyavv'"):
        VideoOpener(DecodeConfig("pyavv"))


def _read_in_child(opener: VideoOpener, path: Path, queue: multiprocessing.Queue[int]) -> None:
    with opener.open(path) as video:
        queue.put(len(video.frames([0, 1])))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_opener_may_be_forked_and_pickled_but_no_reader(opener: VideoOpener, good_video: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()
    with opener.open(good_video) as video:
        assert len(video.frames([0])) == 1
    assert opener._idle
    child = context.Process(target=_read_in_child, args=(opener, good_video, queue))
    child.start()
    assert queue.get(timeout=60) == 2
    child.join()
    with opener.open(good_video) as video:  # ours was not touched
        assert len(video.frames([0])) == 1
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            pickle.dumps(video)
    assert pickle.loads(pickle.dumps(opener)).config == opener.config


class FirstFrames(Dataset[int]):
    def __init__(self, opener: VideoOpener, path: Path) -> None:
        self.opener, self.path = opener, path

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> int:
        with self.opener.open(self.path) as video:
            return int(video.frames([number]).frames.sum())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_the_workers_of_a_loader(opener: VideoOpener, good_video: Path) -> None:
    # They are daemons, which multiprocessing forbids to have children.
    dataset = FirstFrames(opener, good_video)
    here = [dataset[number] for number in range(6)]
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    assert list(loader) == here


def test_predict_isolates_if_asked(
    good_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model.safetensors", small_model())
    command = ["predict", str(tmp_path / "model.safetensors"), str(good_video), "--json", "-", "--quiet"]
    assert main(command) == 0
    here = capsys.readouterr().out
    assert main([*command, "--decode.isolate", "true"]) == 0
    assert capsys.readouterr().out == here
    misbehave(monkeypatch, "index", "time.sleep(1000)")
    assert main(command) == 0  # in this process nothing hangs
    capsys.readouterr()
    assert main([*command, "--decode.isolate", "true", "--decode.timeout_seconds", "0.5"]) == 1
    [record] = json.loads(capsys.readouterr().out)["videos"]
    assert "not done within 0.5 s (decode.timeout_seconds)" in record["error"]


def test_settings_given_go_before_those_of_the_model_file() -> None:
    model = replace(small_model(), decode=DecodeConfig("opencv", timeout_seconds=7.0))
    assert model.decoded_as({}).decode == model.decode
    asked = model.decoded_as({"isolate": True, "allow_url": True, "timeout_seconds": 3.0})
    assert asked.decode == DecodeConfig("opencv", isolate=True, allow_url=True, timeout_seconds=3.0)
    with pytest.raises(UserError, match=r"decode\.timeout_seconds must be positive"):
        model.decoded_as({"timeout_seconds": -1.0})


def test_nothing_is_left_behind(good_video: Path) -> None:
    with VideoOpener(ISOLATED) as opener:
        with opener.open(good_video) as one, opener.open(good_video) as two:
            assert one.info == two.info
            processes = [video._file._process._child.process for video in (one, two)]  # type: ignore[attr-defined]
        assert len(opener._idle) == 2
    assert all(process.returncode is not None for process in processes)
