"""The spool: order and numbers through restarts, its limits, and what is no spool."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.sinks.spool import Spool


def drained(spool: Spool) -> list[dict[str, object]]:
    """All that waits, delivered at the first attempt."""
    events = []
    while event := spool.next():
        events.append(json.loads(event.message))
        spool.remove(event.number)
    return events


def test_events_come_out_in_order_and_are_counted_over_restarts(tmp_path: Path) -> None:
    path, out = tmp_path / "new" / "a.sqlite", []
    for start in (0, 3, 6):
        spool = Spool(path, 100)
        assert spool.num_waiting == (start > 0)  # the last of each run stays
        for number in range(start, start + 3):
            spool.add({"value": number, "label": "ü\n"})
        for _ in range(2 + (start > 0)):
            event = spool.next()
            assert event is not None
            out.append(json.loads(event.message))
            spool.remove(event.number)
        spool.close()
        spool.close()
    out += drained(Spool(path, 100))
    assert [event["value"] for event in out] == list(range(9))
    assert [event["sequence"] for event in out] == list(range(1, 10))
    assert {event["attempt"] for event in out} == {1}
    assert len({event["id"].rpartition("-")[0] for event in out}) == 1
    assert [event["id"].rpartition("-")[2] for event in out] == [str(event["sequence"]) for event in out]
    assert out[0]["label"] == "ü\n"


def test_an_attempt_is_counted_before_it_is_made(tmp_path: Path) -> None:
    """So that a program that is killed on the way marks the event when it sends it again."""
    attempts = []
    for _ in range(3):
        spool = Spool(tmp_path / "a.sqlite", 100)
        if spool.num_waiting == 0:
            spool.add({})
        for _ in range(2):
            event = spool.next()
            assert event is not None
            attempts.append(json.loads(event.message)["attempt"])
        spool.close()
    assert attempts == [1, 2, 3, 4, 5, 6]


def test_a_full_spool_loses_the_newest_and_leaves_a_gap_in_the_numbers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.sqlite", 2)
    for number in range(4):
        if number < 2:
            spool.add({"value": number})
        else:
            with pytest.raises(UserError, match=r"a\.sqlite: 2 events wait, as many as delivery\.max_events allows"):
                spool.add({"value": number})
    assert [event["value"] for event in drained(spool)] == [0, 1]
    spool.add({"value": 4})
    (event,) = drained(spool)
    assert (event["value"], event["sequence"]) == (4, 5)
    spool.close()


def test_a_full_disk_hinders_no_delivery_and_is_told(tmp_path: Path) -> None:
    """SQLite's own limit on a file's size, which fails a write as a full disk does."""
    spool = Spool(tmp_path / "a.sqlite", 10_000)
    assert spool._connection is not None
    spool._connection.execute("PRAGMA max_page_count = 8")
    problems = []
    for number in range(100):
        try:
            spool.add({"value": number, "padding": "x" * 500})
        except UserError as error:  # noqa: PERF203
            problems.append(str(error))
    count = spool.num_waiting
    assert 10 < count < 90
    assert problems == [
        f"{tmp_path / 'a.sqlite'}: cannot be written: the disk is full: make room, or write somewhere else"
    ] * (100 - count)
    assert [event["value"] for event in drained(spool)] == list(range(count))
    spool.add({"value": "room again"})
    (event,) = drained(spool)
    assert (event["value"], event["sequence"]) == ("room again", 101)
    spool.close()


def test_where_not_a_byte_can_be_written_each_event_is_delivered_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.sqlite", 100)
    for number in range(3):
        spool.add({"value": number})
    assert spool._connection is not None
    spool._connection.execute("PRAGMA query_only = on")  # SQLite refuses every write
    first = spool.next()
    second = spool.next()
    assert first is not None
    assert second is not None
    assert [json.loads(event.message)["attempt"] for event in (first, second)] == [1, 2]
    assert [event["value"] for event in drained(spool)] == [0, 1, 2]
    assert spool.num_waiting == 0
    spool.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.sqlite", 100)
    with pytest.raises(UserError, match="another process writes there"):
        Spool(tmp_path / "a.sqlite", 100)
    spool.close()
    with pytest.raises(UserError, match="closed"):
        spool.add({})
    assert spool.next() is None
    Spool(tmp_path / "a.sqlite", 100).close()


def test_what_is_no_spool_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, other, folder = tmp_path / "text.sqlite", tmp_path / "other.sqlite", tmp_path / "folder"
    text.write_bytes(b"precious" * 1000)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE events (x)")
    connection.close()
    folder.mkdir()
    before = text.read_bytes(), other.read_bytes()
    for path in (text, other):
        with pytest.raises(UserError, match=rf"{path}: no spool of clipgru's, or damaged .*: move it away"):
            Spool(path, 100)
    with pytest.raises(UserError, match=r"folder: cannot be written: unable to open"):
        Spool(folder, 100)
    assert (text.read_bytes(), other.read_bytes()) == before
    assert not list(tmp_path.glob(".*"))  # no lock stays
