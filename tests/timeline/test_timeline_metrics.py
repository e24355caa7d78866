"""Metrics of timelines: against published figures, against slow plain code, and by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from pipeline.clip import Segment
from pipeline.config import TimelineConfig
from pipeline.datasets.timelines.reading import read_timelines
from pipeline.errors import UserError
from pipeline.schema import to_json
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo
from pipeline.timeline.metrics import (
    TimelineFigures,
    TimelineSettings,
    frame_average_precision,
    judge_timelines,
    pair_videos,
)
from pipeline.timeline.metrics.detection import rank_detections, rank_spots
from pipeline.timeline.metrics.figures import resample_videos
from pipeline.timeline.metrics.onsets import find_onsets
from pipeline.timeline.metrics.pairs import VideoPair
from pipeline.timeline.metrics.segments import SegmentCounts, bounds, edit_score, match_segments, temporal_iou
from pipeline.timeline.segments import merge_segments
from tests.reference.timeline import naive_levenshtein
from tests.reference.timeline_metrics import (
    naive_detection_ap,
    naive_frame_ap,
    naive_iou,
    naive_onsets,
    naive_runs,
    naive_segment_counts,
    naive_spotting_ap,
)
from tests.timeline.test_timeline import LABELS, windows_of

POINT = TimelineSettings(num_resamples=0)


def videos_of(spans: dict[str, list[tuple]], duration: float | None = None) -> list[LabelledVideo]:
    return [LabelledVideo(name, tuple(LabelledSpan(*s) for s in listed), duration) for name, listed in spans.items()]


def judge(predicted: list[Segment], truth: list[Segment], fps: float, duration: float) -> TimelineFigures:
    """One video."""
    pairs = pair_videos([LabelledVideo("a", tuple(truth), duration)], [LabelledVideo("a", tuple(predicted))], fps)
    return judge_timelines(pairs, POINT)


# Published figures.


def test_ed_tcn_on_50_salads_is_as_published(shared_data: Path) -> None:
    """Means over the five splits; and counted together over all their videos, as MS-TCN does."""
    root = shared_data / "salads50"
    splits = [
        judge_timelines(
            pair_videos(
                read_timelines(root / f"split{k}", "ms_tcn", "test"),
                read_timelines(root / f"split{k}" / "ed_tcn_predictions", "ms_tcn"),
            ),
            POINT,
        )
        for k in range(1, 6)
    ]
    published = {
        "frame_accuracy_by_video": 64.7,
        "edit": 59.8,
        "f1_10_by_video": 68.0,
        "f1_25_by_video": 63.9,
        "f1_50_by_video": 52.6,
    }
    for name, percent in published.items():
        assert 100 * np.mean([split.figures[name].value for split in splits]) == pytest.approx(percent, abs=0.05), name
    for iou, percent in {0.1: 67.1, 0.25: 63.0, 0.5: 51.9}.items():
        together = reduce(add, (split.counts[iou] for split in splits))
        assert 100 * together.f1 == pytest.approx(percent, abs=0.05)


def test_detection_and_spotting_are_those_of_the_published_code(shared_cases: Path) -> None:
    case = json.loads((shared_cases / "metrics" / "segments.json").read_text())
    truth = [
        LabelledVideo(name, tuple(LabelledSpan(**s) for s in video["segments"]), video["duration_seconds"])
        for name, video in case["truth"].items()
    ]
    found = [LabelledVideo(name, tuple(LabelledSpan(**s) for s in v)) for name, v in case["predictions"].items()]
    fps, spotting = case["spotting_fps"], case["spotting_map_at_tolerance_frames"]
    tolerances = tuple(int(frames) / fps for frames in spotting)
    judged = judge_timelines(pair_videos(truth, found), TimelineSettings(tolerances, spot_fps=fps, num_resamples=0))
    for iou, value in case["map_at_tiou"].items():
        assert judged.figures[f"map_iou_{round(100 * float(iou))}"].value == pytest.approx(value, abs=1e-6)
    for label, value in case["ap_at_tiou_50"].items():
        assert judged.labels[label]["ap_iou_50"] == pytest.approx(value, abs=1e-6)
    for seconds, value in zip(tolerances, spotting.values(), strict=True):
        found_value = judged.figures[f"spotting_map_within_{seconds:g}_seconds"].value
        assert found_value == pytest.approx(value, abs=1e-6)


# Segments.


def iou_of(a: Segment, b: Segment) -> float:
    return float(temporal_iou(bounds([a]), bounds([b]))[0, 0])


def test_intersection_over_union() -> None:
    assert iou_of(Segment(0, 4, "a"), Segment(2, 6, "a")) == pytest.approx(2 / 6)
    assert iou_of(Segment(0, 2, "a"), Segment(2, 4, "a")) == 0
    assert iou_of(Segment(1, 3, "a"), Segment(1, 3, "a")) == 1


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


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_edit_score_is_the_distance_by_its_definition(predicted: list[str], truth: list[str]) -> None:
    ours, theirs = ([Segment(k, k + 1, label) for k, label in enumerate(labels)] for labels in (predicted, truth))
    longest = max(len(predicted), len(truth))
    expected = 1 - naive_levenshtein(predicted, truth) / longest if longest else 1
    assert edit_score(ours, theirs) == pytest.approx(expected)


def test_agreement_by_hand() -> None:
    """Ten seconds at two frames a second; true run 0-4 and jump 6-10, found run 1-5, a false jump 5-6, jump 8-10."""
    truth = [Segment(0, 4, "run"), Segment(6, 10, "jump")]
    predicted = [Segment(1, 5, "run"), Segment(5, 6, "jump"), Segment(8, 10, "jump")]
    found = judge(predicted, truth, 2.0, 10.0).summary()
    # IoU of run: 3 / 5; of jump: 2 / 4. Two hits of three at every threshold.
    assert found["f1_10"] == found["f1_25"] == found["f1_50"] == pytest.approx(4 / 5)
    assert found["edit"] == pytest.approx(1 - 1 / 3)
    # Right frames: run 1-4 and jump 8-10, 6 + 4, none elsewhere: 0-1, 4-5, 5-6 and 6-8 are wrong.
    assert found["frame_accuracy"] == pytest.approx(10 / 20)
    assert found["frame_accuracy_without_background"] == pytest.approx(10 / 16)
    # run is answered a second late; jump is answered in time, by the span that ends where it starts? No: half-open.
    assert found["delay_mean_seconds"] == pytest.approx(1.5)
    assert found["found_share"] == 1
    # The jump of 5-6 meets no true jump; 10 seconds are 1 / 360 hour.
    assert found["false_alarms_per_hour"] == pytest.approx(360)
    perfect = judge(truth, truth, 2.0, 10.0).summary()
    shares = {name: value for name, value in perfect.items() if isinstance(value, float) and "_per_" not in name}
    assert {value for name, value in shares.items() if "seconds" not in name or "map" in name} == {1.0}
    assert perfect["delay_mean_seconds"] == perfect["false_alarms_per_hour"] == 0
    pairs = [
        *pair_videos([LabelledVideo("a", tuple(truth), 10.0)], [LabelledVideo("a", tuple(predicted))], 2.0),
        *pair_videos([LabelledVideo("b", tuple(truth), 10.0)], [LabelledVideo("b", tuple(truth))], 2.0),
    ]
    both = judge_timelines(pairs, POINT).summary()
    assert both["edit"] == pytest.approx((2 / 3 + 1) / 2)
    assert both["frame_accuracy"] == pytest.approx(30 / 40)
    assert both["f1_50"] == pytest.approx(8 / 9)
    assert both["f1_50_by_video"] == pytest.approx((4 / 5 + 1) / 2)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_frame_accuracy_counts_frames(ours: list[int], theirs: list[int]) -> None:
    length = min(len(ours), len(theirs))
    config = TimelineConfig(min_seconds=0.0)
    predicted, truth = (
        list(merge_segments(windows_of(labels[:length]), LABELS, 3.0, length / 3, config)) for labels in (ours, theirs)
    )
    found = judge(predicted, truth, 3.0, length / 3).figures["frame_accuracy"].value
    assert found == pytest.approx(sum(map(int.__eq__, ours, theirs)) / length)


steps = st.lists(st.sampled_from(["background", "a", "b"]), min_size=1, max_size=60)


@settings(deadline=None, max_examples=200)
@given(steps, steps, st.sampled_from([1.0, 5.0, 2.5, 30000 / 1001, 15.0]))
def test_labels_a_step_are_counted_in_whole_steps_at_any_rate(ours: list[str], theirs: list[str], fps: float) -> None:
    ours = (ours * 60)[: len(theirs)]
    truth, found = LabelledVideo("v", steps=tuple(theirs)), LabelledVideo("v", steps=tuple(ours))
    (pair,) = pair_videos([truth], [found], fps)
    judged = judge_timelines([pair], POINT)
    runs = [naive_runs(labels, "background") for labels in (ours, theirs)]
    for iou, exact in ((0.1, Fraction(1, 10)), (0.25, Fraction(1, 4)), (0.5, Fraction(1, 2))):
        counts = judged.counts[iou]
        assert (counts.hits, counts.false_alarms, counts.missed) == naive_segment_counts(*runs, exact)
    right = [a == b for a, b in zip(ours, theirs, strict=True)]
    assert judged.figures["frame_accuracy"].value == pytest.approx(np.mean(right))
    in_action = [flag for flag, label in zip(right, theirs, strict=True) if label != "background"]
    found_in_action = judged.figures["frame_accuracy_without_background"].value
    assert found_in_action == pytest.approx(np.mean(in_action)) if in_action else math.isnan(found_in_action)


# Ranked by score.


@st.composite
def two_sides(draw: st.DrawFn) -> tuple[dict[str, list[tuple]], dict[str, list[tuple]]]:
    """Truth and predictions of some videos in whole seconds, some of no length or of labels that are never true; every
    score is another."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    names = [f"v{k}" for k in range(draw(st.integers(1, 4)))]
    scores = iter(rng.permutation(200) / 200)

    def spans(labels: str) -> list[tuple]:
        found = []
        for _ in range(int(rng.integers(0, 7))):
            start, length = int(rng.integers(0, 20)), int(rng.integers(0, 6))
            found.append((start, start + length, str(rng.choice(list(labels))), float(next(scores))))
        return found

    return {name: spans("ab") for name in names}, {name: spans("abz") for name in names}


def pairs_of(truth: dict[str, list[tuple]], predictions: dict[str, list[tuple]]) -> list[VideoPair]:
    return pair_videos(videos_of(truth, 30.0), videos_of(predictions), 2.0)


@settings(deadline=None, max_examples=200)
@given(two_sides(), st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.95]))
def test_detection_against_plain_code(sides: tuple[dict, dict], min_iou: float) -> None:
    truth, predictions = sides
    pairs, once = pairs_of(truth, predictions), np.ones((1, len(truth)))
    for label in sorted({span[2] for spans in truth.values() for span in spans}):
        (value,) = rank_detections(pairs, label, [min_iou]).average_precision(once)[:, 0]
        assert value == pytest.approx(naive_detection_ap(truth, predictions, label, min_iou))


@settings(deadline=None, max_examples=200)
@given(two_sides(), st.integers(0, 4))
def test_spotting_against_plain_code(sides: tuple[dict, dict], tolerance: int) -> None:
    truth, predictions = sides
    pairs, once = pairs_of(truth, predictions), np.ones((1, len(truth)))
    for label in sorted({span[2] for spans in truth.values() for span in spans}):
        (value,) = rank_spots(pairs, label, [float(tolerance)]).average_precision(once)[:, 0]
        assert value == pytest.approx(naive_spotting_ap(truth, predictions, label, tolerance))


@settings(deadline=None, max_examples=200)
@given(two_sides(), st.integers(0, 3))
def test_delay_and_false_alarms_by_looking_at_every_moment(sides: tuple[dict, dict], late: int) -> None:
    truth, predictions = sides
    found = find_onsets(pairs_of(truth, predictions), float(late))
    delays, false = zip(*(naive_onsets(truth[name], predictions[name], late) for name in truth), strict=True)
    assert sorted(found.delays_seconds) == pytest.approx(sorted(delay for each in delays for delay in each))
    assert found.num_false_alarms.sum() == sum(false)
    figures = found.figures(np.ones((1, len(truth))))
    if len(found.delays_seconds):
        assert figures["delay_median_seconds"][0] == pytest.approx(np.median(found.delays_seconds))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_frame_average_precision_against_plain_code_and_scikit_learn(seed: int, has_ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.random((int(rng.integers(2, 40)), 3)), None
    scores = scores.round(1) if has_ties else scores
    targets = rng.random(scores.shape) < 0.3
    targets[0] = True
    plain, balanced = (frame_average_precision(scores, targets, calibrated=flag) for flag in (False, True))
    for label in range(3):
        assert plain[label] == pytest.approx(average_precision_score(targets[:, label], scores[:, label]))
        columns = scores[:, label].tolist(), targets[:, label].tolist()
        assert plain[label] == pytest.approx(naive_frame_ap(*columns, calibrated=False))
        assert balanced[label] == pytest.approx(naive_frame_ap(*columns, calibrated=True))


def test_labels_that_no_frame_has_and_scores_that_are_none() -> None:
    assert np.isnan(frame_average_precision(np.ones((3, 1)), np.zeros((3, 1)))).all()
    with pytest.raises(UserError, match="not a finite number"):
        frame_average_precision([[0.5], [math.nan]], [[1], [0]])
    truth, found = videos_of({"v": [(0, 1, "a")]}), videos_of({"v": [(0, 1, "a", math.nan)]})
    with pytest.raises(UserError, match="not a finite number"):
        judge_timelines(pair_videos(truth, found), POINT)


def test_frames_are_ranked_by_the_best_span_over_them() -> None:
    """Frames of a second: span scores against the same scores written frame by frame."""
    truth, found = {"v": [(0, 4, "a"), (6, 8, "a")]}, {"v": [(0, 6, "a", -0.5), (3, 7, "a", 2.0)]}
    judged = judge_timelines(pair_videos(videos_of(truth, 10.0), videos_of(found), 1.0), POINT)
    scores = [-0.5, -0.5, -0.5, 2, 2, 2, 2, -9, -9, -9]
    targets = [1, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    assert judged.figures["frame_map"].value == pytest.approx(average_precision_score(targets, scores))


def test_frames_are_ranked_by_a_models_own_scores_where_these_are_given() -> None:
    """Two labels at once, against the same arrays in one piece."""
    rng = np.random.default_rng(0)
    truth = {"v": [(0, 40, "a"), (30, 60, "b")], "w": [(10, 20, "a")]}
    scores = {name: {label: rng.random(100) for label in "ab"} for name in truth}
    pairs = [replace(pair, frame_scores=scores[pair.name]) for pair in pair_videos(videos_of(truth, 100.0), [], 1.0)]
    judged = judge_timelines(pairs, TimelineSettings(num_resamples=200))
    targets = np.zeros((200, 2), bool)
    targets[0:40, 0] = targets[30:60, 1] = targets[110:120, 0] = True
    together = np.stack([np.concatenate([scores[name][label] for name in truth]) for label in "ab"], axis=1)
    assert judged.figures["frame_map"].value == pytest.approx(frame_average_precision(together, targets).mean())
    balanced = frame_average_precision(together, targets, calibrated=True)
    assert judged.figures["frame_calibrated_map"].value == pytest.approx(balanced.mean())


def test_two_spans_without_length_match_as_in_activitynets_code() -> None:
    """0 / 0 is below no threshold there."""
    assert math.isnan(naive_iou((1, 1), (2, 2)))
    pairs = pairs_of({"v": [(1, 1, "a")]}, {"v": [(2, 2, "a", 0.5)]})
    assert rank_detections(pairs, "a", [0.9]).average_precision(np.ones((1, 1)))[0, 0] == 1


# Pairs.


def test_predictions_that_are_missing_count_as_empty() -> None:
    truth = {"v": [(0, 5, "a")], "w": [(0, 5, "a")]}
    judged = judge_timelines(pair_videos(videos_of(truth, 10.0), videos_of({"w": [(0, 5, "a", 0.9)]})), POINT)
    assert judged.num_videos == 2
    assert judged.figures["f1_50"].value == pytest.approx(2 / 3)
    assert judged.figures["map_iou_50"].value == pytest.approx(0.5)
    assert judged.figures["found_share"].value == pytest.approx(0.5)


def test_nothing_true_and_nothing_found_is_right() -> None:
    judged = judge_timelines(pair_videos([LabelledVideo("v", (), 10.0)], []), POINT)
    assert judged.figures["f1_50"].value == judged.figures["edit"].value == judged.figures["frame_accuracy"].value == 1
    assert judged.figures["false_alarms_per_hour"].value == 0
    assert math.isnan(judged.figures["map_iou_50"].value)
    false = judge_timelines(pair_videos([LabelledVideo("v", (), 10.0)], videos_of({"v": [(0, 5, "z", 1.0)]})), POINT)
    assert false.unknown_labels == ("z",)
    assert false.figures["f1_50"].value == false.figures["edit"].value == 0


def test_every_nth_step_is_found_from_the_numbers() -> None:
    truth = [LabelledVideo("v", steps=tuple("aaaabbbb")), LabelledVideo("w", steps=tuple("aaaabbb"))]
    found = [LabelledVideo("v", steps=tuple("aab")), LabelledVideo("w", steps=tuple("aab"))]
    pairs = pair_videos(truth, found, 30.0)
    assert {pair.sample_fps for pair in pairs} == {10.0}
    assert judge_timelines(pairs, POINT).figures["frame_accuracy"].value == 1
    with pytest.raises(UserError, match="no n for which"):
        pair_videos(truth, [found[0], LabelledVideo("w", steps=tuple("aa"))])


def test_steps_beyond_the_truth_are_no_frames_but_segments() -> None:
    (pair,) = pair_videos([LabelledVideo("v", steps=tuple("aab"))], [LabelledVideo("v", steps=tuple("aabc"))])
    judged = judge_timelines([pair], POINT)
    assert judged.figures["frame_accuracy"].value == 1
    assert judged.counts[0.5] == SegmentCounts(2, 1, 0)


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([], [LabelledVideo("v")], "no video"),
        ([LabelledVideo("v"), LabelledVideo("v", (), 1.0)], [], "twice"),
        ([LabelledVideo("v", steps=("a",))], [LabelledVideo("v")], "--sample_fps"),
    ],
)
def test_what_cannot_be_paired(truth: list[LabelledVideo], found: list[LabelledVideo], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pair_videos(truth, found)


# Intervals.


@settings(deadline=None, max_examples=25)
@given(two_sides())
def test_a_video_that_counts_twice_is_two_videos(sides: tuple[dict, dict]) -> None:
    """Every figure of a resample is that of a set in which each video stands as often as it was drawn."""
    from pipeline.timeline.metrics.figures import _Judged

    pairs = pairs_of(*sides)
    (weights,) = resample_videos(len(pairs), 1, seed=3)
    drawn = [pair for pair, count in zip(pairs, weights, strict=True) for _ in range(int(count))]
    ours = _Judged(pairs, POINT).figures(weights[None])
    theirs = _Judged(drawn, POINT).figures(np.ones((1, len(drawn))))
    for name, value in theirs.items():
        if not (np.isnan(value[0]) or "map" in name):
            assert ours[name][0] == pytest.approx(value[0]), name
    labels = {span.label for pair in drawn for span in pair.truth}
    for label in labels:  # the mean over labels is over those that were drawn
        at = [rank_detections(side, label, [0.5]) for side in (pairs, drawn)]
        assert at[0].average_precision(weights[None])[0] == pytest.approx(
            at[1].average_precision(np.ones((1, len(drawn))))[0]
        )


def many_videos(num: int, rng: np.random.Generator) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    sides: list[list[LabelledVideo]] = [[], []]
    for k in range(num):
        edges = np.sort(rng.uniform(0, 300, 30))
        labels = rng.integers(0, 17, 29)
        for side, shift in ((0, 0.0), (1, 1.0)):
            spans = [
                LabelledSpan(a + shift, b, str(label if rng.random() < 0.9 else 17 - label), rng.random())
                for a, b, label in zip(edges[:-1], edges[1:], labels, strict=True)
                if b - a > shift and (side == 0 or rng.random() < 0.8)
            ]
            sides[side].append(LabelledVideo(f"v{k}", tuple(spans), 300.0))
    return sides[0], sides[1]


def test_intervals_are_the_same_each_time_and_hold_the_figure() -> None:
    pairs = pair_videos(*many_videos(50, np.random.default_rng(0)))
    judged = judge_timelines(pairs)
    assert to_json(judged.summary()) == to_json(judge_timelines(pairs).summary())
    for name in ("edit", "f1_50", "f1_50_by_video", "frame_accuracy", "found_share", "false_alarms_per_hour"):
        figure = judged.figures[name]
        assert figure.low < figure.value < figure.high, name
    accuracies = judged.figures["frame_accuracy_by_video"]
    by_video = [judge_timelines([pair], POINT).figures["frame_accuracy"].value for pair in pairs]
    spread = 1.96 * np.std(by_video, ddof=1) / math.sqrt(len(by_video))
    assert accuracies.value == pytest.approx(np.mean(by_video))
    assert accuracies.high - accuracies.low == pytest.approx(2 * spread, rel=0.15)  # of a normal one


def test_one_video_has_no_interval() -> None:
    judged = judge_timelines(pair_videos(*many_videos(1, np.random.default_rng(1))))
    assert math.isfinite(judged.figures["edit"].value)
    assert math.isnan(judged.figures["edit"].low)


def test_the_summary_is_json_with_units_in_its_names() -> None:
    judged = judge_timelines(pair_videos(*many_videos(3, np.random.default_rng(1))))
    summary = json.loads(json.dumps(judged.summary()))
    assert {"delay_mean_seconds", "false_alarms_per_hour", "found_share", "map_iou_50", "edit"} < summary.keys()
    assert summary["interval_95"].keys() == judged.figures.keys()
    assert set(summary["labels"]) == set(judged.labels)


def test_a_video_without_frames_has_no_figures_of_frames() -> None:
    truth = LabelledVideo("v", (LabelledSpan(0.0, 1.0, "a"),), 0.0)
    found = judge_timelines(pair_videos([truth], [LabelledVideo("v")], 2.0), TimelineSettings(num_resamples=0)).figures
    assert np.isnan(found["frame_map"].value)
    assert np.isnan(found["frame_accuracy"].value)
    assert found["f1_50"].value == 0.0
