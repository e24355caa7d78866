"""From windows to segments, against rules applied to whole lists one by one, and segments counted by hand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.clip import Segment
from pipeline.config import TimelineConfig
from pipeline.errors import UserError
from pipeline.sampling import Window, window_starts
from pipeline.timeline.scores import FloatArray, FrameMeans, WindowScores
from pipeline.timeline.segments import Timeline, merge_segments
from tests.reference.timeline import (
    naive_frames,
    naive_labels,
    naive_smooth,
    naive_stretches,
)

LABELS = ("run", "jump", "background")


def windows_of(frame_labels: list[int], num_frames: int = 1) -> list[WindowScores]:
    """One window at each frame, sure of the label of its first frame."""
    scores = np.full((len(frame_labels), 3), 0.05, dtype=np.float32)
    scores[np.arange(len(frame_labels)), frame_labels] = 0.9
    last = len(frame_labels) - num_frames
    return [WindowScores(Window(i, i + num_frames), scores[i]) for i in range(last + 1)]


def frame_scores(windows: Iterable[WindowScores]) -> Iterator[tuple[int, FloatArray]]:
    means = FrameMeans()
    for scored in windows:
        yield from means.push(scored)
    yield from means.flush()


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


@pytest.mark.parametrize("unknown", [[], [3], [0, 1, 2], [4, 5, 9], list(range(12))], ids=str)
def test_a_window_that_the_rule_calls_unknown_opens_nothing(unknown: list[int]) -> None:
    """One window a frame: what is left is each run of known frames, whatever the scores say."""
    scores = np.array([0.1, 0.8, 0.1], np.float32)
    windows = [WindowScores(Window(k, k + 1), scores, k in unknown) for k in range(12)]
    config = TimelineConfig(min_seconds=0.0, report_unknown=True)
    segments = list(merge_segments(windows, LABELS, 1.0, 12.0, config))
    named = [LABELS[1] if k not in unknown else "unknown" for k in range(12)]
    assert [s.label for s in segments for _ in range(round(s.end_seconds - s.start_seconds))] == named
    assert all(a.label != b.label for a, b in pairwise(segments))
    assert all(s.score == pytest.approx(1.0 if s.label == "unknown" else 0.8) for s in segments)


def test_most_of_the_windows_over_a_frame_decide_whether_it_is_unknown() -> None:
    """Windows of three frames, one after each: the frame amid two unknown ones and a known one is unknown."""
    scores = np.array([0.1, 0.8, 0.1], np.float32)
    unknown = {3, 4}
    windows = [WindowScores(Window(k, k + 3), scores, k in unknown) for k in range(10)]
    (first, second) = merge_segments(windows, LABELS, 1.0, 12.0, TimelineConfig(min_seconds=0.0))
    shares = [np.mean([w.is_unknown for w in windows if w.window.start <= k < w.window.stop]) for k in range(12)]
    hidden = [k for k, share in enumerate(shares) if share > 0.5]
    assert (first.end_seconds, second.start_seconds) == (hidden[0], hidden[-1] + 1)


# Cases for the properties: windows of a video, and how they are to become segments.

FPS = 5.0


@st.composite
def videos(draw: st.DrawFn) -> tuple[list[WindowScores], float]:
    """Windows of some length and stride, down to one frame each, and where the video ends, often within a frame. Scores
    are multiples of 1/16, so that their sums are exact in any order, and are often equal."""
    num_frames = draw(st.integers(1, 40))
    length = draw(st.integers(1, 6))
    stride = draw(st.integers(1, length))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    levels = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], (num_frames, 3)).repeat(int(rng.integers(1, 5)), axis=0)
    windows = [
        WindowScores(Window(start, min(start + length, num_frames)), levels[start].astype(np.float32))
        for start in window_starts(num_frames, length, stride)
    ]
    return windows, (num_frames - draw(st.sampled_from([0.0, 0.25, 0.9]))) / FPS


timeline_configs = st.builds(
    lambda smoothing, enter, keep, min_seconds, unknown: TimelineConfig(
        smoothing_seconds=smoothing,
        enter_threshold=enter,
        exit_threshold=None if keep is None else keep * enter,
        min_seconds=min_seconds,
        report_unknown=unknown,
    ),
    st.sampled_from([0.0, 0.4, 1.2, 3.0]),
    st.sampled_from([0.0, 0.4, 0.6, 0.9]),
    st.sampled_from([None, 0.0, 0.5, 0.9]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0, 4.0]),
    st.booleans(),
)


def segments_of(windows: list[WindowScores], end: float, config: TimelineConfig) -> list[Segment]:
    return list(merge_segments(windows, LABELS, FPS, end, config))


@settings(deadline=None, max_examples=200)
@given(videos(), timeline_configs)
def test_segments_are_those_of_the_rules_on_whole_lists(
    video: tuple[list[WindowScores], float], config: TimelineConfig
) -> None:
    windows, end = video
    scores = naive_frames([(w.window.start, w.window.stop, w.probabilities) for w in windows], windows[-1].window.stop)
    scores = naive_smooth(scores, round(config.smoothing_seconds * FPS / 2)).astype(np.float32)
    labels = naive_labels(scores, config.enter_threshold, config.keep_threshold)
    stretches = naive_stretches(scores, labels, FPS, config.min_seconds, end)
    names = (*LABELS, "unknown")
    silent = {"background"} | (set() if config.report_unknown else {"unknown"})
    expected = [
        (pytest.approx(start / FPS), pytest.approx(min(stop / FPS, end)), names[label])
        for label, start, stop in stretches
        if names[label] not in silent
    ]
    got = segments_of(windows, end, config)
    assert [(s.start_seconds, s.end_seconds, s.label) for s in got] == expected
    known = np.concatenate([scores, 1 - scores.max(axis=1, keepdims=True)], axis=1, dtype=np.float64)
    means = [known[start:stop, label].mean() for label, start, stop in stretches if names[label] not in silent]
    assert [s.score for s in got] == pytest.approx(means)


@settings(deadline=None, max_examples=200)
@given(videos(), timeline_configs)
def test_segments_are_ordered_apart_inside_and_long_enough(
    video: tuple[list[WindowScores], float], config: TimelineConfig
) -> None:
    windows, end = video
    segments = segments_of(windows, end, config)
    edges = [edge for s in segments for edge in (s.start_seconds, s.end_seconds)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= end for edge in edges)
    assert all(s.end_seconds - s.start_seconds >= min(config.min_seconds, end) - 1e-6 for s in segments)
    assert all(a.label != b.label or a.end_seconds < b.start_seconds for a, b in pairwise(segments))
    assert all(0 <= s.score <= 1 for s in segments)


@settings(deadline=None)
@given(videos(), timeline_configs)
def test_pushed_one_by_one_they_are_the_same_and_never_taken_back(
    video: tuple[list[WindowScores], float], config: TimelineConfig
) -> None:
    windows, end = video
    whole = segments_of(windows, end, config)
    timeline = Timeline(LABELS, FPS, config)
    got: list[Segment] = []
    for window in windows:
        got += timeline.push(window)
        assert got == whole[: len(got)]
    assert got + timeline.finish(end) == whole
    assert timeline.open == ()
    assert timeline.finish(end) == []


@settings(deadline=None)
@given(videos(), timeline_configs)
def test_the_open_segment_is_the_one_of_a_video_that_ends_now(
    video: tuple[list[WindowScores], float], config: TimelineConfig
) -> None:
    windows, _ = video
    timeline = Timeline(LABELS, FPS, config)
    for count, window in enumerate(windows, start=1):
        timeline.push(window)
        now = window.window.stop / FPS
        last = segments_of(windows[:count], now, config)[-1:]
        is_open = bool(last) and last[0].end_seconds == pytest.approx(now)
        assert timeline.open == (tuple(last) if is_open else ())


@settings(deadline=None)
@given(videos(), timeline_configs)
def test_what_has_begun_comes_out_with_the_same_start_and_label(
    video: tuple[list[WindowScores], float], config: TimelineConfig
) -> None:
    """It is told when it has lasted long enough and never taken back; one that ends in a later push was told before."""
    windows, _ = video
    timeline = Timeline(LABELS, FPS, config)
    begun: list[tuple[str, float]] = []
    ended: list[tuple[str, float]] = []
    for window in windows:
        before, pushed = list(begun), timeline.push(window)
        ended += [(segment.label, segment.start_seconds) for segment in pushed]
        if len(pushed) == 1 and window.window.stop - window.window.start == 1:
            assert ended[-1] in before
        for segment in timeline.begun:
            assert segment.end_seconds - segment.start_seconds >= config.min_seconds - 1e-6
            begun += [(segment.label, segment.start_seconds)] * ((segment.label, segment.start_seconds) not in begun)
    ended += [(segment.label, segment.start_seconds) for segment in timeline.finish()]
    assert begun == [key for key in ended if key in begun]
    assert timeline.begun == ()


@settings(deadline=None)
@given(videos(), videos(), timeline_configs, st.integers(1, 50))
@example((windows_of([0] * 5), 1.0), (windows_of([0] * 5), 1.0), TimelineConfig(min_seconds=3.0), 1)
def test_a_gap_ends_everything_and_starts_again(
    first: tuple[list[WindowScores], float],
    second: tuple[list[WindowScores], float],
    config: TimelineConfig,
    gap_frames: int,
) -> None:
    """Frames that are missing give what two videos would, with or without being told of it."""
    before, after = first[0], second[0]
    shift = before[-1].window.stop + gap_frames
    moved = [WindowScores(Window(w.window.start + shift, w.window.stop + shift), w.probabilities) for w in after]
    expected = segments_of(before, before[-1].window.stop / FPS, config)
    later = segments_of(after, after[-1].window.stop / FPS, config)
    pushed, told = Timeline(LABELS, FPS, config), Timeline(LABELS, FPS, config)
    got = [s for w in (*before, *moved) for s in pushed.push(w)] + pushed.finish()
    assert got[: len(expected)] == expected
    assert [(s.start_seconds, s.label, s.score) for s in got[len(expected) :]] == [
        (pytest.approx(s.start_seconds + shift / FPS), s.label, s.score) for s in later
    ]
    parts = [s for w in before for s in told.push(w)] + told.finish()
    assert parts + [s for w in moved for s in told.push(w)] + told.finish() == got


def test_thresholds_by_hand() -> None:
    """Enter 0.6, exit 0.4: what starts low is unknown, what was high stays while it is middling."""
    scores = [0.5, 0.7, 0.5, 0.5, 0.3, 0.5, 0.7]
    windows = [
        WindowScores(Window(k, k + 1), np.array([score, 0.2, 0.1], np.float32)) for k, score in enumerate(scores)
    ]
    config = TimelineConfig(enter_threshold=0.6, exit_threshold=0.4, min_seconds=0.0)
    found = list(merge_segments(windows, LABELS, 1.0, 7.0, config))
    assert [(s.start_seconds, s.end_seconds, s.label) for s in found] == [(1, 4, "run"), (6, 7, "run")]
    assert found[0].score == pytest.approx((0.7 + 0.5 + 0.5) / 3)
    same = TimelineConfig(enter_threshold=0.6, min_seconds=0.0, report_unknown=True, unknown_label="?")
    found = list(merge_segments(windows, LABELS, 1.0, 7.0, same))
    assert [(s.start_seconds, s.label) for s in found] == [(0, "?"), (1, "run"), (2, "?"), (6, "run")]


def test_smoothing_moves_no_edge_and_is_late_by_half_of_itself() -> None:
    windows = windows_of([0] * 20 + [1] * 20)
    config = TimelineConfig(smoothing_seconds=2.0, min_seconds=0.0)
    timeline = Timeline(LABELS, 4.0, config)
    out = [(k, s) for k, w in enumerate(windows) for s in timeline.push(w)]
    ((known_at, segment),) = out
    assert (segment.start_seconds, segment.end_seconds) == (0.0, 5.0)
    # Frame 20 has the new label; 4 frames of smoothing; one more until its score is final, one until it is a whole one.
    assert known_at == 20 + 4 + 1 + 1


def test_a_segment_is_final_when_the_next_one_is_long_enough() -> None:
    """However long the next one lasts, and if it comes to nothing, not at all."""
    config = TimelineConfig(min_seconds=3.0)
    timeline = Timeline(LABELS, 1.0, config)
    out = [
        (k, s.label)
        for k, w in enumerate(windows_of([0] * 10 + [1] * 2 + [0] * 3 + [1] * 50))
        for s in timeline.push(w)
    ]
    assert out == [(10 + 5 + 3 + 1, "run")]
    (open_now,) = timeline.open
    assert (open_now.start_seconds, open_now.end_seconds, open_now.label) == (15.0, 65.0, "jump")


def test_a_segment_has_begun_when_it_is_long_enough() -> None:
    timeline = Timeline(LABELS, 1.0, TimelineConfig(min_seconds=3.0))
    told = []
    for window in windows_of([0] * 10 + [1] * 2 + [0] * 3 + [1] * 50):
        timeline.push(window)
        told.append([(s.label, s.start_seconds) for s in timeline.begun])
    # The score of a frame is final one later, and one later it is a whole frame.
    assert told == [[]] * 4 + [[("run", 0.0)]] * 15 + [[("jump", 15.0)]] * 46


def test_a_bad_setting_is_named() -> None:
    for wrong, text in [
        ({"enter_threshold": 1.5}, "enter_threshold"),
        ({"exit_threshold": 0.5}, "exit_threshold"),
        ({"enter_threshold": 0.3, "exit_threshold": 0.5}, "leaves later"),
        ({"smoothing_seconds": -1.0}, "smoothing_seconds"),
        ({"min_seconds": -1.0}, "min_seconds"),
    ]:
        with pytest.raises(UserError, match=text):
            TimelineConfig(**wrong)


def test_windows_out_of_order_are_an_error() -> None:
    timeline = Timeline(LABELS, 1.0)
    timeline.push(WindowScores(Window(5, 9), np.ones(3, np.float32)))
    with pytest.raises(ValueError, match="in order"):
        timeline.push(WindowScores(Window(4, 8), np.ones(3, np.float32)))


def test_memory_does_not_grow_with_the_video() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((64, 3), dtype=np.float32)
    timeline = Timeline(LABELS, 8.0, TimelineConfig(smoothing_seconds=1.0, enter_threshold=0.5, exit_threshold=0.3))

    def push(first: int, count: int) -> int:
        return sum(
            len(timeline.push(WindowScores(Window(k, k + 16), scores[k // 8 % 64])))
            for k in range(first, first + count)
        )

    push(0, 500)
    tracemalloc.start()
    found = push(500, 500)
    early = tracemalloc.get_traced_memory()[0]
    found += push(1000, 4000)
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert found > 100
    assert late - early < 20_000  # bytes
