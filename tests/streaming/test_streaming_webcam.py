"""``clipgru webcam`` as a user meets it: events, recordings, signals, messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.inference import Model
from pipeline.serving.server import parse_address
from pipeline.streaming.board import Board
from pipeline.streaming.outputs import Recordings, file_stems
from pipeline.streaming.sources import Source
from pipeline.streaming.status import Command, SourceStatus
from pipeline.streaming.streams import Shown, Streams
from pipeline.streaming.webcam import obey
from pipeline.streaming.window import KEYS, colour_of, draw_source
from tests.small import small_model

PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, file = tmp_path_factory.mktemp("models"), small_model()
    for name in ("rgb", "rgb_diff"):
        changed = replace(file, transform=replace(file.transform, input=name))
        save_model(folder / f"{name}.safetensors", changed)
    return {name: str(folder / f"{name}.safetensors") for name in ("rgb", "rgb_diff")}


@pytest.fixture(scope="module")
def video(motion_root: Path) -> str:
    return str(next((motion_root / "untrimmed").glob("*.mp4")))


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("input", ["rgb", "rgb_diff"])
def test_a_fast_replay_prints_the_very_lines_of_predict(
    models: dict[str, str], video: str, input: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models[input]
    assert main(["predict", model, video, "--jsonl", "-", "--quiet"]) == 0
    expected = capsys.readouterr().out.splitlines()
    for batch_size in ("32", "5"):
        fast = ["--replay", "--fast", "--headless", "--quiet", "--inference.batch_size", batch_size]
        assert main(["webcam", model, video, *fast]) == 0
        out, errors = capsys.readouterr()
        assert errors == ""
        for kind in ("run", "window", "segment"):
            lines = [line for line in out.splitlines() if f'"event": "{kind}"' in line]
            assert lines == [line for line in expected if f'"event": "{kind}"' in line]
            assert lines
        assert [event["event"] for event in events_in(out)].count("ended") == 1


def test_recordings_and_figures(
    models: dict[str, str], motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files of the same name at their own speed, 1.6 s each."""
    clips = [str(sorted((motion_root / "test" / kind).glob("*.mp4"))[0]) for kind in ("grows", "shrinks")]
    stats, folder = tmp_path / "stats.json", tmp_path / "out"
    record = ["--record", str(folder), "--stats", str(stats), "--inference.stride_frames", "1"]
    assert main(["webcam", models["rgb"], *clips, "--replay", "--headless", *record]) == 0
    out, errors = capsys.readouterr()
    figures = json.loads(stats.read_text())
    assert sorted(row["name"] for row in figures) == sorted(clips)
    stems = list(file_stems([Source("replay", clip, clip) for clip in clips]).values())
    began = re.compile(r"_\d{8}-\d{6}(?=\.)")
    recordings = {began.sub("", path.name): path for path in folder.iterdir() if began.search(path.name)}
    assert recordings.keys() == {f"{s}{end}" for s in stems for end in (".jsonl", ".mp4")}
    assert len(list(folder.iterdir())) == 4
    for clip, stem in zip(clips, stems, strict=True):
        (row,) = (row for row in figures if row["name"] == clip)
        assert f"{row['frames_used']} used" in errors
        recorded = recordings[f"{stem}.jsonl"].read_text()
        printed = [event for event in events_in(out) if event.get("path", clip) == clip]
        assert events_in(recorded) == printed
        with av.open(str(recordings[f"{stem}.mp4"])) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == row["frames_used"]
        assert frames[0].shape == (48, 48, 3)
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]


def test_a_second_recording_leaves_the_first(tmp_path: Path) -> None:
    """Of one second, in one folder, which holds the file that is replayed as well."""
    source = Source("replay", str(tmp_path / "a.mp4"), "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"precious")
    picture = np.zeros((48, 48, 3), np.uint8)
    for number in range(3):
        recordings = Recordings(tmp_path, [source], {"number": number}, 5.0)
        for time_seconds in (0.0, 0.2):
            recordings.on_event("a.mp4", Shown(picture, time_seconds, "jump", 0.5, ""))
        recordings.close()
    assert (tmp_path / "a.mp4").read_bytes() == b"precious"
    events = sorted(tmp_path.glob("a_*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert [events_in(path.read_text())[0]["number"] for path in events] == [0, 1, 2]
    assert sorted(path.stem for path in tmp_path.glob("a_*.mp4")) == sorted(path.stem for path in events)


def test_a_hang_up_ends_it_with_all_files_complete(models: dict[str, str], video: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = ["webcam", models["rgb"], video, "--replay", "--headless", "--record", str(folder), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if '"window"' in line and sum('"window"' in other for other in lines) == 5:
            process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGHUP
    assert errors == ""
    events = events_in("".join(lines))
    assert [event["event"] for event in events][-1] == "ended"
    assert any(event["event"] == "segment" for event in events)
    recorded, drawn = sorted(folder.iterdir())
    assert recorded.read_text() == "".join(lines)
    with av.open(str(drawn)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 4


def test_it_stops_after_the_seconds_asked_for(
    models: dict[str, str], video: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert main(["webcam", models["rgb"], video, "--replay", "--headless", "--seconds", "1.5"]) == 0
    assert 1.5 <= time.monotonic() - start < 40  # the video's own length
    out, errors = capsys.readouterr()
    assert events_in(out)[-1]["event"] == "ended"
    assert "frames in" in errors
    assert "milliseconds a step" in errors


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{model}", "{video}"], "add --replay"),
        (["{model}", "{video}", "--fast"], "use it together with --replay"),
        (["{model}", "{video}", "--replay"], "--headless"),
        (["{model}", "absent.mp4", "--replay", "--headless"], "absent.mp4: no such file"),
        (["{model}", "{model}", "--replay", "--headless"], "safetensors"),
        (["{model}", "{model}", "--replay", "--fast", "--headless"], "safetensors"),
        (["absent.safetensors", "{video}", "--replay", "--headless"], "no such model file"),
        (["{model}", "{video}", "--replay", "--serve", "here"], "write HOST:PORT"),
        (["{model}", "{video}", "--replay", "--headless", "--record", "{model}"], "cannot be written"),
        (["{model}", "{video}", "--replay", "--headless", "--seconds", "0"], "seconds must be positive"),
        (["{model}", "{video}", "--replay", "--headless", "--streaming.max_gap_seconds", "0"], "max_gap_seconds"),
        (["{model}", "{video}", "--replay", "--fast", "--record", "out"], "clipgru predict --video"),
        (["{model}", "9999"], "camera 9999"),
    ],
)
def test_wrong_input_is_one_screen_and_exit_code_2(
    args: list[str],
    message: str,
    models: dict[str, str],
    video: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["webcam", *(arg.format(model=models["rgb"], video=video) for arg in args)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("clipgru: error: ")
    assert message in errors
    assert len(errors.splitlines()) <= 8
    assert not [thread for thread in threading.enumerate() if thread.name == "clipgru-grab"]


def test_a_file_that_breaks_on_the_way_is_exit_code_1(
    models: dict[str, str], video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(Path(video).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    assert main(["webcam", models["rgb"], str(damaged), "--replay", "--fast", "--headless"]) == 1
    last = events_in(capsys.readouterr().out)[-1]
    assert last["event"] == "ended"
    assert "damaged.mp4" in last["message"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("8001", ("127.0.0.1", 8001)),
        (":8001", ("127.0.0.1", 8001)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", "localhost:", "localhost:http", "1:99999"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UserError, match="HOST:PORT"):
        parse_address(text)


def test_names_of_recordings() -> None:
    sources = [
        Source("network", "rtsp://a:b@host/1", "rtsp://a:***@host/1"),
        Source("camera", "0", "camera 0"),
        Source("replay", "/x/clip.mp4", "/x/clip.mp4"),
        Source("file", "/y/Clip.avi", "/y/Clip.avi"),
        Source("network", "http://ü/..", "http://ü/.."),
    ]
    assert list(file_stems(sources).values()) == ["rtsp_a_host_1", "camera_0", "clip", "Clip-2", "http_ü"]


def test_commands_of_those_who_watch() -> None:
    streams = Streams(Model(small_model()), lambda name, event: None)
    commands: list[Command] = ["pause", "reset", "quit"]
    assert [obey(streams, command) for command in commands] == [True, True, False]
    assert streams.is_paused
    assert set(KEYS.values()) == set(commands)


def test_the_window_shows_picture_labels_and_strip() -> None:
    """By the colours at their places: a red picture in the middle left, bars as long as scores, a coloured strip."""
    board = Board()
    picture = np.zeros((90, 160, 3), np.uint8)
    picture[..., 0] = 200
    top = (("jump", 0.75), ("a label that is much too long for the panel and for anybody to read", 0.25))
    status = SourceStatus("camera 0", "live", picture, 60.0, "jump", ("jump",), top, "live", latency_ms={"p50": 12.0})
    for seconds in range(61):
        board.publish([replace(status, time_seconds=float(seconds), labels=("jump",) if seconds <= 30 else ())])
    shown = draw_source(board.cards[0])
    assert shown.shape == (400, 800, 3)
    assert shown[180, 240].tolist() == [200, 0, 0]
    bar = shown[106, 480:]
    assert bar[12 + 200].tolist() != bar[12 + 240].tolist()
    colours = {tuple(colour) for colour in shown[380].tolist()}
    assert colours == {colour_of("jump"), colour_of(None)}
    assert shown[380, 100].tolist() == list(colour_of("jump"))
    assert shown[380, 700].tolist() == list(colour_of(None))
    board.publish([SourceStatus("camera 1", "connecting")])
    assert draw_source(board.cards[0]).shape == shown.shape


def test_the_tool_is_the_command() -> None:
    tool = Path(__file__).parents[2] / "tools" / "webcam.py"
    environment = os.environ | {"PYTHONPATH": str(tool.parent.parent)}
    result = subprocess.run([sys.executable, str(tool), "--help"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0
    assert "clipgru webcam" in result.stdout
