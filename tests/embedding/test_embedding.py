"""``FrameEmbedder``: portions change nothing, a held frame is one pushed again, sources side by side do not mix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import TransformConfig
from pipeline.embedding.frames import FrameEmbedder, embed_together, feature_places

INPUTS: dict[str, TransformConfig] = {
    "rgb": TransformConfig(),
    "rgb_diff": TransformConfig(input="rgb_diff"),
    "rgb+rgb_diff": TransformConfig(input="rgb+rgb_diff"),
    "clips of 2": TransformConfig(input_frames=2),
    "clips of 4": TransformConfig(input_frames=4),
}
FRAMES = np.random.default_rng(0).integers(0, 256, (12, 3, 2, 2), dtype=np.uint8)


def features_of(inputs: NDArray[np.uint8], input: str) -> NDArray[np.float32]:
    """Of ``[n, 1 + L, 3, S, S]``: the newest picture, its change, both, or the whole clip, flat."""
    if input.startswith("clips"):
        return inputs.astype(np.float32).reshape(len(inputs), -1)
    now, before = inputs[:, -1].astype(np.float32), inputs[:, 0].astype(np.float32)
    parts = {"rgb": [now], "rgb_diff": [now - before], "rgb+rgb_diff": [now, now - before]}[input]
    return np.concatenate(parts, axis=1).reshape(len(inputs), -1)


def embedder_of(input: str) -> FrameEmbedder:
    return FrameEmbedder(lambda inputs: features_of(inputs, input), INPUTS[input])


def expected_of(frames: NDArray[np.uint8], input: str) -> NDArray[np.float32]:
    """Written anew, without portions."""
    length = {"rgb": 1, "rgb_diff": 2, "rgb+rgb_diff": 2, "clips of 2": 2, "clips of 4": 4}[input]
    return features_of(np.stack([frames[end - length : end] for end in range(length, len(frames) + 1)]), input)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(INPUTS)), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6)
)
def test_portions_and_held_frames_are_as_all_frames_at_once(input: str, steps: list[tuple[int, int]]) -> None:
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
    if len(frames) <= INPUTS[input].lookback_frames:
        assert not found
    else:
        np.testing.assert_array_equal(np.concatenate(found), expected_of(frames, input))


@pytest.mark.parametrize("input", INPUTS)
def test_sources_side_by_side_do_not_mix(input: str) -> None:
    ours, theirs = embedder_of(input), embedder_of(input)
    first = embed_together([ours, theirs], [FRAMES[:5], FRAMES[6:7]])
    second = embed_together([ours, theirs], [FRAMES[5:5], FRAMES[7:11]])
    np.testing.assert_array_equal(first[0], expected_of(FRAMES[:5], input))
    assert second[0] is None
    found = np.concatenate([part for part in (first[1], second[1]) if part is not None])
    np.testing.assert_array_equal(found, expected_of(FRAMES[6:11], input))


@pytest.mark.parametrize("input", INPUTS)
def test_a_reset_forgets_the_frames_before(input: str) -> None:
    embedder = embedder_of(input)
    assert embedder.hold(2) is None
    embedder.push(FRAMES[:4])
    embedder.reset()
    assert embedder.hold(2) is None
    np.testing.assert_array_equal(embedder.push(FRAMES[4:8]), expected_of(FRAMES[4:8], input))


@pytest.mark.parametrize(("input", "expected"), [("rgb_diff", [1, 1, 1]), ("clips of 4", [2, 1, 1, 1, 1, 1, 1, 1])])
def test_a_frame_that_stands_still_is_embedded_as_long_as_others_are_looked_back_at(
    input: str, expected: list[int]
) -> None:
    sizes: list[int] = []

    def embed(inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(inputs))
        return features_of(inputs, input)

    embedder = FrameEmbedder(embed, INPUTS[input])
    embedder.push(FRAMES[: 2 if input == "rgb_diff" else 5])
    embedder.hold(5)
    embedder.push(FRAMES[5:6])
    embedder.hold(2)
    embedder.hold(5)
    assert sizes == expected  # no change is no change after any picture


@pytest.mark.parametrize("input", INPUTS)
def test_places_of_a_clip_among_the_features_of_its_video(input: str) -> None:
    """Of clips anywhere in a video, and beyond its end, where the last frame is held; also of a video that is shorter
    than what is looked back at."""
    transform = INPUTS[input]
    for num_frames in (1, 2, 3, 12):
        video = FRAMES[:num_frames]
        embedder = embedder_of(input)
        parts = [embedder.push(video), embedder.hold(transform.lookback_frames)]
        features = np.concatenate([part for part in parts if part is not None])
        assert len(features) == num_frames
        for start in range(num_frames):
            clip = [min(place, num_frames - 1) for place in range(start, start + transform.frames_for(2))]
            places = feature_places(clip, transform)
            np.testing.assert_array_equal(features[places], expected_of(video[clip], input))
