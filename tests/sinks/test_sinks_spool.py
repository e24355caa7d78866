"""The spool: order and numbers through restarts, its limits, full disks, and what is no spool."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.sinks import spool as module
from pipeline.sinks.spool import Spool


def drained(spool: Spool, at_most: int = 10_000) -> list[dict[str, Any]]:
    """What waits, delivered at the next attempt; the spool is closed then."""
    events = []
    while len(events) < at_most and (event := spool.next()):
        events.append(json.loads(event[1]))
        spool.remove(event[0])
    spool.close()
    return events


def values_of(events: list[dict[str, Any]]) -> list[Any]:
    return [event["value"] for event in events]


def no_room(descriptor: int) -> None:
    """In the place of ``os.fsync``: no line comes to disk any more."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_events_come_out_in_order_and_are_counted_over_restarts(tmp_path: Path) -> None:
    path, out = tmp_path / "new" / "a.jsonl", []
    for start in (0, 3, 6):
        spool = Spool(path, 100)
        assert spool.num_waiting == (start > 0)  # the last of each run stays
        for number in range(start, start + 3):
            assert spool.add({"value": number, "label": "ü\n\ud800"}) == ""
        out += drained(spool, 2 + (start > 0))
    spool = Spool(path, 100)
    out += drained(spool)
    spool.close()
    assert values_of(out) == list(range(9))
    assert [event["sequence"] for event in out] == list(range(1, 10))
    assert {event["attempt"] for event in out} == {1}
    assert len({event["id"].rpartition("-")[0] for event in out}) == 3  # of the run in which it came
    assert [event["id"].rpartition("-")[2] for event in out] == [str(event["sequence"]) for event in out]
    assert out[0]["label"] == "ü\n\ud800"


def test_an_attempt_is_counted_before_it_is_made(tmp_path: Path) -> None:
    """So that a program that is killed on the way marks the event when it sends it again."""
    attempts = []
    for _ in range(3):
        spool = Spool(tmp_path / "a", 100)
        if spool.num_waiting == 0:
            spool.add({})
        for _ in range(2):
            event = spool.next()
            assert event is not None
            attempts.append(json.loads(event[1])["attempt"])
        spool.close()
    assert attempts == [1, 2, 3, 4, 5, 6]


def test_a_full_spool_loses_the_newest_and_leaves_a_gap_in_the_numbers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a", 2)
    for number in range(2):
        spool.add({"value": number})
    for number in (2, 3):
        with pytest.raises(UserError, match=r"2 wait already, as many as delivery\.max_events allows"):
            spool.add({"value": number})
    assert values_of(drained(spool)) == [0, 1]
    spool = Spool(tmp_path / "a", 2)
    spool.add({"value": 4})
    (event,) = drained(spool)
    assert (event["value"], event["sequence"]) == (4, 3)  # in a run without a restart it would be 5


def test_events_that_a_full_disk_did_not_take_share_no_id_with_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivered, and then the program was killed: nothing on the disk tells of them."""
    seen = []
    for _ in range(2):
        spool = Spool(tmp_path / "a", 100)
        with monkeypatch.context() as patch:
            patch.setattr(module.Spool, "_append", lambda self, line, to_disk: (_ for _ in ()).throw(UserError("full")))
            assert spool.add({}) == "full"
            seen += drained(spool)
    assert len({event["id"] for event in seen}) == 2


@pytest.mark.parametrize("cut_bytes", [1, 20, 60])
def test_a_torn_line_is_cut_off(tmp_path: Path, cut_bytes: int) -> None:
    path = tmp_path / "a"
    spool = Spool(path, 100)
    for number in range(3):
        spool.add({"value": number, "padding": "x" * 50})
    spool.close()
    path.write_bytes(path.read_bytes()[:-cut_bytes])
    spool = Spool(path, 100)
    spool.add({"value": 3})
    assert values_of(drained(spool)) == [0, 1, 3]
    assert Spool(path, 100).num_waiting == 0


def test_a_full_disk_takes_nothing_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that it does not take are delivered in order with the others, and saved once there is room."""
    path = tmp_path / "a"
    spool = Spool(path, 100)
    spool.add({"value": 0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        for number in (1, 2):
            assert "a: cannot be written: the disk is full: make room, or" in spool.add({"value": number})
    assert spool.num_unsaved == 2
    assert path.read_text().count("value") == 1
    spool.add({"value": 3})
    first = spool.next()
    assert first is not None
    spool.remove(first[0])
    spool.close()
    assert spool.num_unsaved == 0
    assert values_of(drained(Spool(path, 100))) == [1, 2, 3]


def test_where_nothing_can_be_noted_each_event_is_delivered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file is emptied, so that it is not what fills the disk."""
    path = tmp_path / "a"
    spool = Spool(path, 100)
    for number in range(100):
        spool.add({"value": number})
    size = path.stat().st_size

    def refuse(self: module.LineFile, line: str) -> None:
        if '"spool"' not in line:
            self.close()
            raise UserError("the disk is full")

    monkeypatch.setattr(module.LineFile, "write", refuse)
    assert values_of(drained(spool)) == list(range(100))
    assert path.stat().st_size < size / 10


def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While some always wait, and when none does; names and numbers stay."""
    monkeypatch.setattr(module, "_MAX_SPENT_BYTES", 2000)
    path, spool = tmp_path / "a", Spool(tmp_path / "a", 100)
    seen = []
    for number in range(300):
        spool.add({"value": number})
        if number >= 5:
            event = spool.next()
            assert event is not None
            seen.append(json.loads(event[1]))
            spool.remove(event[0])
        assert path.stat().st_size < 4000
    spool.close()
    seen += drained(Spool(path, 100))
    assert values_of(seen) == list(range(300))
    assert [event["id"] for event in seen] == [
        f"{seen[0]['id'].partition('-')[0]}-{number + 1}" for number in range(300)
    ]
    assert Spool(path, 100).num_waiting == 0
    assert path.stat().st_size < 2500


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a", 100)
    with pytest.raises(UserError, match="another process writes there"):
        Spool(tmp_path / "a", 100)
    spool.close()
    spool.close()
    assert spool.next() is None
    Spool(tmp_path / "a", 100).close()


def test_what_is_no_spool_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    spool = Spool(tmp_path / "good", 100)
    spool.add({"value": 1})
    spool.close()
    good = (tmp_path / "good").read_bytes()
    wrong = [
        b"precious\n" * 1000,
        b'{"sequence": 1, "event": {}}\n',
        good + b"\0\0\n",
        good + good,
        b'{"event": "run"}\n',
        b'{"spoon": 1}',
        b"precious",
    ]
    for number, content in enumerate(wrong):
        path = tmp_path / f"wrong{number}"
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=rf"^{path}:\d+: no spool of clipgru's, or damaged: move it away, or choose"
        ):
            Spool(path, 100)
        assert path.read_bytes() == content
    with pytest.raises(UserError, match=r"folder: cannot be written: that is a folder"):
        Spool(folder, 100)
    assert not list(tmp_path.glob(".*"))  # no lock stays
