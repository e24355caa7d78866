"""The arithmetic of the time grid, drawn small and checked by counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SamplingConfig
from pipeline.errors import UserError
from pipeline.sampling import (
    Window,
    evaluation_clips,
    grid_range,
    grid_seconds,
    lengthen,
    spread,
    training_clip,
    window_starts,
)


def test_the_grid_of_the_docstring() -> None:
    assert grid_range(2.0, 0.0, 3.4) == range(7)
    assert grid_range(2.0, 1.0, 2.0) == range(2, 4)  # half-open: 1.0 and 1.5
    assert grid_seconds([0, 3], 2.0) == [0.0, 1.5]
    assert grid_range(25.0, 0.0, 10.0) == range(250)


def test_the_grid_of_a_stretch_between_two_grid_frames_is_the_frame_before() -> None:
    assert grid_range(1.0, 2.2, 2.8) == range(2, 3)
    assert grid_range(1.0, 0.2, 0.8) == range(1)


def test_a_float_duration_does_not_grow_a_frame() -> None:
    assert len(grid_range(10.0, 0.0, 0.1 + 0.2)) == 3  # 0.30000000000000004
    assert grid_seconds([2997], 29.97) == [100.0]


@pytest.mark.parametrize("interval", [(-1.0, 2.0), (2.0, 2.0), (3.0, 2.0)])
def test_an_impossible_interval_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="start < end"):
        grid_range(8.0, *interval)


@given(start=st.floats(0, 100), length=st.floats(0.01, 50), fps=st.sampled_from([1.0, 8.0, 12.5, 29.97]))
def test_grid_frames_lie_in_their_interval(start: float, length: float, fps: float) -> None:
    grid = grid_range(fps, start, start + length)
    times = np.arange(0, int((start + length) * fps) + 2) / fps
    inside = int(((times >= start - 1e-7) & (times < start + length - 1e-7)).sum())
    assert len(grid) >= 1
    assert abs(len(grid) - max(inside, 1)) <= (1 if inside else 0)
    if inside:
        assert grid[0] / fps >= start - 1e-6
        assert grid[-1] / fps < start + length


def test_short_videos_follow_the_policy() -> None:
    assert lengthen([4, 5, 6], 5, "hold_last") == [4, 5, 6, 6, 6]
    assert lengthen([4, 5, 6], 5, "loop") == [4, 5, 6, 4, 5]
    assert lengthen([4, 5, 6], 3, "error") == [4, 5, 6]
    with pytest.raises(UserError, match=r"3 grid frames and a clip needs 5"):
        lengthen([4, 5, 6], 5, "error")


def test_spread_takes_the_middle_of_equal_parts() -> None:
    assert spread(8, 4) == [1, 3, 5, 7]
    assert spread(10, 1) == [5]
    assert spread(2, 4) == [0, 0, 1, 1]


@given(length=st.integers(1, 200), num_frames=st.integers(1, 32), mode=st.sampled_from(["dense", "uniform"]))
def test_clips_have_the_length_asked_for_and_stay_on_the_grid(length: int, num_frames: int, mode: str) -> None:
    config = SamplingConfig(num_frames=num_frames, mode=mode)
    grid = range(5, 5 + length)
    clips = evaluation_clips(grid, config, num_frames + 1)
    clips.append(training_clip(grid, config, num_frames + 1, np.random.default_rng(0)))
    for clip in clips:
        assert len(clip) == num_frames + 1
        assert set(clip) <= set(grid)
        assert clip == sorted(clip)
        if mode == "dense" and length > num_frames:
            assert clip == list(range(clip[0], clip[0] + num_frames + 1))


def test_dense_training_clips_start_everywhere_and_chance_is_the_generators() -> None:
    config = SamplingConfig(num_frames=4)
    rng = np.random.default_rng(0)
    starts = {training_clip(range(10), config, 4, rng)[0] for _ in range(300)}
    assert starts == set(range(7))
    twice = [training_clip(range(100), config, 4, np.random.default_rng([1, 2, 3])) for _ in range(2)]
    assert twice[0] == twice[1]


def test_evaluation_clips_are_spread_and_never_twice_the_same() -> None:
    config = SamplingConfig(num_frames=4, num_eval_clips=3)
    assert [clip[0] for clip in evaluation_clips(range(16), config, 4)] == [2, 6, 10]
    assert len(evaluation_clips(range(5), config, 4)) == 2
    assert len(evaluation_clips(range(3), config, 4)) == 1


def test_uniform_evaluation_clips_share_the_parts_and_never_a_frame_of_a_long_video() -> None:
    config = SamplingConfig(num_frames=4, num_eval_clips=3, mode="uniform")
    assert evaluation_clips(range(24), config, 4) == [[1, 7, 13, 19], [3, 9, 15, 21], [5, 11, 17, 23]]
    assert evaluation_clips(range(4), config, 4) == [[0, 1, 2, 3]]
    one = SamplingConfig(num_frames=4, num_eval_clips=1, mode="uniform")
    assert evaluation_clips(range(24), one, 4) == [[3, 9, 15, 21]]


@given(num_grid=st.integers(1, 300), num_frames=st.integers(1, 40), stride=st.integers(1, 40))
def test_windows_cover_every_frame_and_end_with_the_video(num_grid: int, num_frames: int, stride: int) -> None:
    starts = list(window_starts(num_grid, num_frames, stride))
    assert starts == sorted(set(starts))
    assert starts[-1] == max(num_grid - num_frames, 0)
    assert all(later - start <= stride for start, later in itertools.pairwise(starts))
    if stride <= num_frames:
        covered = {k for start in starts for k in range(start, min(start + num_frames, num_grid))}
        assert covered == set(range(num_grid))


def test_a_windows_time_ends_with_the_video() -> None:
    assert Window(8, 24).seconds(8.0, 2.5) == (1.0, 2.5)
    assert Window(8, 24).seconds(8.0, 60.0) == (1.0, 3.0)
    with pytest.raises(ValueError, match="positive"):
        list(window_starts(10, 0, 1))
