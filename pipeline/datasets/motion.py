"""The motion set: small real video files in which only time tells the classes apart.

Classes come in pairs (moves_right and moves_left, grows and shrinks ...). Clip NNNN of a class, decoded and reversed,
is bit for bit clip NNNN of its partner class, in the same split: whatever does not look at the order of frames is
right on exactly half of the two. Beside the clips there are long untrimmed videos with ground-truth segments.

    train/<class>/0000.mp4   val/<class>/0000.mp4   test/<class>/0000.mp4     even numbers MP4 (H.264),
    train/<class>/0001.avi   ...                                              odd numbers AVI (MPEG-4)
    untrimmed/000.mp4        untrimmed/segments.json, and manifest.csv, the same as a table
    motion_set.json          the config, and whether the set is complete
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Segment
from pipeline.datasets.motion_actions import (
    CHANGES,
    TURNING,
    Action,
    OppositeActions,
    ShapeBeside,
    State,
    after,
    draw_action,
    draw_start,
    draw_state,
    make_track,
)
from pipeline.datasets.motion_files import write_video
from pipeline.datasets.motion_scene import SHAPES, draw_look, render, with_shape
from pipeline.errors import UserError
from pipeline.files.lock import make_folders
from pipeline.files.writing import write_atomically
from pipeline.schema import read_checked, read_json

PARTNER = {a: b for change in CHANGES for a, b in ((change.rising, change.falling), (change.falling, change.rising))}
"""The class that a clip of each class belongs to when time runs backwards."""

MOTION_CLASSES = tuple(sorted(PARTNER))
"""The classes in which something happens, in the order of the class index."""

BACKGROUND = "background"
"""The class in which nothing happens: the shape rests, or there is none."""

_VERSION = 3
"""Counts up when the same config makes other videos."""
_STATE_FILE = "motion_set.json"
_SPLITS = ("train", "val", "test")
_UNTRIMMED = "untrimmed"
_BACKGROUND_CLIPS = 3
"""Background clips for each clip of another class: there are more ways for nothing to happen."""
_REST_SHARE = 0.15
"""A clip shows at most this share of its action's time as rest before or after it."""
_EMPTY_SHARE = 0.15
"""Share of the background clips without a shape."""
_RADIUS_OF_TWO = 0.85
"""Of a shape that is not alone, in terms of one that is."""
_ENOUGH_ROOM, _NUM_TRIES = 0.45, 8
"""Between the centres of two shapes, and how often an action is drawn that leaves it."""

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class MotionSetConfig:
    """Settings of a motion set. The same config makes the same bytes."""

    num_train_clips: int = 160
    """Training clips of each class."""
    num_val_clips: int = 8
    """Validation clips of each class."""
    num_test_clips: int = 16
    """Test clips of each class."""
    size_px: int = 96
    """Width and height of every frame, even."""
    fps: int = 10
    """Frames per second."""
    num_frames: int = 16
    """Frames in a clip."""
    background: bool = True
    """Also a class in which nothing happens, so that a timeline can say so."""
    num_untrimmed: int = 3
    """Long videos with segments."""
    untrimmed_seconds: float = 40.0
    """Length of a long video."""
    num_shapes: int = 1
    """Shapes in a long video, 1 or 2. Each of two has actions of its own, at its own times."""
    min_action_seconds: float = 1.6
    """The shortest action, in clips and long videos."""
    max_action_seconds: float = 2.4
    """The longest action, in clips and long videos."""
    min_rest_seconds: float = 1.0
    """The shortest pause between two actions of a long video."""
    max_rest_seconds: float = 2.5
    """The longest pause between two actions of a long video."""
    seed: int = 0
    """Another seed makes other videos."""

    def __post_init__(self) -> None:
        rules = {
            "num_train_clips, num_val_clips, num_test_clips and num_untrimmed must not be negative": min(
                self.num_train_clips, self.num_val_clips, self.num_test_clips, self.num_untrimmed
            )
            >= 0,
            "size_px must be even and at least 32": self.size_px >= 32 and self.size_px % 2 == 0,
            "fps must be at least 1 and num_frames at least 2": self.fps >= 1 and self.num_frames >= 2,
            "num_shapes must be 1 or 2": self.num_shapes in (1, 2),
            "action times must be 0 < min <= max": 0 < self.min_action_seconds <= self.max_action_seconds,
            "rest times must be 0 <= min <= max": 0 <= self.min_rest_seconds <= self.max_rest_seconds,
            "untrimmed_seconds must have room for one action and the rests around it": self.untrimmed_seconds
            >= self.max_action_seconds + 2 * self.max_rest_seconds,
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise UserError(f"motion set: {'; '.join(broken)}; got {self}")


def make_motion_set(root: Path, config: MotionSetConfig) -> Path:
    """Makes the set in ``root``, unless it is there already, whole and of the same config.

    Args:
        root: a new or empty folder, or one with a motion set, which is replaced if it is not this one.
        config: settings; the default takes some ten seconds on one core.

    Returns:
        ``root``, to be read as ``folder``.

    Raises:
        UserError: the folder holds something else.
    """
    if _is_complete(root, config):
        return root
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / _STATE_FILE).exists())):
        raise UserError(f"{root} holds something that is no motion set; choose a new or empty folder for it")
    make_folders(root)
    # Written first, so that a set that was cut off is known as ours and may be replaced.
    _write_state(root, config, complete=False)
    for part in (*_SPLITS, _UNTRIMMED):
        shutil.rmtree(root / part, ignore_errors=True)
    for split_index, part in enumerate(_SPLITS):
        _make_clips(root / part, config, split_index, getattr(config, f"num_{part}_clips"))
    _make_untrimmed(root / _UNTRIMMED, config)
    _write_state(root, config, complete=True)
    return root


def read_motion_segments(root: Path) -> dict[Path, tuple[Segment, ...]]:
    """The ground truth of each long video of the set in ``root``: its actions in order; between them nothing happens.

    Raises:
        UserError: there is no motion set.
    """
    source = root / _UNTRIMMED / "segments.json"
    if not source.exists():
        raise UserError(f"no {source}; make the motion set first")
    listed = read_json(source.read_text(encoding="utf-8"), str(source))
    found = read_checked(dict[str, tuple[Segment, ...]], listed, str(source))
    return {source.parent / name: segments for name, segments in found.items()}


def _state(root: Path, config: MotionSetConfig, complete: bool) -> dict[str, Any]:
    text = json.dumps({"version": _VERSION, **asdict(config)}, sort_keys=True)
    files = [path for part in (*_SPLITS, _UNTRIMMED) for path in (root / part).rglob("*") if path.is_file()]
    return {
        "config": asdict(config),
        "digest": sha256(text.encode()).hexdigest(),
        "complete": complete,
        "num_files": len(files) if complete else 0,
        "num_bytes": sum(path.stat().st_size for path in files) if complete else 0,
    }


def _is_complete(root: Path, config: MotionSetConfig) -> bool:
    path = root / _STATE_FILE
    wanted = json.dumps(_state(root, config, complete=True), indent=1)
    return path.is_file() and path.read_text(encoding="utf-8") == wanted


def _write_state(root: Path, config: MotionSetConfig, *, complete: bool) -> None:
    write_atomically(root / _STATE_FILE, json.dumps(_state(root, config, complete), indent=1))


def _make_clips(folder: Path, config: MotionSetConfig, split_index: int, num_clips: int) -> None:
    for clip_index in range(num_clips):
        name = f"{clip_index:04d}{'.avi' if clip_index % 2 else '.mp4'}"
        for pair_index, change in enumerate(CHANGES):
            rng = np.random.default_rng([config.seed, split_index, clip_index, pair_index])
            frames = _action_frames(rng, config, change)
            write_video(folder / change.rising / name, frames, config.fps, intra=True)
            write_video(folder / change.falling / name, frames[::-1], config.fps, intra=True)
        for copy in range(_BACKGROUND_CLIPS if config.background else 0):
            rng = np.random.default_rng([config.seed, split_index, clip_index, len(CHANGES) + copy])
            path = folder / BACKGROUND / (name if copy == 0 else f"{copy}_{name}")
            write_video(path, _rest_frames(rng, config), config.fps, intra=True)


def _action_frames(rng: np.random.Generator, config: MotionSetConfig, change: OppositeActions) -> Frames:
    """A stretch of an action that rises, uint8 ``[T, H, W, 3]``: as a window of a long video might see it."""
    action_seconds = float(rng.uniform(config.min_action_seconds, config.max_action_seconds))
    clip_seconds = config.num_frames / config.fps
    rest_seconds = _REST_SHARE * min(action_seconds, clip_seconds)
    spare_seconds = clip_seconds - action_seconds
    start = float(rng.uniform(min(0.0, spare_seconds) - rest_seconds, max(0.0, spare_seconds) + rest_seconds))
    state = draw_start(rng, change)
    action = draw_action(rng, change, 1, state, start, start + action_seconds)
    return _frames(rng, config, config.num_frames, state, [action], change.shapes)


def _rest_frames(rng: np.random.Generator, config: MotionSetConfig) -> Frames:
    state = draw_state(rng)
    if rng.uniform() < _EMPTY_SHARE:
        state = replace(state, opacity=0.0)
    return _frames(rng, config, config.num_frames, state, [])


def _frames(
    rng: np.random.Generator,
    config: MotionSetConfig,
    num_frames: int,
    state: State,
    actions: list[Action],
    shapes: tuple[str, ...] = tuple(SHAPES),
) -> Frames:
    look = draw_look(rng, config.size_px, shapes)
    seconds = np.arange(num_frames) / config.fps
    return render((look, make_track(rng, state, actions, seconds)))


def _make_untrimmed(folder: Path, config: MotionSetConfig) -> None:
    segments = {}
    for index in range(config.num_untrimmed):
        rng = np.random.default_rng([config.seed, len(_SPLITS), index])
        frames, actions = _two_shapes(rng, config) if config.num_shapes == 2 else _one_shape(rng, config, index)
        name = f"{index:03d}.mp4"
        write_video(folder / name, frames, config.fps, intra=False)
        segments[name] = [asdict(Segment(action.start_seconds, action.end_seconds, action.label)) for action in actions]
    if segments:
        write_atomically(folder / "segments.json", json.dumps(segments, indent=1))
        rows = [
            f"{name},{s['label']},{s['start_seconds']},{s['end_seconds']}" for name in segments for s in segments[name]
        ]
        write_atomically(folder / "manifest.csv", "\n".join(["path,label,start_seconds,end_seconds", *rows, ""]))


def _one_shape(rng: np.random.Generator, config: MotionSetConfig, index: int) -> tuple[Frames, list[Action]]:
    # Half of the long videos have the one shape that all classes show on.
    shape = "rounded" if index % 2 == 0 else str(rng.choice([name for name in SHAPES if name != "rounded"]))
    state = draw_state(rng)
    actions = _story(rng, config, state, shape)
    return _frames(rng, config, round(config.untrimmed_seconds * config.fps), state, actions, (shape,)), actions


def _two_shapes(rng: np.random.Generator, config: MotionSetConfig) -> tuple[Frames, list[Action]]:
    """Two smaller shapes, one before the other. No class is told of both at one moment."""
    shapes = rng.permutation(["rounded", str(rng.choice(TURNING))]).tolist()  # together they show all classes
    seconds = np.arange(round(config.untrimmed_seconds * config.fps)) / config.fps
    look = draw_look(rng, config.size_px, (shapes[0],))
    scene, actions, beside = [], list[Action](), None
    for shape in shapes:
        states = [draw_state(rng) for _ in range(_NUM_TRIES)]
        state = states[0] if beside is None else max(states, key=beside.distance)
        own = _story(rng, config, state, shape, beside)
        track = make_track(rng, state, own, seconds)
        beside, actions = ShapeBeside(tuple(own), track, config.fps), actions + own
        scene.append((with_shape(rng, look, shape), replace(track, radius=track.radius * _RADIUS_OF_TWO)))
    return render(*scene), sorted(actions, key=lambda action: action.start_seconds)


def _story(
    rng: np.random.Generator, config: MotionSetConfig, state: State, shape: str, beside: ShapeBeside | None = None
) -> list[Action]:
    """Actions with rests between them, each from where the last one ended; classes that came least often first. Of
    another shape the way is left free where it can be, and no class is told while that tells it."""
    actions: list[Action] = []
    times_told: Counter[str] = Counter()
    now = _whole_frames(rng, config, config.min_rest_seconds, config.max_rest_seconds)
    while True:
        end = now + _whole_frames(rng, config, config.min_action_seconds, config.max_action_seconds)
        if end / config.fps + config.min_rest_seconds > config.untrimmed_seconds:
            return actions
        times = now / config.fps, end / config.fps
        taken = {actions[-1].label} if actions else set()  # over again it would look like one long action
        taken |= beside.labels(*times) if beside else set()
        choices = _next_changes(state, shape, taken, times_told)
        if not choices:  # it has vanished, and while the other appears it cannot
            now = end
            continue
        drawn = []
        for _ in range(_NUM_TRIES if beside else 1):
            change, sign = choices[int(rng.integers(len(choices)))]
            drawn.append(draw_action(rng, change, sign, state, *times))
        actions.append(max(drawn, key=lambda action: _way_left(beside, state, action, config)))
        times_told[actions[-1].label] += 1
        state = after(state, actions[-1])
        now = end + _whole_frames(rng, config, config.min_rest_seconds, config.max_rest_seconds)


def _way_left(beside: ShapeBeside | None, state: State, action: Action, config: MotionSetConfig) -> float:
    """Distance between the shapes until after the rest that follows; more than enough is no better than enough."""
    if beside is None:
        return _ENOUGH_ROOM
    end_seconds = action.end_seconds + config.max_rest_seconds
    return min(beside.distance(state, action, action.start_seconds, end_seconds), _ENOUGH_ROOM)


def _whole_frames(rng: np.random.Generator, config: MotionSetConfig, low_seconds: float, high_seconds: float) -> int:
    return round(float(rng.uniform(low_seconds, high_seconds)) * config.fps)


def _next_changes(
    state: State, shape: str, taken: set[str], times_told: Counter[str]
) -> list[tuple[OppositeActions, int]]:
    """The changes that can start here, are none of those taken, and were told least often."""
    choices = [
        (change, sign)
        for change in CHANGES
        for sign, label in ((1, change.rising), (-1, change.falling))
        if label not in taken and change.fits(state, sign, shape)
    ]
    counts = [times_told[change.rising if sign > 0 else change.falling] for change, sign in choices]
    return [choice for choice, count in zip(choices, counts, strict=True) if count == min(counts)]
