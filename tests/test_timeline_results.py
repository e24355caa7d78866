"""Kept answers to whole videos: what nobody has looked at is not judged, what is not answered is told."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.clip import Segment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.identities import Judgeable, LeftOut
from pipeline.errors import UserError
from pipeline.timeline_results import (
    TimelineEvaluation,
    TimelineResult,
    load_timeline_evaluation,
    write_timelines,
)
from pipeline.unseen import whole_videos
from tests.runs import made_timelines

LABELS = ("a", "b", "background")


def evaluation_of(truth: str, found: str) -> TimelineEvaluation:
    """A label a second: a, b, - for background, ? for what nobody has looked at, or is not answered."""
    names = {"a": "a", "b": "b", "?": "unlabelled"}
    segments = []
    for side in (truth, found):
        edges = [0, *(k for k in range(1, len(side)) if side[k] != side[k - 1]), len(side)]
        spans = pairwise(edges)
        segments.append([Segment(float(s), float(e), names[side[s]]) for s, e in spans if side[s] != "-"])
    predicted = tuple(s for s in segments[1] if s.label != "unlabelled")
    abstained = tuple(s for s in segments[1] if s.label == "unlabelled")
    result = TimelineResult("v", "v", float(len(truth)), len(truth), tuple(segments[0]), predicted, abstained)
    return TimelineEvaluation(LABELS, 1.0, (result,))


def test_what_nobody_has_looked_at_is_not_judged() -> None:
    cut = evaluation_of("aaa-bbbb--", "aa--bbbbb-").summary()["on_grid"]
    found = evaluation_of("aaa-bb???bb--", "aa--bbaaabbb-").summary()["on_grid"]
    for name in ("frame_accuracy", "frame_accuracy_without_background", "false_alarms_per_hour", "found_share"):
        assert found[name] == cut[name]
    assert cut["frame_accuracy"] == 0.8
    assert evaluation_of("aaa-???---", "aaa--bb---").summary()["false_alarms_per_hour"] == 0


def test_what_is_not_answered_is_told() -> None:
    summary = evaluation_of("aaaabbbb--", "aaa?bb??a-").summary()
    assert summary["answered_share"] == pytest.approx(0.7)
    assert summary["frame_accuracy_answered"] == pytest.approx(6 / 7)
    assert summary["frame_accuracy"] == pytest.approx(0.6)  # no answer is background
    everything = evaluation_of("aaaabbbb--", "aaaabbbb--").summary()
    assert (everything["answered_share"], everything["frame_accuracy_answered"]) == (1.0, 1.0)


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    evaluation = made_timelines(4, tmp_path / "v.mp4")
    summary = evaluation.summary()
    assert summary["num_errors"] == 1
    paths = write_timelines(evaluation, tmp_path / "evaluation", summary)
    again = load_timeline_evaluation(paths[2])
    assert again == evaluation
    np.testing.assert_equal(again.summary(), summary)
    assert json.loads(paths[0].read_text())["f1_25"] == summary["f1_25"]
    assert paths[1].read_text().count(",predicted,") == sum(len(result.predicted) for result in evaluation.results)
    paths[2].write_text('{"labels": ["a"]}')
    with pytest.raises(UserError, match="missing"):
        load_timeline_evaluation(paths[2])


def test_a_video_of_which_a_stretch_is_left_out_is_left_out() -> None:
    rows = [VideoRow(Path(name), "a", name, start, start + 1.0, name=name) for name in "xyz" for start in (0.0, 5.0)]
    found = whole_videos(Judgeable(tuple(rows[1:]), (LeftOut("x", "trained on"),) * 2))
    assert [row.name for row in found.rows] == ["y", "y", "z", "z"]
    assert found.left_out == (LeftOut("x", "trained on"),)


def explained_keys() -> set[str]:
    """The keys on the page about them; N for a number, which stands for its like."""
    page = (Path(__file__).parents[1] / "docs" / "figures.md").read_text()
    return {re.sub(r"[0-9.]+", "N", name) for name in re.findall(r"`([a-z_0-9.]+)`", page)}


def test_every_key_is_explained(tmp_path: Path) -> None:
    summary = made_timelines(3, tmp_path).summary()
    keys = {*summary, *next(iter(summary["labels"].values()))}
    assert {re.sub(r"[0-9.]+", "N", key) for key in keys} - explained_keys() == set()
