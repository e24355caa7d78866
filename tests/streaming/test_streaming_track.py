"""A source's scores are those of a file with the same pictures, whatever was held, and however it came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.clip import Segment
from pipeline.config import InferenceConfig, TimelineConfig
from pipeline.inference import Model
from pipeline.streaming.feeds import Portion
from pipeline.streaming.track import Begun, Scored, SourceTrack
from pipeline.timeline.scores import WindowScores
from tests.small import small_model

NO_FRAMES = torch.empty(0, 3, 40, 40, dtype=torch.uint8)
MODELS = {name: Model(small_model(input=name)) for name in ("rgb", "rgb_diff", "rgb+rgb_diff")} | {
    "clips": Model(small_model(input_frames=3))
}
WINDOWS = InferenceConfig(mode="windows", stride_frames=1)
STREAM = InferenceConfig(mode="stream")


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_track(model: Model, inference: InferenceConfig) -> SourceTrack:
    return SourceTrack(model, inference, TimelineConfig(min_seconds=0))


def pushed(track: SourceTrack, portions: list[Portion]) -> Scored:
    scored = Scored()
    with torch.inference_mode():
        for portion in portions:
            scored += track.begin(portion)
            held = track.hold(portion)
            scored += track.push(held, track.embedder.push(portion.frames))
        return scored + track.end()


def assert_same(got: tuple[WindowScores, ...], expected: tuple[WindowScores, ...]) -> None:
    assert [s.window for s in got] == [s.window for s in expected]
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


def engine_scores(model: Model, frames: Tensor, inference: InferenceConfig) -> tuple[WindowScores, ...]:
    """All frames in one go, as the engine does with a file."""
    scorer = model.scorer(inference)
    with torch.inference_mode():
        return (*scorer.push(model.embed(frames[None])[0]), *scorer.finish())


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from(list(MODELS)), st.sampled_from([WINDOWS, STREAM]))
def test_held_frames_score_as_in_a_file_that_stands_still(
    data: st.DataObject, input: str, inference: InferenceConfig
) -> None:
    model = MODELS[input]
    portions, shown, index = [], [], 0
    for number, held in enumerate(data.draw(st.lists(st.integers(0, 3), min_size=6, max_size=12))):
        num_held = held if number else 0
        new = pictures(13)[number : number + data.draw(st.integers(0 if number else 1, 1))]
        if num_held + len(new):
            portions.append(Portion(index, num_held, new, is_first=not number))
            shown += shown[-1:] * num_held + list(new)
            index += num_held + len(new)
    got = pushed(make_track(model, inference), portions)
    assume(len(shown) > model.file.transform.lookback_frames)
    assert_same(got.windows, engine_scores(model, torch.stack(shown), inference))


@pytest.mark.parametrize("input", MODELS)
@pytest.mark.parametrize("inference", [WINDOWS, STREAM])
def test_a_gap_begins_anew_and_times_go_on(input: str, inference: InferenceConfig) -> None:
    model, frames = MODELS[input], pictures(20)
    portions = [Portion(3, 0, frames[:8], is_first=True), Portion(30, 0, frames[8:], is_first=True)]
    got = pushed(make_track(model, inference), portions)
    expected: list[WindowScores] = []
    for first, part in ((3, frames[:8]), (30, frames[8:])):
        for scores in engine_scores(model, part, inference):
            window = replace(scores.window, start=scores.window.start + first, stop=scores.window.stop + first)
            expected.append(replace(scores, window=window))
    assert_same(got.windows, tuple(expected))
    fps = model.file.sampling.sample_fps
    segments = [event for event in got.segments if isinstance(event, Segment)]
    assert all(s.end_seconds <= 11 / fps or s.start_seconds >= 30 / fps for s in segments)
    begun = {(event.segment.label, event.segment.start_seconds) for event in got.segments if isinstance(event, Begun)}
    assert begun <= {(s.label, s.start_seconds) for s in segments}
    assert min(s.start_seconds for s in segments if s.start_seconds > 11 / fps) >= 30 / fps


@pytest.mark.parametrize("input", MODELS)
def test_after_a_reset_what_was_held_is_forgotten(input: str) -> None:
    """The state is new, and begins with the first new picture."""
    model, frames = MODELS[input], pictures(12)
    track = make_track(model, STREAM)
    pushed(track, [Portion(0, 0, frames[:4], is_first=True)])
    later = [Portion(4, 2, NO_FRAMES), Portion(6, 1, frames[4:5]), Portion(8, 0, frames[5:])]
    got = pushed(track, later)
    expected = engine_scores(model, frames[4:], STREAM)
    assert [s.window.start for s in got.windows] == [s.window.start + 7 for s in expected]
    np.testing.assert_allclose([s.probabilities for s in got.windows], [s.probabilities for s in expected], atol=1e-5)


def test_memory_of_a_track_does_not_grow() -> None:
    model, frames = MODELS["rgb_diff"], pictures(8)
    track = make_track(model, WINDOWS)
    with torch.inference_mode():
        for number in range(40):
            portion = Portion(8 * number, 0, frames, is_first=not number)
            track.begin(portion)
            track.push(track.hold(portion), track.embedder.push(portion.frames))
    assert len(track.embedder._before) == 1
