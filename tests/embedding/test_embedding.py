"""``FrameEmbedder``: portions change nothing, a held frame is one pushed again, sources side by side do not mix."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import TransformConfig
from pipeline.embedding.frames import FrameEmbedder, embed_together, feature_places

INPUTS: tuple[Any, ...] = ("rgb", "rgb_diff", "rgb+rgb_diff")
FRAMES = np.random.default_rng(0).integers(0, 256, (12, 3, 2, 2), dtype=np.uint8)


def features_of(inputs: NDArray[np.uint8], input: str) -> NDArray[np.float32]:
    """Of ``[n, 1 + L, 3, S, S]``: the newest picture, its change, or both, flat."""
    now, before = inputs[:, -1].astype(np.float32), inputs[:, 0].astype(np.float32)
    parts = {"rgb": [now], "rgb_diff": [now - before], "rgb+rgb_diff": [now, now - before]}[input]
    return np.concatenate(parts, axis=1).reshape(len(inputs), -1)


def embedder_of(input: Any) -> FrameEmbedder:
    return FrameEmbedder(lambda inputs: features_of(inputs, input), TransformConfig(input=input))


def expected_of(frames: NDArray[np.uint8], input: str) -> NDArray[np.float32]:
    """Written anew, without portions."""
    if input == "rgb":
        return features_of(frames[:, None], input)
    return features_of(np.stack([np.stack(pair) for pair in pairwise(frames)]), input)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(INPUTS), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_portions_and_held_frames_are_as_all_frames_at_once(input: Any, steps: list[tuple[int, int]]) -> None:
    embedder, shown, got, place = embedder_of(input), [FRAMES[0]], [], 1
    got.append(embedder.push(FRAMES[:1]))
    for num_held, num_new in steps:
        got.append(embedder.hold(num_held))
        shown += [shown[-1]] * num_held
        new = FRAMES[place : place + num_new]
        got.append(embedder.push(new))
        shown += list(new)
        place += num_new
    found = [part for part in got if part is not None]
    frames = np.stack(shown)
    if len(frames) == 1 and input != "rgb":
        assert not found
    else:
        np.testing.assert_array_equal(np.concatenate(found), expected_of(frames, input))


@pytest.mark.parametrize("input", INPUTS)
def test_sources_side_by_side_do_not_mix(input: Any) -> None:
    ours, theirs = embedder_of(input), embedder_of(input)
    first = embed_together([ours, theirs], [FRAMES[:3], FRAMES[6:7]])
    second = embed_together([ours, theirs], [FRAMES[3:3], FRAMES[7:9]])
    np.testing.assert_array_equal(first[0], expected_of(FRAMES[:3], input))
    assert second[0] is None
    found = np.concatenate([part for part in (first[1], second[1]) if part is not None])
    np.testing.assert_array_equal(found, expected_of(FRAMES[6:9], input))


@pytest.mark.parametrize("input", INPUTS)
def test_a_reset_forgets_the_frames_before(input: Any) -> None:
    embedder = embedder_of(input)
    assert embedder.hold(2) is None
    embedder.push(FRAMES[:4])
    embedder.reset()
    assert embedder.hold(2) is None
    np.testing.assert_array_equal(embedder.push(FRAMES[4:8]), expected_of(FRAMES[4:8], input))


def test_a_frame_that_stands_still_is_embedded_once_at_most() -> None:
    sizes: list[int] = []

    def embed(inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(inputs))
        return features_of(inputs, "rgb_diff")

    embedder = FrameEmbedder(embed, TransformConfig(input="rgb_diff"))
    embedder.push(FRAMES[:2])
    embedder.hold(5)
    embedder.push(FRAMES[2:3])
    embedder.hold(5)
    assert sizes == [1, 1, 1]  # no change is no change after any picture


def test_places_of_a_clip_among_the_features_of_its_video() -> None:
    assert feature_places([4, 5, 6], 10, TransformConfig()) == [4, 5, 6]
    diff = TransformConfig(input="rgb_diff")
    assert feature_places([4, 5, 6], 10, diff) == [4, 5]
    assert feature_places([8, 9, 9, 9], 10, diff) == [8, 9, 9]  # held: the last place is that of no change
