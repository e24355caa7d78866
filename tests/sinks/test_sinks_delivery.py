"""Delivery through receivers that die and senders that are killed: all events, in order, repeated ones marked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import DeliveryConfig
from pipeline.errors import UserError
from pipeline.sinks.addresses import Address
from pipeline.sinks.delivery import Delivery
from pipeline.sinks.mqtt import MqttTopic
from pipeline.sinks.spool import Spool
from pipeline.sinks.webhook import Webhook
from tests.receivers import PATIENCE_SECONDS, RECEIVERS, HookServer
from tests.sinks.test_sinks_spool import drained, no_room

ROOT = Path(__file__).resolve().parents[2]
SENDERS = {"webhook": Webhook, "mqtt": MqttTopic}
CONFIG = DeliveryConfig(timeout_seconds=PATIENCE_SECONDS, max_retry_seconds=0.02, end_seconds=PATIENCE_SECONDS)


def is_soon(condition: Callable[[], bool]) -> bool:
    end_seconds = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < end_seconds:
        time.sleep(0.005)
    return condition()


class Held:
    """A receiver that takes an event when it is let, and then as it is told."""

    name = "held"

    def __init__(self) -> None:
        self.may_go = threading.Semaphore(0)
        self.received: list[bytes] = []
        self.is_good, self.is_asked = True, False

    def send(self, content: bytes, seconds: float) -> None:
        self.is_asked = True
        if not self.may_go.acquire(timeout=seconds):
            raise UserError("held: no answer")
        if not self.is_good:
            raise UserError("held: it does not want to")
        self.received.append(content)

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("kind", RECEIVERS)
def test_a_thousand_events_through_a_receiver_that_dies_ten_times(kind: str, tmp_path: Path) -> None:
    deaths, said = range(57, 1007, 100), list[tuple[str, bool]]()
    with RECEIVERS[kind](dies_after=deaths) as receiver:
        sender = SENDERS[kind](Address(receiver.url))
        spool = Spool(tmp_path / "spool.jsonl", 10_000)
        delivery = Delivery(kind, sender, spool, CONFIG, lambda *line: said.append(line))
        for number in range(1000):
            delivery.put({"value": number})
        assert is_soon(lambda: delivery.figures.waiting == 0)
        figures = delivery.figures
        delivery.close()
    assert receiver.num_deaths == 10
    assert len(receiver.received) == 1010
    events = receiver.first_of_each()
    assert [event["value"] for event in events] == list(range(1000))
    assert [event["sequence"] for event in events] == list(range(1, 1001))
    assert (figures.delivered, figures.lost) == (1000, 0)
    assert figures.retries >= 10
    assert sum(is_error for _, is_error in said) == 10
    assert not [line for line, _ in said if "secret" in line or "t0k3n" in line or "\n" in line]


CHILD = """
import sys
from pathlib import Path
from pipeline.sinks.addresses import Address
from pipeline.sinks.delivery import Delivery
from pipeline.sinks.spool import Spool
from tests.sinks.test_sinks_delivery import CONFIG, SENDERS
kind, url, path, start, stop = sys.argv[1:]
sender, spool = SENDERS[kind](Address(url)), Spool(Path(path), 10_000)
delivery = Delivery(kind, sender, spool, CONFIG, lambda *line: None)
for number in range(int(start), int(stop)):
    delivery.put({"value": number})
    print(number, flush=True)
delivery.close()
"""


def test_what_a_webhook_refuses_for_good_is_kept_in_a_file_and_holds_nothing_up(tmp_path: Path) -> None:
    said = list[tuple[str, bool]]()
    with HookServer() as receiver:
        spool = Spool(tmp_path / "webhook.jsonl", 100)
        delivery = Delivery("webhook", Webhook(Address(receiver.url)), spool, CONFIG, lambda *line: said.append(line))
        receiver.answer = "422 secret"
        for number in range(3):
            delivery.put({"value": number})
        assert is_soon(lambda: delivery.figures.refused == 3)
        receiver.answer = "204 No Content"
        delivery.put({"value": 3})
        receiver.wait_for(1)
        delivery.close()
    refused = [json.loads(line) for line in (tmp_path / "webhook.refused.jsonl").read_text().splitlines()]
    assert [(event["value"], event["sequence"], event["attempt"]) for event in refused] == [
        (n, n + 1, 1) for n in range(3)
    ]
    assert [event["value"] for event in receiver.received] == [3]
    (first, _), (last, _) = said
    assert "it answers 422 Unprocessable" in first
    assert "kept in" in first
    assert "1 delivered, 3 refused, kept in" in last
    assert not [line for line, _ in said if "secret" in line or "t0k3n" in line]
    assert not drained(Spool(tmp_path / "webhook.jsonl", 100))


@pytest.mark.parametrize("answer", ["401 x", "404 x", "408 x", "425 x", "429 x", "503 x", "302 x"])
def test_what_may_be_accepted_later_waits(tmp_path: Path, answer: str) -> None:
    with HookServer() as receiver:
        spool = Spool(tmp_path / "webhook.jsonl", 100)
        delivery = Delivery("webhook", Webhook(Address(receiver.url)), spool, CONFIG, lambda *line: None)
        receiver.answer = answer
        delivery.put({"value": 0})
        assert is_soon(lambda: delivery.figures.retries > 1)
        receiver.answer = "204 No Content"
        receiver.wait_for(1)
        delivery.close()
        assert delivery.figures.refused == 0


def test_a_full_disk_makes_a_refused_event_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HookServer() as receiver:
        spool = Spool(tmp_path / "webhook.jsonl", 100)
        delivery = Delivery("webhook", Webhook(Address(receiver.url)), spool, CONFIG, lambda *line: None)
        receiver.answer = "400 x"
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", no_room)
            delivery.put({"value": 0})
            assert is_soon(lambda: delivery.figures.retries > 1)
            assert delivery.figures.waiting == 1
        assert is_soon(lambda: delivery.figures.refused == 1)
        delivery.close()


@pytest.mark.parametrize("kind", RECEIVERS)
def test_a_sender_that_is_killed_and_started_again_loses_nothing(kind: str, tmp_path: Path) -> None:
    """Whatever it has said that it keeps, arrives: killed while it keeps more and delivers, in front of a receiver that
    comes and goes."""
    spool, kept = str(tmp_path / "spool.jsonl"), 0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with RECEIVERS[kind](dies_after=range(15, 2000, 25)) as receiver:
        for stop in (40, 70, 100):
            command = [sys.executable, "-c", CHILD, kind, receiver.url, spool, str(kept), str(stop)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            assert child.stdout is not None
            for line in child.stdout:
                kept = int(line) + 1
                if kept == stop - 10 and stop < 100:
                    child.kill()
            child.stdout.close()
            assert child.wait(PATIENCE_SECONDS) == (0 if stop == 100 else -9)
        assert kept == 100
    values = [event["value"] for event in receiver.first_of_each()]
    assert values == sorted(values)
    assert set(values) == set(range(100))
    assert len(values) <= 102  # one was perhaps kept when the kill came, and not yet said to be


def test_nobody_waits_for_a_receiver_and_the_rest_is_sent_by_the_next_start(tmp_path: Path) -> None:
    path, held = tmp_path / "spool.jsonl", Held()
    said: list[tuple[str, bool]] = []
    config = DeliveryConfig(timeout_seconds=PATIENCE_SECONDS, end_seconds=0.1)
    delivery = Delivery("a", held, Spool(path, 100), config, lambda *line: said.append(line))
    for number in range(5):
        delivery.put({"value": number})
    held.may_go.release()
    assert is_soon(lambda: delivery.figures.delivered == 1)
    delivery.close()  # the second is on its way, and hangs
    assert said[-1] == (f"held: 1 delivered, 4 wait in {path}", True)
    assert len(held.received) == 1
    next_start = Held()
    next_start.may_go.release(9)
    Delivery("a", next_start, Spool(path, 100), CONFIG, lambda *line: None).close()
    values = [content.partition(b'"value": ')[2] for content in held.received + next_start.received]
    assert values == [b"%d}" % number for number in range(5)]
    assert [b'"attempt": 2' in content for content in next_start.received] == [True, False, False, False]


def test_at_the_end_what_can_be_sent_is_sent_however_long_the_next_attempt_is_off(tmp_path: Path) -> None:
    held, said = Held(), list[str]()
    config = DeliveryConfig(max_retry_seconds=1e6, end_seconds=PATIENCE_SECONDS)
    delivery = Delivery("a", held, Spool(tmp_path / "a", 100), config, lambda line, _: said.append(line))
    held.is_good = False
    for number in range(12):
        delivery.put({"value": number})
    for _ in range(3):  # waits longer each time
        held.may_go.release()
    assert is_soon(lambda: delivery.figures.retries >= 2)
    held.is_good = True
    held.may_go.release(100)
    delivery.close()
    assert len(held.received) == 12
    assert said == [
        f"held: it does not want to; events wait in {tmp_path / 'a'}, and are tried again",
        "held accepts events again",
        "held: 12 delivered",
    ]


def test_a_full_disk_is_told_once_and_hinders_no_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, said, path = Held(), list[tuple[str, bool]](), tmp_path / "a"
    config = DeliveryConfig(timeout_seconds=PATIENCE_SECONDS, end_seconds=0)
    delivery = Delivery("a", held, Spool(path, 100), config, lambda *line: said.append(line))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        for number in range(3):
            delivery.put({"value": number})
        full = f"{path}: cannot be written: the disk is full: make room, or write somewhere else"
        assert said == [(f"events for held are sent, but would not outlive this program: {full}", True)]
        held.may_go.release()
        assert is_soon(lambda: delivery.figures.delivered == 1)
        assert (delivery.figures.unsaved, delivery.figures.lost) == (3, 0)
    delivery.put({"value": 3})
    assert said[1] == ("events for held are safe on disk again; 0 were lost", True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        delivery.close()
    assert said[2:] == [(f"held: 1 delivered, 1 wait in {path}, 2 lost", True)]
    (event,) = drained(Spool(path, 100))
    assert (event["value"], event["sequence"]) == (3, 4)


def test_what_does_not_fit_is_told_once_and_counted(tmp_path: Path) -> None:
    held, said = Held(), list[tuple[str, bool]]()
    spool = Spool(tmp_path / "a", 2)
    delivery = Delivery("a", held, spool, CONFIG, lambda *line: said.append(line))
    for number in range(5):
        delivery.put({"value": number})
    limit = "2 wait already, as many as delivery.max_events allows"
    assert said == [(f"events for held are lost: {limit}", True)]
    assert (delivery.figures.lost, delivery.figures.waiting) == (3, 2)
    held.may_go.release(100)
    assert is_soon(lambda: delivery.figures.waiting == 0)
    delivery.put({"value": 5})
    assert said[1] == ("events for held are safe on disk again; 3 were lost", True)
    delivery.close()
    assert [content.partition(b'"value": ')[2] for content in held.received] == [b"0}", b"1}", b"5}"]
    assert said[-1] == ("held: 3 delivered, 3 lost", True)
