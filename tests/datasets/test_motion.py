"""The motion set: pairs are exact reversals after decoding, so nothing that is blind to order can tell them apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.clip import Segment
from pipeline.config import DataConfig
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.motion import (
    BACKGROUND,
    MOTION_CLASSES,
    PARTNER,
    MotionSetConfig,
    make_motion_set,
    read_motion_segments,
)
from pipeline.datasets.motion_actions import CHANGES, after, draw_action, draw_start, draw_state, make_track
from pipeline.datasets.motion_files import write_video
from pipeline.datasets.motion_scene import SHAPES, draw_look, render
from pipeline.errors import UserError

CONFIG = MotionSetConfig(
    num_train_clips=24, num_val_clips=2, num_test_clips=12, size_px=48, num_untrimmed=3, untrimmed_seconds=30
)
SMALL = MotionSetConfig(
    num_train_clips=2, num_val_clips=1, num_test_clips=1, size_px=32, num_untrimmed=1, untrimmed_seconds=12
)


Pixels = NDArray[Any]
Clips = dict[tuple[str, str], Pixels]


@pytest.fixture(scope="module")
def motion_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_motion_set(tmp_path_factory.mktemp("motion") / "set", CONFIG)


@pytest.fixture(scope="module")
def clips(motion_set: Path) -> Clips:
    """Every decoded training and test clip of the set, 0 to 1, [N, T, H, W, 3], by split and class."""
    return {
        (part, label): np.stack([decode(path) for path in sorted((motion_set / part / label).iterdir())])
        / np.float32(255)
        for part in ("train", "test")
        for label in MOTION_CLASSES
    }


def decode(path: Path) -> NDArray[np.uint8]:
    """Every frame in order, uint8 RGB [T, H, W, 3], by a plain sequential decode."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)])


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# The files


def test_the_classes_are_pairs() -> None:
    assert len(MOTION_CLASSES) == 12
    assert all(PARTNER[PARTNER[label]] == label != PARTNER[label] for label in MOTION_CLASSES)


def test_folders_and_numbers(motion_set: Path) -> None:
    found = read_annotations(DataConfig(format="folder", root=str(motion_set)))
    assert found.labels == tuple(sorted([*MOTION_CLASSES, BACKGROUND]))
    for part, num_clips in (("train", 24), ("val", 2), ("test", 12)):
        names = [f"{i:04d}{('.mp4', '.avi')[i % 2]}" for i in range(num_clips)]
        expected = [f"{part}/{label}/{name}" for label in MOTION_CLASSES for name in names]
        expected += [f"{part}/{BACKGROUND}/{copy}{name}" for copy in ("", "1_", "2_") for name in names]
        assert [row.name for row in found.splits[part]] == sorted(expected)


def test_partners_are_exact_reversals_once_decoded(motion_set: Path) -> None:
    for part in ("train", "val", "test"):
        for change in CHANGES:
            for path in sorted((motion_set / part / change.rising).iterdir())[:6]:
                frames, partner = decode(path), decode(motion_set / part / change.falling / path.name)
                assert frames.shape == (CONFIG.num_frames, CONFIG.size_px, CONFIG.size_px, 3)
                np.testing.assert_array_equal(frames, partner[::-1])
                assert np.abs(frames[0].astype(int) - frames[-1]).max() > 20  # and something did happen


def test_long_videos_are_drawn_in_blocks_that_do_not_show() -> None:
    rng = np.random.default_rng(0)
    look, state = draw_look(rng, 64), draw_state(rng)
    track = make_track(rng, state, [], np.arange(40) / 10)
    drawn = render((look, track))
    assert drawn.shape == (40, 64, 64, 3)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate([render((look, track[k : k + 1])) for k in range(40)]), drawn)


@pytest.mark.parametrize(("suffix", "intra"), [(".mp4", True), (".avi", True), (".mp4", False)])
def test_files_show_what_was_drawn(tmp_path: Path, suffix: str, intra: bool) -> None:
    rng = np.random.default_rng(0)
    look, state = draw_look(rng, 64), draw_state(rng)
    drawn = render((look, make_track(rng, state, [], np.arange(12) / 10)))
    drawn[6:] = drawn[6:, ::-1]  # a frame out of place would show
    write_video(tmp_path / f"a{suffix}", drawn, 10, intra=intra)
    assert np.abs(decode(tmp_path / f"a{suffix}").astype(int) - drawn).mean(axis=(1, 2, 3)).max() < 6


def test_no_two_clips_are_the_same(motion_set: Path) -> None:
    first_frames = {
        decode(path)[0].tobytes() for part in ("train", "test") for path in (motion_set / part / "grows").iterdir()
    }
    assert len(first_frames) == CONFIG.num_train_clips + CONFIG.num_test_clips


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_motion_set(tmp_path / "a", SMALL), make_motion_set(tmp_path / "b", SMALL)
    assert contents(first) == contents(second)
    other = contents(make_motion_set(tmp_path / "c", replace(SMALL, seed=1)))
    assert other.keys() == contents(first).keys()
    same = [name for name, data in contents(first).items() if data == other[name]]
    assert same == []


def test_the_same_frames_are_always_coded_the_same(tmp_path: Path) -> None:
    """An encoder whose rate control looks ahead gives other bytes once in a hundred times; so many are tried."""
    rng = np.random.default_rng(0)
    look, state = draw_look(rng, 32), draw_state(rng)
    frames = render((look, make_track(rng, state, [], np.arange(60) / 10)))
    for suffix, intra in ((".mp4", True), (".avi", True), (".mp4", False)):
        files = set()
        for _ in range(60):
            write_video(tmp_path / f"a{suffix}", frames, 10, intra=intra)
            files.add((tmp_path / f"a{suffix}").read_bytes())
        assert len(files) == 1


def test_more_clips_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    few = contents(make_motion_set(tmp_path / "few", SMALL))
    many = contents(make_motion_set(tmp_path / "many", replace(SMALL, num_train_clips=3, background=False)))
    kept = [name for name in few if not name.endswith(".json") and BACKGROUND not in name]
    assert all(many[name] == few[name] for name in kept)
    assert not any(BACKGROUND in name for name in many)


# Made once, made again


def test_a_whole_set_is_not_made_again(tmp_path: Path) -> None:
    root = make_motion_set(tmp_path, SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_motion_set(root, SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("damage", ["cut off", "clip lost", "clip cut short", "other config"])
def test_a_set_that_is_not_whole_or_not_this_one_is_made_anew(tmp_path: Path, damage: str) -> None:
    root = make_motion_set(tmp_path / "set", SMALL)
    whole = contents(root)
    clip = root / "train" / "grows" / "0000.mp4"
    if damage == "cut off":
        state = json.loads((root / "motion_set.json").read_text())
        (root / "motion_set.json").write_text(json.dumps(state | {"complete": False}))
    elif damage == "clip lost":
        clip.unlink()
    elif damage == "clip cut short":
        clip.write_bytes(clip.read_bytes()[:-1])
    else:
        make_motion_set(root, replace(SMALL, num_train_clips=3))
        assert (root / "train" / "grows" / "0002.mp4").exists()
    make_motion_set(root, SMALL)
    assert contents(root) == whole


def test_a_set_whose_making_failed_is_known_as_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.datasets.motion._make_untrimmed", fail)
        with pytest.raises(KeyboardInterrupt):
            make_motion_set(tmp_path / "set", SMALL)
    assert not json.loads((tmp_path / "set" / "motion_set.json").read_text())["complete"]
    make_motion_set(tmp_path / "set", SMALL)
    assert json.loads((tmp_path / "set" / "motion_set.json").read_text())["config"] == asdict(SMALL)
    assert (tmp_path / "set" / "untrimmed" / "000.mp4").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "holiday.mp4").write_bytes(b"precious")
    with pytest.raises(UserError, match="no motion set"):
        make_motion_set(tmp_path, SMALL)
    assert contents(tmp_path) == {"train/holiday.mp4": b"precious"}


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"size_px": 33}, "size_px must be even"),
        ({"size_px": 16}, "at least 32"),
        ({"num_frames": 1}, "num_frames at least 2"),
        ({"fps": 0}, "fps must be at least 1"),
        ({"num_val_clips": -1}, "must not be negative"),
        ({"min_action_seconds": 3.0}, "action times"),
        ({"max_rest_seconds": 0.5}, "rest times"),
        ({"untrimmed_seconds": 5.0}, "room for one action"),
    ],
)
def test_a_config_that_cannot_be_made_is_refused(wrong: dict[str, float], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        MotionSetConfig(**wrong)  # type: ignore[arg-type]


# Only time tells


def blind_to_order(frames: Pixels) -> Pixels:
    """The mean and spread over time of each part of the picture. [2 * 6 * 6 * 3]"""
    coarse = frames.reshape(len(frames), 6, 8, 6, 8, 3).mean(axis=(2, 4))
    return np.concatenate([coarse.mean(axis=0).ravel(), coarse.std(axis=0).ravel()])


def accuracy(clips: Clips, labels: tuple[str, ...], features: Callable[[Pixels], Pixels]) -> float:
    """Of a logistic regression on the features of each clip, on the test clips."""
    x = {part: np.stack([features(c) for label in labels for c in clips[part, label]]) for part in ("train", "test")}
    y = {part: [label for label in labels for _ in clips[part, label]] for part in ("train", "test")}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    return float(model.fit(x["train"], y["train"]).score(x["test"], y["test"]))


def test_what_is_blind_to_order_is_right_on_half(clips: Clips) -> None:
    for change in CHANGES:
        assert accuracy(clips, (change.rising, change.falling), blind_to_order) <= 0.55
    assert accuracy(clips, MOTION_CLASSES, blind_to_order) <= 0.55


def test_a_frame_from_a_random_place_says_nothing(clips: Clips) -> None:
    """Not the average alone: also single frames, drawn without regard to the class."""
    rng = np.random.default_rng(0)

    def one_frame(frames: Pixels) -> Pixels:
        coarse: Pixels = frames[rng.integers(len(frames))].reshape(6, 8, 6, 8, 3).mean(axis=(1, 3))
        return coarse.ravel()

    correct = [accuracy(clips, (change.rising, change.falling), one_frame) for change in CHANGES]
    assert np.mean(correct) <= 0.6  # 144 clips: 50 % with a standard error of 4 %


def shift_of_change(frames: Pixels) -> Pixels:
    """Simple, but sees order: where the picture differs from its mean at the end, against the start. [2]"""
    unlike = np.abs(frames - frames.mean(axis=0)).sum(axis=-1)  # [T, H, W]
    place = np.arange(frames.shape[1])

    def centre(part: Pixels) -> Pixels:
        weight = part.mean(axis=0) ** 2
        across, down = weight.sum(axis=0), weight.sum(axis=1)
        return np.array([(across * place).sum(), (down * place).sum()] / weight.sum())

    shift: Pixels = centre(unlike[-4:]) - centre(unlike[:4])
    return shift


@pytest.mark.parametrize("pair", [("moves_left", "moves_right"), ("moves_down", "moves_up")])
def test_what_sees_order_tells_moves_apart(clips: Clips, pair: tuple[str, str]) -> None:
    assert accuracy(clips, pair, shift_of_change) >= 0.9


def growth_of_edges(frames: Pixels) -> Pixels:
    """Simple, but sees order: how much more there is to see of a shape at the end than at the start. [1]"""
    contrast = frames.std(axis=(1, 2)).sum(axis=-1)
    return np.array([np.log(contrast[-4:].mean() / contrast[:4].mean())])


@pytest.mark.parametrize(
    "pair", [("grows", "shrinks"), ("appears", "vanishes"), ("square_then_circle", "circle_then_square")]
)
def test_what_sees_order_tells_change_of_size_apart(clips: Clips, pair: tuple[str, str]) -> None:
    assert accuracy(clips, pair, growth_of_edges) >= 0.9


def test_the_drawing_keeps_its_promises() -> None:
    """Right is right, down is down, clockwise is clockwise as seen, and a grown shape covers more."""
    seconds = np.arange(16) / 10
    for index, change in enumerate(CHANGES):
        rng = np.random.default_rng(index)
        state = draw_start(rng, change)
        action = draw_action(rng, change, 1, state, 0.0, 1.5)
        track = make_track(rng, state, [action], seconds)
        moved = {
            "moves_right": track.x,
            "moves_down": track.y,
            "turns_clockwise": track.angle,
            "grows": track.radius,
            "appears": track.opacity,
            "square_then_circle": track.roundness,
        }[action.label]
        assert moved[-1] - moved[0] > 0.08
        assert getattr(after(state, action), change.attribute) > getattr(state, change.attribute)


def test_clockwise_is_clockwise_as_seen() -> None:
    rng = np.random.default_rng(0)
    look = replace(
        draw_look(rng, 64, ("bar",)),
        background=np.zeros((70, 70, 3), np.float32),
        fill=np.ones((2, 3), np.float32),
    )
    state = replace(draw_state(rng), x=0.5, y=0.5, angle=0.4, log_radius=-2.0)
    picture = render((look, make_track(rng, state, [], np.zeros(1))))[0, :, :, 0].astype(float)
    y, x = np.mgrid[:64, :64] - 31.5
    assert (picture * x * y).sum() > 0  # a level bar turned clockwise points down on the right


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn_within_its_reach(shape: str) -> None:
    rng = np.random.default_rng(1)
    look = replace(draw_look(rng, 96, (shape,)), background=np.zeros((106, 106, 3), np.float32))
    look = replace(look, fill=np.ones((2, 3), np.float32))
    state = replace(draw_state(rng), x=0.5, y=0.5, log_radius=-2.0, roundness=0.0)
    picture = render((look, make_track(rng, state, [], np.zeros(1))))[0]
    y, x = np.mgrid[:96, :96] - 47.5
    covered = picture[:, :, 0] > 127
    assert 0.02 < covered.mean() < 0.3
    assert np.hypot(x, y)[covered].max() <= 1.5 * 24 + 2


# The long videos


def test_segments_are_in_order_apart_and_inside(motion_set: Path) -> None:
    listed = read_motion_segments(motion_set)
    assert [path.name for path in listed] == ["000.mp4", "001.mp4", "002.mp4"]
    for segments in listed.values():
        edges = [0.0, *(edge for segment in segments for edge in (segment.start_seconds, segment.end_seconds))]
        gaps = np.diff([*edges, CONFIG.untrimmed_seconds])
        assert min(gaps[::2]) >= CONFIG.min_rest_seconds - 0.051
        assert max(gaps[:-1:2]) <= CONFIG.max_rest_seconds + 0.051
        assert min(gaps[1::2]) >= CONFIG.min_action_seconds - 0.051
        assert max(gaps[1::2]) <= CONFIG.max_action_seconds + 0.051
        assert {segment.label for segment in segments} <= set(MOTION_CLASSES)
        assert all(a.label != b.label for a, b in pairwise(segments))
        assert len(segments) >= 5
    assert {segment.label for segments in listed.values() for segment in segments} >= set(MOTION_CLASSES) - {
        "grows",
        "shrinks",
    }


def test_long_videos_have_the_stated_length_and_move_when_they_say(motion_set: Path) -> None:
    for path, segments in read_motion_segments(motion_set).items():
        frames = decode(path)
        assert len(frames) == CONFIG.untrimmed_seconds * CONFIG.fps
        seconds = np.arange(len(frames)) / CONFIG.fps
        for segment in segments:
            inside = frames[(seconds >= segment.start_seconds) & (seconds <= segment.end_seconds)].astype(int)
            assert np.abs(inside[0] - inside[-1]).mean(axis=-1).max() > 25
        assert isinstance(segments[0], Segment)


def test_long_videos_are_coded_as_real_ones_are(motion_set: Path) -> None:
    with av.open(str(next(iter(read_motion_segments(motion_set))))) as container:
        kinds = {PictureType(frame.pict_type).name for frame in container.decode(video=0)}
    assert kinds == {"I", "P", "B"}


def test_segments_without_a_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make the motion set first"):
        read_motion_segments(tmp_path)


def test_the_tool_makes_the_set_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import make_motion_set as tool

    sizes = ["--num_train_clips", "2", "--num_val_clips", "1", "--num_test_clips", "1", "--num_untrimmed", "0"]
    monkeypatch.setattr("sys.argv", ["make_motion_set.py", str(tmp_path / "small"), *sizes, "--seed", "3"])
    assert tool.main() == 0
    config = MotionSetConfig(num_train_clips=2, num_val_clips=1, num_test_clips=1, num_untrimmed=0, seed=3)
    before = (tmp_path / "small" / "motion_set.json").stat().st_mtime_ns
    make_motion_set(tmp_path / "small", config)
    assert (tmp_path / "small" / "motion_set.json").stat().st_mtime_ns == before  # it was that very set
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["make_motion_set.py", str(tmp_path / "mine")])
    assert tool.main() == 2
    assert "holds something that is no motion set" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
