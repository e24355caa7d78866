"""What watchers are told: cards, the strip of the last minute, pictures encoded once."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streaming import board
from pipeline.streaming.board import Board, BoardPicture, LabelStretch, describe_card, encode_jpeg, extend_runs
from pipeline.streaming.status import SourceStatus
from tests.live import LiveSource, wandering_square

STEPS = st.lists(st.tuples(st.integers(1, 50), st.sampled_from([None, "a", "b"])), min_size=1, max_size=200)


def label_at(steps: list[tuple[float, str | None]], time_seconds: float) -> tuple[str | None] | None:
    """The label of the first step at or after a time, as a tuple; None where nothing is known. Slow and plain."""
    for (before, _), (now, label) in pairwise(steps):
        if before <= time_seconds < now:
            return (label,) if now - before <= 2.0 else None
    return None


@given(STEPS)
def test_the_strip_is_the_last_minute_as_a_plain_search_finds_it(gaps: list[tuple[int, str | None]]) -> None:
    steps, runs, tenths = [], (), 0
    for gap, label in gaps:
        tenths += gap  # tenths of a second, so that no sum rounds
        steps.append((tenths / 10, label))
        runs = extend_runs(runs, tenths / 10, (label,) if label else (), (0,))
    for probe in np.arange(max(steps[0][0], steps[-1][0] - 60), steps[-1][0], 0.05):
        told = [run.labels or (None,) for run in runs if run.start_seconds <= probe < run.end_seconds]
        known = label_at(steps, float(probe))
        assert told == ([known] if known else [])
    assert all(one.end_seconds <= other.start_seconds for one, other in pairwise(runs))
    assert runs[0].end_seconds >= steps[-1][0] - 60


def test_a_source_that_starts_again_forgets_but_counts_on() -> None:
    runs = extend_runs(extend_runs((), 5.0, ("a",), (0,)), 6.0, ("a",), (0,))
    assert extend_runs(runs, 0.0, ("b",), (1,)) == (LabelStretch(1, 0.0, 0.0, ("b",), (1,)),)


def test_the_strip_of_a_stream_without_end_is_bounded() -> None:
    """A label that changes at each of 30 steps a second, for three minutes."""
    runs: tuple[LabelStretch, ...] = ()
    for step in range(5_400):
        runs = extend_runs(runs, step / 30, (f"label {step % 2}",), (step % 2,))
    assert len(runs) <= 60 * 30 + 2


def test_sources_come_and_go() -> None:
    shown = Board()
    first, second = LiveSource("one"), LiveSource("two")
    shown.publish([first.status(0), second.status(0)])
    one, two = (card.number for card in shown.cards)
    shown.publish([second.status(1)])
    assert [card.number for card in shown.cards] == [two]
    shown.publish([first.status(2), second.status(2)])
    assert shown.cards[1].number == two
    assert shown.cards[0].number not in {one, two}  # it was away: nothing of before is said of it
    assert len(shown.cards[0].runs) == len(shown.cards[1].runs) == 1


def test_two_sources_of_one_name_are_two() -> None:
    shown = Board()
    for step in range(3):
        shown.publish([LiveSource(labels=("a",)).status(step), LiveSource(labels=("b",)).status(step)])
    assert [[run.labels for run in card.runs] for card in shown.cards] == [[("a",)], [("b",)]]


def test_a_label_looks_the_same_on_every_source() -> None:
    shown = Board()
    for step in range(60):  # the second label after 5 seconds
        shown.publish([LiveSource("one", ("a", "b")).status(step), LiveSource("two", ("b", "c")).status(step)])
    styles = {pair for card in shown.cards for run in card.runs for pair in zip(run.labels, run.styles, strict=True)}
    assert {label for label, _ in styles} == {"a", "b", "c"}
    assert sorted(style for _, style in styles) == [0, 1, 2]


def test_labels_of_one_moment_stand_in_one_stretch() -> None:
    shown, status = Board(), LiveSource().status(0)
    for step, labels in enumerate([("a",), ("a", "b"), ("a", "b"), (), ("b",)]):
        shown.publish([replace(status, time_seconds=step / 2, labels=labels)])
    runs = shown.cards[0].runs
    assert [(run.start_seconds, run.end_seconds, run.labels, run.styles) for run in runs] == [
        (0.0, 0.0, ("a",), (0,)),
        (0.0, 1.0, ("a", "b"), (0, 1)),
        (1.0, 1.5, (), ()),
        (1.5, 2.0, ("b",), (1,)),
    ]
    assert json.loads(json.dumps(describe_card(shown.cards[0])))["labels"] == ["b"]


def test_before_the_first_picture_there_is_no_strip() -> None:
    shown = Board()
    shown.publish([SourceStatus("camera 0", "connecting")])
    assert shown.cards[0].runs == ()
    assert describe_card(shown.cards[0])["picture"] is None


def test_a_picture_is_encoded_when_asked_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    monkeypatch.setattr(board, "encode_jpeg", lambda rgb: encoded.append(1) or b"jpeg")
    shown, status = Board(), LiveSource().status(0)
    shown.publish([status])
    shown.publish([replace(status, message="the picture stands still")])
    assert not encoded
    assert [shown.cards[0].picture.jpeg() for _ in range(3)] == [b"jpeg"] * 3
    assert encoded == [1]


@pytest.mark.parametrize(("width", "height", "sent"), [(320, 240, (240, 320)), (1920, 1080, (540, 960))])
def test_a_jpeg_is_the_picture(width: int, height: int, sent: tuple[int, int]) -> None:
    rgb = wandering_square(7, width, height)
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(rgb), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert decoded.shape == (*sent, 3)
    expected = cv2.resize(rgb, sent[::-1], interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(decoded.astype(int) - expected).mean() < 4  # with red and blue exchanged it is 60


def test_pictures_without_a_neat_layout_are_encoded() -> None:
    mirrored = wandering_square(3)[:, ::-1]
    assert BoardPicture(1, mirrored).jpeg()[:2] == b"\xff\xd8"


def test_figures_that_json_does_not_know_are_left_out() -> None:
    status = replace(
        LiveSource().status(1),
        top=(("a", np.float32(0.25)), ("b", float("nan"))),
        latency_ms={"p50": np.float64(3.0), "p99": float("inf")},
        frames_in=np.int64(7),
    )
    shown = Board()
    shown.publish([status])
    told = json.loads(json.dumps(describe_card(shown.cards[0]), allow_nan=False))
    assert [score["score"] for score in told["top"]] == [0.25, None]
    assert told["latency_ms"] == {"p50": 3.0, "p99": None}
    assert told["frames_in"] == 7
