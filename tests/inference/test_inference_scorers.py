"""Scorers: portions change nothing, a stream is the whole sequence scored once, a window is a clip."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config import InferenceConfig
from pipeline.errors import UserError
from pipeline.inference.scorers import SCORERS, Scorer, StreamScorer, WindowScorer
from pipeline.inference.torch_runtime import TorchHeads
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal.stack import TEMPORAL_HEADS
from pipeline.timeline.scores import WindowScores
from tests.small import small_model

NUM_FRAMES = 23
STREAMING_HEADS = [(name,) for name in TEMPORAL_HEADS] + [("convgru", "gru"), ("gru", "mean")]
cuts = st.lists(st.integers(1, NUM_FRAMES - 1), unique=True, max_size=6).map(sorted)


@cache
def recognizer_of(heads: tuple[str, ...], **model: object) -> Recognizer:
    return small_model(heads=heads, **model).recognizer


def features_of(recognizer: Recognizer, num_frames: int = NUM_FRAMES) -> Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return recognizer.embed(torch.rand(num_frames, 3, 32, 32, generator=generator))


def pushed(scorer: Scorer, projected: Tensor, cuts: list[int]) -> list[WindowScores]:
    scored = []
    for start, stop in pairwise([0, *cuts, len(projected)]):
        scored += scorer.push(projected[start:stop])
    return scored + scorer.finish()


def assert_same(got: list[WindowScores], expected: list[WindowScores]) -> None:
    assert [s.window for s in got] == [s.window for s in expected]
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


@pytest.mark.parametrize("heads", STREAMING_HEADS, ids="-".join)
@settings(max_examples=15, deadline=None)
@given(cuts=cuts, reset=st.integers(0, 9))
def test_any_portions_of_a_stream_give_the_scores_of_the_whole(
    heads: tuple[str, ...], cuts: list[int], reset: int
) -> None:
    recognizer = recognizer_of(heads)
    with torch.inference_mode():
        features = features_of(recognizer)
        projected = recognizer.project(features[None])[0]
        got = pushed(StreamScorer(TorchHeads(recognizer), reset), projected, cuts)
        parts = features.split(reset) if reset else [features]
        whole = torch.cat([recognizer.score(part[None])[0][0] for part in parts]).softmax(dim=-1).numpy()
    assert [(s.window.start, s.window.stop) for s in got] == [(k, k + 1) for k in range(NUM_FRAMES)]
    np.testing.assert_allclose([s.probabilities for s in got], whole, atol=1e-5)


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("heads", STREAMING_HEADS, ids="-".join)
@settings(max_examples=15, deadline=None)
@given(cuts=cuts, stride=st.integers(1, 12), length=st.integers(1, 8))
def test_windows_of_any_portions_are_the_clips_computed_alone(
    heads: tuple[str, ...], readout: str, cuts: list[int], stride: int, length: int
) -> None:
    recognizer = recognizer_of(heads, readout=readout)
    with torch.inference_mode():
        features = features_of(recognizer)
        got = pushed(WindowScorer(TorchHeads(recognizer), length, stride), recognizer.project(features[None])[0], cuts)
        last = NUM_FRAMES - length
        starts = sorted({*range(0, last, stride), last})
        assert [(s.window.start, s.window.stop) for s in got] == [(k, k + length) for k in starts]
        for scored, start in zip(got, starts, strict=True):
            expected = recognizer.classify(features[None, start : start + length])[0].softmax(dim=-1)
            np.testing.assert_allclose(scored.probabilities, expected, atol=1e-5)


def test_a_bidirectional_head_has_windows_and_no_stream() -> None:
    recognizer = recognizer_of(("convgru",), bidirectional=True)
    with torch.inference_mode():
        projected = recognizer.project(features_of(recognizer)[None])[0]
        assert_same(
            pushed(WindowScorer(TorchHeads(recognizer), 4, 3), projected, [5, 6, 17]),
            pushed(WindowScorer(TorchHeads(recognizer), 4, 3), projected, []),
        )
    with pytest.raises(UserError, match="reads the future and cannot score a stream"):
        StreamScorer(TorchHeads(recognizer))


def test_context_frames_move_what_a_score_covers() -> None:
    recognizer = recognizer_of(("gru",))
    with torch.inference_mode():
        projected = recognizer.project(features_of(recognizer, 6)[None])[0]
        windows = pushed(WindowScorer(TorchHeads(recognizer), 4, 4, first_frame=1), projected, [])
        stream = pushed(StreamScorer(TorchHeads(recognizer), first_frame=1), projected, [])
    assert [(s.window.start, s.window.stop) for s in windows] == [(0, 5), (2, 7)]
    assert [(s.window.start, s.window.stop) for s in stream] == [(k, k + 1) for k in range(1, 7)]


def test_memory_of_a_scorer_is_one_window() -> None:
    recognizer = recognizer_of(("convgru",))
    scorer = WindowScorer(TorchHeads(recognizer), 4, 2)
    with torch.inference_mode():
        projected = recognizer.project(features_of(recognizer)[None])[0]
        for _ in range(50):
            scorer.push(projected)
            kept = scorer._kept
            assert kept is not None
            assert kept.untyped_storage().nbytes() <= 4 * projected[0].nbytes


def test_settings_choose_the_scorer() -> None:
    file = small_model(heads=("gru",))
    heads = TorchHeads(file.recognizer)
    assert isinstance(SCORERS["windows"](heads, file, InferenceConfig()), WindowScorer)
    stream = InferenceConfig(mode="stream", reset_seconds=2)
    assert isinstance(SCORERS["stream"](heads, file, stream), StreamScorer)
    with pytest.raises(UserError, match="less than one grid frame"):
        SCORERS["stream"](heads, file, replace(stream, reset_seconds=0.05))
