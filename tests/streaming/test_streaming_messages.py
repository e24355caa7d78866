"""Segments of ``clipgru webcam`` as a webhook and a broker get them, at its end and after a start anew."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.clip import Segment
from pipeline.streaming.messages import MessageOutput
from pipeline.streaming.streams import Notice, StreamEvent
from pipeline.streaming.track import Begun
from tests.overlapping import overlapping_model
from tests.ports import free_port
from tests.receivers import Broker, HookServer
from tests.small import small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    save_model(path, small_model())
    return str(path)


@pytest.fixture(scope="module")
def video(motion_root: Path) -> str:
    return str(next((motion_root / "untrimmed").glob("*.mp4")))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has something to say: ten times two segments that overlap."""
    monkeypatch.setattr("pipeline.inference.load_model", lambda path, device: overlapping_model())


FAST = ("--replay", "--fast", "--headless", "--quiet", "--timeline.min_seconds", "0.2")


def segments_in(out: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in out.splitlines()]
    return [event for event in events if event["event"] == "segment"]


def as_printed(event: dict[str, Any]) -> dict[str, Any]:
    """A message with the names of a line of ``--headless``."""
    names = ("event", "start_seconds", "end_seconds", "label", "score")
    return {"path": event["source"]} | {name: event[name] for name in names}


@pytest.mark.usefixtures("scripted")
def test_both_get_the_segments_that_are_printed_and_their_beginnings(
    model: str, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with HookServer() as hook, Broker() as broker:
        to = ["--webhook", hook.url, "--mqtt", broker.url, "--delivery.spool", str(tmp_path / "spool")]
        assert main(["webcam", model, video, *FAST, *to, "--delivery.begin", "true"]) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    printed = segments_in(out)
    assert len(printed) == 20
    for receiver in (hook, broker):
        events = receiver.first_of_each()
        assert len(receiver.received) == len(events) == 2 * len(printed)
        segments = [event for event in events if event["event"] == "segment"]
        assert [as_printed(event) for event in segments] == printed
        keys = [(event["label"], event["start_seconds"], event["event"]) for event in events]
        assert [key for key in keys if key[2] == "begin"] == [
            (*key[:2], "begin") for key in keys if key[2] == "segment"
        ]
        assert all(keys.index((*key[:2], "begin")) < place for place, key in enumerate(keys) if key[2] == "segment")
        assert not {"start_time", "end_time"} & set().union(*events)  # a file has no clock


def test_a_source_at_its_own_speed_has_dates(model: str, motion_root: Path, tmp_path: Path) -> None:
    """1.6 s."""
    clip = str(sorted((motion_root / "test" / "grows").glob("*.mp4"))[0])
    words = ["--replay", "--headless", "--quiet", "--timeline.min_seconds", "0.2", "--name", "door"]
    begun = time.time()
    with HookServer() as hook:
        to = ["--webhook", hook.url, "--delivery.spool", str(tmp_path)]
        labels = ["--delivery.labels", '["class 0", "class 1", "class 2"]']
        assert main(["webcam", model, clip, *words, *to, *labels]) == 0
    assert hook.received
    for event in hook.received:
        start, end = (datetime.fromisoformat(event[name]).timestamp() for name in ("start_time", "end_time"))
        assert end - start == pytest.approx(event["end_seconds"] - event["start_seconds"], abs=0.003)
        assert begun < start < end < time.time() + 0.2  # the last grid frame lasts a little longer
        assert event["source"] == "door"


@pytest.mark.usefixtures("scripted")
def test_what_nobody_took_is_sent_by_the_next_start(
    model: str, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, spool = free_port(), tmp_path / "spool"
    to = ["--webhook", f"http://me:secret@127.0.0.1:{port}/hooks/t0k3n", "--delivery.spool", str(spool)]
    assert main(["webcam", model, video, *FAST, *to, "--delivery.end_seconds", "0.1"]) == 0
    out, errors = capsys.readouterr()
    first, last = errors.splitlines()
    told = f"error: webhook http://***@127.0.0.1:{port}/***: "
    assert first == f"{told}Connection refused; events wait in {spool / 'webhook.jsonl'}, and are tried again"
    printed = segments_in(out)
    assert last == f"{told}0 delivered, {len(printed)} wait in {spool / 'webhook.jsonl'}"
    with HookServer(port=port) as hook:
        assert main(["webcam", model, video, *FAST, *to]) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    events = hook.first_of_each()
    assert [as_printed(event) for event in events] == printed + segments_in(out)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert not any(word in path.read_bytes() for path in spool.iterdir() for word in (b"secret", b"t0k3n"))


class StoppingHook(HookServer):
    """It asks for the end when it has the first event."""

    def keep(self, content: bytes) -> bool:
        is_good = super().keep(content)
        if len(self.received) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return is_good


@pytest.mark.usefixtures("scripted")
def test_after_sigterm_the_last_segment_is_sent_too(
    model: str, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--replay", "--headless", "--timeline.min_seconds", "0.2", "--inference.mode", "stream"]
    with StoppingHook() as hook:
        to = ["--webhook", hook.url, "--delivery.spool", str(tmp_path / "spool"), "--delivery.begin", "true"]
        assert main(["webcam", model, video, *words, *to]) == 128 + signal.SIGTERM
    out, errors = capsys.readouterr()
    printed = segments_in(out)
    assert [as_printed(event) for event in hook.received if event["event"] == "segment"] == printed
    assert len(hook.received) == 2 * len(printed) > 0
    assert errors.splitlines()[-1].endswith(f"/***: {len(hook.received)} delivered")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--webhook", "ftp://me:secret@h/t0k3n"],
            "--webhook ftp://***@h/***: write http://HOST/... or https://HOST/...",
        ),
        (["--webhook", "gopher://me:secret@h/t0k3n"], "write http"),
        (["--mqtt", "http://me:secret@h/t0k3n"], "--mqtt http://***@h/***: write mqtt://HOST/... or mqtts://HOST/..."),
        (["--mqtt", "mqtt://me:secret@h"], "--mqtt mqtt://***@h: its path must be a topic"),
        (
            ["--webhook", "http://h/t0k3n", "--delivery.labels", "[class 9]"],
            "unknown label in delivery.labels 'class 9'",
        ),
        (["--webhook", "http://h/t0k3n", "--delivery.spool", "{model}"], "cannot be written: a part of the path"),
        (["--webhok", "http://me:secret@h/t0k3n"], "Did you mean --webhook"),
        (["--mqt=mqtt://me:secret@h/t0k3n"], "unrecognized arguments"),
        (["--delivery.end_seconds", "-1"], "delivery.end_seconds must not be negative"),
        (["--delivery.max_events", "0"], "delivery.max_events must be positive"),
    ],
)
def test_wrong_input_is_one_line_without_secrets(
    words: list[str], said: str, model: str, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = [] if "--delivery.spool" in words else ["--delivery.spool", str(tmp_path / "spool")]
    assert main(["webcam", model, video, *FAST, *spool, *(word.format(model=model) for word in words)]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert said in errors
    assert len(errors.splitlines()) <= 2
    assert "secret" not in errors
    assert "t0k3n" not in errors
    assert not list(tmp_path.iterdir())


class Put:
    """A delivery that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        self.events.append(event)


def told(events: list[StreamEvent], begin: bool, labels: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    put = Put()
    output = MessageOutput([put], labels, begin)  # type: ignore[list-item]
    for event in events:
        output.on_event("door", event)
    output.close()
    return put.events


def test_a_beginning_is_told_once_and_before_its_end() -> None:
    fall, sit = Segment(1.0, 2.0, "fall", 0.5), Segment(2.0, 3.0, "sit", 0.75)
    events: list[StreamEvent] = [Begun(fall), fall, sit, Begun(Segment(4.0, 5.0, "fall", 0.9))]
    kinds = [(event["event"], event["label"], event["start_seconds"]) for event in told(events, begin=True)]
    assert kinds == [
        *(("begin", "fall", 1.0), ("segment", "fall", 1.0)),
        *(("begin", "sit", 2.0), ("segment", "sit", 2.0), ("begin", "fall", 4.0)),
    ]
    assert [event["event"] for event in told(events, begin=False)] == ["segment"] * 2
    assert [event["label"] for event in told(events, begin=True, labels=("sit",))] == ["sit"] * 2
    message = {"event": "segment", "source": "door", "label": "fall", "score": 0.5}
    assert told([fall], begin=False) == [message | {"start_seconds": 1.0, "end_seconds": 2.0}]


def test_dates_are_those_of_the_sources_first_picture() -> None:
    origin = time.monotonic() - 100.0
    live = Notice("live", 0.0, origin_seconds=origin)
    (event,) = told([live, Segment(10.0, 20.5, "fall", 0.5)], begin=False)
    start, end = (datetime.fromisoformat(event[name]).timestamp() for name in ("start_time", "end_time"))
    assert end - start == pytest.approx(10.5, abs=0.002)
    assert 89.9 < time.time() - start < 95
    assert event["start_time"].endswith("+00:00")
