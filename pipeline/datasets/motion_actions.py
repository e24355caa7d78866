"""The classes of the motion set: the change in each, its extent and speed.

An action changes one number of the scene from a start to an end; its partner class changes it back. Everything else
that moves (a trembling shape, a swaying camera) is a sum of sines with random phases, which reversed in time is as
likely as it was. So a clip reversed is a fair clip of the partner class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.motion_scene import SHAPES, ShapeTrack

Times = NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """The shape at rest. ``log_radius`` is to base 2, so that growing is even."""

    x: float
    y: float
    angle: float
    log_radius: float
    opacity: float
    roundness: float


@dataclass(frozen=True)
class OppositeActions:
    """A pair of classes: ``attribute`` of the state rises in one and falls in the other."""

    rising: str
    falling: str
    attribute: str
    low: float
    high: float
    min_change: float
    max_change: float
    unbounded: bool = False
    """An angle: it may turn on from anywhere."""
    shapes: tuple[str, ...] = tuple(SHAPES)
    """Shapes on which the change shows."""

    def room(self, state: State, sign: int) -> float:
        """Return the distance that the attribute can go from here, up (1) or down (-1)."""
        value: float = getattr(state, self.attribute)
        if self.unbounded:
            return self.max_change
        return self.high - value if sign > 0 else value - self.low

    def fits(self, state: State, sign: int, shape: str) -> bool:
        """True if the action can start from this state. An invisible shape can only appear."""
        visible = state.opacity > 0 or self.attribute == "opacity"
        return visible and shape in self.shapes and self.room(state, sign) >= self.min_change - 1e-9


TURNING = ("triangle", "bar", "half_disc")
"""Shapes that look alike in few positions: they show that they turn, and which way."""

CHANGES = (
    OppositeActions("moves_right", "moves_left", "x", 0.22, 0.78, 0.36, 0.56),
    OppositeActions("moves_down", "moves_up", "y", 0.22, 0.78, 0.36, 0.56),
    OppositeActions(
        "turns_clockwise", "turns_anticlockwise", "angle", 0, 2 * math.pi, 2.4, 4.0, unbounded=True, shapes=TURNING
    ),
    OppositeActions("grows", "shrinks", "log_radius", math.log2(0.15), math.log2(0.34), 0.8, 1.15),
    OppositeActions("appears", "vanishes", "opacity", 0, 1, 1, 1),
    OppositeActions("square_then_circle", "circle_then_square", "roundness", 0, 1, 1, 1, shapes=("rounded",)),
)

_SWITCH_SHARE = 0.6
"""One shape becomes another within this middle share of the action: first the one, then the other."""
_TREMBLE = 0.004
_TREMBLE_RADIANS = 0.03
_MAX_SWAY = 0.03


@dataclass(frozen=True)
class Action:
    """One change of the state. It starts and ends at a time in seconds."""

    label: str
    attribute: str
    start_seconds: float
    end_seconds: float
    change: float
    ease: float
    """0: at constant speed; 1: starts and stops softly."""

    def offsets(self, seconds: Times) -> Times:
        """Return the change that the action has made to its attribute at each time, ``[T]``."""
        progress = np.clip((seconds - self.start_seconds) / (self.end_seconds - self.start_seconds), 0, 1)
        if self.attribute == "roundness":
            progress = np.clip(0.5 + (progress - 0.5) / _SWITCH_SHARE, 0, 1)
        soft = progress * progress * (3 - 2 * progress)
        return self.change * (progress + self.ease * (soft - progress))


def draw_state(rng: np.random.Generator) -> State:
    """A visible shape anywhere it may be."""
    bounds = {change.attribute: (change.low, change.high) for change in CHANGES}
    values = {name: float(rng.uniform(*limits)) for name, limits in bounds.items()}
    return State(**values | {"opacity": 1.0, "roundness": float(rng.integers(2))})


def draw_start(rng: np.random.Generator, change: OppositeActions) -> State:
    """A state from which ``change`` can rise."""
    start = float(rng.uniform(change.low, change.high - (0 if change.unbounded else change.min_change)))
    return replace(draw_state(rng), **{change.attribute: start})


def draw_action(
    rng: np.random.Generator, change: OppositeActions, sign: int, state: State, start_seconds: float, end_seconds: float
) -> Action:
    """Draw an action's change and ease: the change between its limits, as far as there is room."""
    reach = min(change.max_change, change.room(state, sign))
    amount = float(rng.uniform(change.min_change, max(change.min_change, reach)))
    label = change.rising if sign > 0 else change.falling
    return Action(label, change.attribute, start_seconds, end_seconds, sign * amount, float(rng.uniform()))


def after(state: State, action: Action) -> State:
    """The state when the action is over."""
    return replace(state, **{action.attribute: getattr(state, action.attribute) + action.change})


@dataclass(frozen=True)
class ShapeBeside:
    """The other shape of a scene, of which everything is settled."""

    actions: tuple[Action, ...]
    track: ShapeTrack
    fps: int

    def labels(self, start_seconds: float, end_seconds: float) -> set[str]:
        """Return the classes that it shows at some time of a stretch, or at the ends of it."""
        return {a.label for a in self.actions if a.start_seconds <= end_seconds and start_seconds <= a.end_seconds}

    def distance(
        self, state: State, action: Action | None = None, start_seconds: float = 0.0, end_seconds: float = 0.0
    ) -> float:
        """Return the least distance of its centre from that of a shape with this state and action, in a stretch."""
        frames = slice(round(start_seconds * self.fps), round(end_seconds * self.fps) + 1)
        seconds = np.arange(len(self.track))[frames] / self.fps
        moved = {name: getattr(state, name) - getattr(self.track, name)[frames] for name in ("x", "y")}
        if action is not None and action.attribute in moved:
            moved[action.attribute] = moved[action.attribute] + action.offsets(seconds)
        return float(np.hypot(moved["x"], moved["y"]).min(initial=np.inf))


def make_track(rng: np.random.Generator, state: State, actions: Sequence[Action], seconds: Times) -> ShapeTrack:
    """The scene at each time, ``[T]``: the state at first, the actions one after another, trembling and swaying."""
    values = {name: np.full(len(seconds), value) for name, value in asdict(state).items()}
    for action in actions:
        values[action.attribute] += action.offsets(seconds)
    sway = rng.uniform(0, _MAX_SWAY) * rng.integers(2)  # half of the cameras stand still
    arrays = {
        "x": values["x"] + _waver(rng, seconds, _TREMBLE, 0.4, 1.2),
        "y": values["y"] + _waver(rng, seconds, _TREMBLE, 0.4, 1.2),
        "angle": values["angle"] + _waver(rng, seconds, _TREMBLE_RADIANS, 0.4, 1.2),
        "radius": np.exp2(values["log_radius"]),
        "opacity": values["opacity"],
        "roundness": values["roundness"],
        "camera_x": _waver(rng, seconds, sway, 4, 12),
        "camera_y": _waver(rng, seconds, sway, 4, 12),
    }
    return ShapeTrack(**{name: array.astype(np.float32) for name, array in arrays.items()})


def _waver(rng: np.random.Generator, seconds: Times, amplitude: float, min_period: float, max_period: float) -> Times:
    """A sum of three sines of random period and phase, within ``amplitude`` either way: has no direction of time."""
    periods, phases = rng.uniform(min_period, max_period, 3), rng.uniform(0, 2 * np.pi, 3)
    waves: Times = np.sin(2 * np.pi * seconds[:, None] / periods + phases)
    mean: Times = amplitude * waves.mean(axis=1)
    return mean
