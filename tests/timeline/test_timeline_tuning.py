"""The numbers by which scores become segments are those that a plain search finds best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from pipeline.config import TimelineConfig
from pipeline.sampling import Window
from pipeline.timeline.metrics.segments import match_segments
from pipeline.timeline.runs import RunBuilder, runs_of_frames
from pipeline.timeline.scores import WindowScores
from pipeline.timeline.segments import merge_segments
from pipeline.timeline.tracks import Tracks
from pipeline.timeline.tuning import ScoredVideo, choose_numbers

FPS = 5.0


def noisy_video(seed: int, levels: tuple[float, ...], num_frames: int = 400) -> ScoredVideo:
    """Labels that overlap, each on for 4 s and off for 4 s; a label's score is about its level where it is there, a
    third of that elsewhere, and now and then it flickers."""
    rng = np.random.default_rng(seed)
    phases = rng.integers(0, 40, len(levels))
    truth = (np.arange(num_frames)[:, None] + phases) // 20 % 2 == 1
    scores = np.where(truth, levels, np.array(levels) / 3) + rng.normal(0, 0.02, truth.shape)
    flickers = rng.random(truth.shape) < 0.04
    scores = np.where(flickers, np.array(levels) * 4 / 3 - scores, scores)
    return ScoredVideo(scores.clip(0, 1).astype(np.float32), truth, np.ones(num_frames, bool))


def test_each_label_has_the_threshold_of_the_best_f1() -> None:
    videos = [noisy_video(seed, (0.3, 0.6, 0.9)) for seed in range(3)]
    numbers = choose_numbers(videos, FPS)
    assert numbers is not None
    scores, truth = (np.concatenate([getattr(v, name) for v in videos]) for name in ("scores", "truth"))
    for place, threshold in enumerate(numbers.enter_thresholds):
        found = {t: f1_score(truth[:, place], scores[:, place] >= t) for t in (*np.arange(2, 49) / 50, threshold)}
        assert found[threshold] >= max(found.values()) - 0.006
    assert numbers.enter_thresholds == pytest.approx([0.2, 0.4, 0.6], abs=0.07)
    assert numbers.num_videos == 3


def test_the_shortest_segment_is_the_one_that_finds_most() -> None:
    """Judged by the timelines themselves, frame by frame, and a search over lengths."""
    videos = [noisy_video(seed, (0.4, 0.8)) for seed in range(2)]
    numbers = choose_numbers(videos, FPS)
    assert numbers is not None
    assert 0 < numbers.min_seconds < 4

    def f1(min_seconds: float) -> float:
        totals = []
        for overlap in (0.1, 0.25, 0.5):
            counts = []
            for video in videos:
                sides = []
                for scores in (video.scores, video.truth.astype(np.float32)):
                    is_truth = scores is not video.scores
                    config = TimelineConfig(min_seconds=0.0 if is_truth else min_seconds)
                    tracks = Tracks(("a", "b"), FPS, config, 80.0, () if is_truth else numbers.enter_thresholds)
                    frames = [WindowScores(Window(k, k + 1), row) for k, row in enumerate(scores)]
                    sides.append([s for frame in frames for s in tracks.push(frame)] + tracks.finish())
                counts.append(match_segments(*sides, overlap))
            totals.append(sum(counts[1:], counts[0]).f1)
        return float(np.mean(totals))

    best = f1(numbers.min_seconds)
    assert all(f1(frames / FPS) < best for frames in range(round(numbers.min_seconds * FPS)))
    assert all(f1(frames / FPS) <= best for frames in (3, 5, 8, 12, 20))


def test_of_one_label_at_a_time_the_length_alone_is_chosen() -> None:
    truth = np.eye(2, dtype=bool)[np.arange(200) // 20 % 2]
    scores = np.where(truth, 0.9, 0.1).astype(np.float32)
    scores[10::20] = scores[10::20, ::-1]  # one wrong frame in each stretch
    numbers = choose_numbers([ScoredVideo(scores, truth, np.ones(200, bool))], FPS, background=1)
    assert numbers is not None
    assert (numbers.enter_thresholds, numbers.min_seconds) == ((), 0.4)


def test_nothing_is_chosen_by_what_nobody_has_labelled() -> None:
    video = noisy_video(0, (0.3, 0.9))
    wrong = ScoredVideo(np.ones((50, 2), np.float32), np.zeros((50, 2), bool), np.zeros(50, bool))
    assert choose_numbers([wrong], FPS) is None
    assert choose_numbers([], FPS) is None
    assert choose_numbers([video, wrong], FPS) == choose_numbers([video], FPS)
    absent = ScoredVideo(video.scores, video.truth & [True, False], video.is_known)
    assert choose_numbers([absent], FPS).enter_thresholds[1] == 0.5  # type: ignore[union-attr]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 8))
def test_whole_runs_end_as_their_frames_do(seed: int, length: int, min_frames: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 0.25, 0.5, 1.0], (length, 3)).astype(np.float32)
    frames = [WindowScores(Window(k, k + 1), row) for k, row in enumerate(scores)]
    config = TimelineConfig(min_seconds=min_frames / FPS)
    expected = [
        (round(s.start_seconds * FPS), round(s.end_seconds * FPS), s.label)
        for s in merge_segments(frames, ("0", "1", "2"), FPS, length / FPS, config)
    ]
    builder = RunBuilder(min_frames)
    runs = [run for whole in runs_of_frames(scores.argmax(axis=1), scores) for run in builder.push(whole)]
    runs += builder.finish(length)
    assert [(run.start, run.stop, str(run.label)) for run in runs] == expected
