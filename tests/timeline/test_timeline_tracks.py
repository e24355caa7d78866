"""Labels that may overlap: each label's segments are those of a timeline that knows no other label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import TimelineConfig
from pipeline.sampling import Window
from pipeline.timeline.scores import WindowScores
from pipeline.timeline.tracks import Tracks
from tests.reference.timeline import naive_labels, naive_stretches

LABELS, FPS = ("run", "jump", "wave"), 4.0


def frames_of(scores: np.ndarray) -> list[WindowScores]:
    return [WindowScores(Window(k, k + 1), row.astype(np.float32)) for k, row in enumerate(scores)]


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([(), (0.25, 0.5, 0.75)]),
    st.sampled_from([None, 0.25, 0.75]),
    st.sampled_from([None, 0.5]),
)
def test_each_label_is_a_timeline_of_its_own(
    seed: int, length: int, min_seconds: float, thresholds: tuple[float, ...], given: float | None, kept: float | None
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], (length, 3))
    exit_threshold = None if given is None or kept is None else kept * given
    config = TimelineConfig(min_seconds=min_seconds, enter_threshold=given, exit_threshold=exit_threshold)
    tracks = Tracks(LABELS, FPS, config, length / FPS, thresholds)
    found = [segment for frame in frames_of(scores) for segment in tracks.push(frame)] + tracks.finish()
    expected = set()
    for place, label in enumerate(LABELS):
        enter = given if given is not None else (thresholds or (0.5,) * 3)[place]
        own = scores[:, place : place + 1]
        labels = naive_labels(own, enter, enter if exit_threshold is None else exit_threshold)
        for kind, start, stop in naive_stretches(own, labels, FPS, min_seconds, length / FPS):
            if kind == 0:
                expected.add((start / FPS, stop / FPS, label, round(float(own[start:stop].mean()), 5)))
    assert {(s.start_seconds, s.end_seconds, s.label, round(s.score, 5)) for s in found} == expected
    assert len(found) == len(expected)


def test_all_labels_that_are_there_are_open() -> None:
    tracks = Tracks(LABELS, FPS, TimelineConfig(min_seconds=0.0))
    for frame in frames_of(np.array([[0.9, 0.1, 0.6], [0.9, 0.1, 0.7], [0.9, 0.8, 0.2]])):
        tracks.push(frame)
    assert [(s.label, s.start_seconds) for s in tracks.open] == [("run", 0.0), ("jump", 0.5)]
    assert [s.score for s in tracks.open] == pytest.approx([0.9, 0.8])
    assert [(s.label, s.start_seconds) for s in tracks.begun] == [("run", 0.0), ("wave", 0.0)]  # up to the frame before
    assert Tracks(LABELS, FPS).open == Tracks(LABELS, FPS).begun == ()
