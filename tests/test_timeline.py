"""From windows to segments, against a plain table of averages and segments counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clip import Segment
from pipeline.config import TimelineConfig
from pipeline.sampling import Window, window_starts
from pipeline.timeline import (
    SegmentCounts,
    WindowScores,
    frame_scores,
    match_segments,
    merge_segments,
    temporal_iou,
)

LABELS = ("run", "jump", "background")


def windows_of(frame_labels: list[int], num_frames: int = 1) -> list[WindowScores]:
    """One window at each frame, sure of the label of its first frame."""
    scores = np.full((len(frame_labels), 3), 0.05, dtype=np.float32)
    scores[np.arange(len(frame_labels)), frame_labels] = 0.9
    last = len(frame_labels) - num_frames
    return [WindowScores(Window(i, i + num_frames), scores[i]) for i in range(last + 1)]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_frame_scores_are_means_of_the_windows_over_each(length: int, num: int, stride: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stride = min(stride, num)
    windows = [
        WindowScores(Window(s, min(s + num, length)), rng.random(3, dtype=np.float32))
        for s in window_starts(length, num, stride)
    ]
    got = list(frame_scores(windows))
    assert [index for index, _ in got] == list(range(length))
    for index, mean in got:
        covering = [w.probabilities for w in windows if w.window.start <= index < w.window.stop]
        np.testing.assert_allclose(mean, np.mean(covering, axis=0), rtol=1e-5)


def test_frame_scores_come_as_soon_as_they_are_final() -> None:
    def windows():  # type: ignore[no-untyped-def]
        yield WindowScores(Window(0, 4), np.ones(3, np.float32))
        yield WindowScores(Window(2, 6), np.ones(3, np.float32))
        raise AssertionError("frames 0 and 1 were final before this window was asked for")

    scores = frame_scores(windows())
    assert [next(scores)[0], next(scores)[0]] == [0, 1]


def test_runs_become_segments_and_background_becomes_none() -> None:
    segments = list(merge_segments(windows_of([0] * 8 + [2] * 8 + [1] * 8), LABELS, 4.0, 6.0))
    assert [(s.start_seconds, s.end_seconds, s.label) for s in segments] == [(0.0, 2.0, "run"), (4.0, 6.0, "jump")]
    assert segments[0].score == pytest.approx(0.9)


def test_the_last_segment_ends_with_the_video() -> None:
    (segment,) = merge_segments(windows_of([0] * 8), LABELS, 4.0, 1.9)
    assert segment.end_seconds == 1.9


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0] * 6 + [1] + [0] * 6, [(0, 13, "run")]),  # a flicker inside
        ([1] + [0] * 6, [(0, 7, "run")]),  # at the start
        ([0] * 6 + [1], [(0, 7, "run")]),  # at the end
        ([1], [(0, 1, "jump")]),  # nothing else to be
        ([0] * 6 + [1] * 3 + [2] * 6, [(0, 6, "run"), (6, 9, "jump")]),
    ],
)
def test_short_runs_go_to_a_neighbour(labels: list[int], expected: list[tuple[int, int, str]]) -> None:
    config = TimelineConfig(min_seconds=3.0)
    segments = merge_segments(windows_of(labels), LABELS, 1.0, 100.0, config)
    assert [(s.start_seconds, s.end_seconds, s.label) for s in segments] == expected


@given(st.lists(st.integers(0, 2), min_size=1, max_size=80), st.integers(1, 6))
def test_segments_are_ordered_apart_and_long_enough(labels: list[int], min_frames: int) -> None:
    config = TimelineConfig(min_seconds=float(min_frames))
    end = float(len(labels))
    segments = list(merge_segments(windows_of(labels), LABELS, 1.0, end, config))
    edges = [edge for s in segments for edge in (s.start_seconds, s.end_seconds)]
    assert edges == sorted(edges)
    assert all(s.end_seconds - s.start_seconds >= min(min_frames, end) for s in segments)


def test_intersection_over_union() -> None:
    assert temporal_iou(Segment(0, 4, "a"), Segment(2, 6, "a")) == pytest.approx(2 / 6)
    assert temporal_iou(Segment(0, 2, "a"), Segment(2, 4, "a")) == 0
    assert temporal_iou(Segment(1, 3, "a"), Segment(1, 3, "a")) == 1


def test_counts_by_hand() -> None:
    truth = [Segment(0, 10, "run"), Segment(10, 20, "jump"), Segment(30, 40, "run")]
    predicted = [
        Segment(0, 9, "run"),  # hit
        Segment(10, 20, "run"),  # wrong label
        Segment(31, 40, "run"),  # hit
        Segment(30, 39, "run"),  # the same truth again: false
    ]
    counts = match_segments(predicted, truth, 0.5)
    assert counts == SegmentCounts(hits=2, false_alarms=2, missed=1)
    assert counts.f1 == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert (SegmentCounts(1, 0, 1) + SegmentCounts(1, 2, 0)) == SegmentCounts(2, 2, 1)
    assert match_segments([], [], 0.5).f1 == 1
    assert match_segments([], truth, 0.5).f1 == 0
    assert match_segments([Segment(0, 4, "run")], [Segment(0, 10, "run")], 0.5).hits == 0
