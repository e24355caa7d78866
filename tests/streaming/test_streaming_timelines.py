"""Models of timelines on streams: cut, batched and joined with other sources in any way they answer the same, and their
memory stays what it is."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoint import ModelFile
from pipeline.clip import Prediction, Segment
from pipeline.config import InferenceConfig, SequenceConfig
from pipeline.inference import Model
from pipeline.streaming.sources import parse_sources
from pipeline.streaming.streams import Streams
from pipeline.timeline.scores import WindowScores
from tests.small import small_model
from tests.streaming.test_streaming import Events, assert_close, run
from tests.videos import resident_megabytes

KINDS: list[tuple[Any, Any]] = [("one", "rgb"), ("several", "rgb+rgb_diff"), ("one", "clips")]

LOOKED_BACK_AT = ("_before", "_num_still", "_held")


def timeline_file(labels: Any, input: Any = "rgb", **model: Any) -> ModelFile:
    """With all that may come late: a delay, and stages that refine."""
    kind = {"input_frames": 5} if input == "clips" else {"input": input}
    file = small_model(**kind, **{"heads": ("gru",), "refinement_stages": 2, **model})
    return replace(file, task="timeline", sequence=SequenceConfig(labels=labels, delay_frames=3))


@pytest.fixture(scope="module")
def videos(motion_root: Path) -> list[str]:
    """A long one and three short ones, one of them twice."""
    clips = sorted(str(path) for path in (motion_root / "test" / "grows").glob("*.mp4"))
    return [str(next((motion_root / "untrimmed").glob("*.mp4"))), *clips, clips[0]]


@pytest.mark.parametrize(("labels", "input"), KINDS)
def test_sources_together_are_each_alone_in_any_batch(videos: list[str], labels: Any, input: Any) -> None:
    model = Model(timeline_file(labels, input))
    expected = {path: list(model.predict(path, config=InferenceConfig(batch_size=16))) for path in set(videos)}
    segments = {path: list(model.segments(path, config=InferenceConfig(batch_size=16))) for path in set(videos)}
    for batch_size, paths in ((1, videos[1:]), (7, videos)):
        heard = Events()
        streams = Streams(model, heard, InferenceConfig(batch_size=batch_size))
        sources = parse_sources(paths, replay=True, fast=True)
        for source in sources:
            streams.add(source)
        run(streams)
        for source, path in zip(sources, paths, strict=True):
            assert_close(heard.of(Prediction, source.name), expected[path])
            assert_close(heard.of(Segment, source.name), segments[path])


@pytest.mark.parametrize(("labels", "input"), KINDS)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=6), saved_at=st.integers(0, 5))
def test_any_cut_gives_the_answers_of_the_whole(labels: Any, input: Any, cuts: list[int], saved_at: int) -> None:
    """Frames through the backbone in portions, and features through the heads; a state saved between two of them, with
    the frames that are looked back at."""
    model = Model(timeline_file(labels, input))
    frames = np.random.default_rng(0).integers(0, 256, (40, 3, 40, 40), dtype=np.uint8)
    whole = model.scorer(InferenceConfig())
    expected = whole.push(model.embedder().push(frames)) + whole.finish()
    embedder, scorer, found = model.embedder(), model.scorer(InferenceConfig()), []
    for number, portion in enumerate(np.split(frames, sorted(set(cuts)))):
        features = embedder.push(portion)
        if features is not None:
            found += scorer.push(features)
        if number == saved_at:
            scorer._state = _saved_and_loaded(scorer._state)  # type: ignore[union-attr]
            loaded = model.embedder()
            loaded.__dict__ |= {name: _saved_and_loaded(getattr(embedder, name)) for name in LOOKED_BACK_AT}
            embedder = loaded
    found += scorer.finish()
    assert [score.window for score in found] == [score.window for score in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


def _saved_and_loaded(state: Any) -> Any:
    from io import BytesIO

    buffer = BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("labels", ["one", "several"])
def test_a_state_saved_in_mid_stream_goes_on_to_the_bit(labels: Any) -> None:
    """With the states of the stages that refine, and the frames that a delayed answer still waits for."""
    model = Model(timeline_file(labels))
    features = model.embedder().push(np.random.default_rng(0).integers(0, 256, (30, 3, 40, 40), dtype=np.uint8))
    scorers = [model.scorer(InferenceConfig()) for _ in range(2)]
    for scorer in scorers:
        scorer.push(features[:13])
    scorers[1]._state = _saved_and_loaded(scorers[1]._state)  # type: ignore[union-attr]
    kept, loaded = (scorer.push(features[13:]) + scorer.finish() for scorer in scorers)
    assert all(np.array_equal(a.probabilities, b.probabilities) for a, b in zip(kept, loaded, strict=True))


@pytest.mark.parametrize("labels", ["one", "several"])
def test_memory_is_flat_over_many_frames(labels: Any) -> None:
    """Scorer and timeline of a stream, of which nothing but finished segments is kept by whoever asked for them. A
    hundred thousand frames: ``tools/benchmark_streams.py memory --timeline``."""
    model = Model(timeline_file(labels, heads=("mingru",), refinement_stages=1))
    scorer, tracks = model.scorer(InferenceConfig()), model.timeline()
    recognizer = model.file.recognizer  # type: ignore[union-attr]
    with torch.inference_mode():
        portion = recognizer.project(torch.randn(1, 1000, recognizer.num_features))[0]
    num_frames, measured = 0, []
    while num_frames < 12_000:
        scored: list[WindowScores] = scorer.push(portion)
        num_frames += len(portion)
        for score in scored:
            tracks.push(score)
        del scored
        if num_frames in (3_000, 12_000):
            gc.collect()
            tensors = sum(type(some) in (torch.Tensor, np.ndarray) for some in gc.get_objects())
            measured.append((tensors, resident_megabytes()))
    (tensors_before, before), (tensors, after) = measured
    assert tensors <= tensors_before + 5
    assert after < before + 5
