"""The pictures of the motion set: textured shapes on a textured background, drawn with smooth edges.

A ``Look`` holds what stays the same through a video, a ``ShapeTrack`` what varies from frame to frame. Lengths and
places are in parts of the frame's side, angles in radians, clockwise as seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_MARGIN = 0.05
"""The background reaches this far beyond the frame on each side, for the camera to sway over."""
_MIN_COLOUR_DISTANCE = 0.5
"""Between the shape and the background, and between the two colours of a texture: RGB in 0 to 1, Euclidean."""
_TRACK_BLOCK = 32
"""Frames drawn at once: bounds the memory for a long video."""


def _rounded_box(x: Array, y: Array, roundness: Array) -> Array:
    """Square of half-side 1 with corner radius ``roundness``; 1 makes it a circle."""
    corner_x, corner_y = np.abs(x) - (1 - roundness), np.abs(y) - (1 - roundness)
    outside = np.hypot(np.maximum(corner_x, 0), np.maximum(corner_y, 0))
    inside: Array = np.minimum(np.maximum(corner_x, corner_y), 0)
    return inside + outside - roundness


def _polygon(x: Array, y: Array, num_sides: int, inner_radius: float) -> Array:
    """Regular polygon, as the intersection of half-planes (exact at the edges, near enough at the corners)."""
    turns = 2 * np.pi * np.arange(num_sides, dtype=np.float32) / num_sides
    planes = [x * np.sin(turn) - y * np.cos(turn) for turn in turns]
    distance: Array = np.max(planes, axis=0) - np.float32(inner_radius)
    return distance


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height))


SHAPES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "rounded": _rounded_box,
    "triangle": lambda x, y, roundness: _polygon(x, y, 3, 0.6),
    "pentagon": lambda x, y, roundness: _polygon(x, y, 5, 0.85),
    "bar": lambda x, y, roundness: _box(x, y, 1.15, 0.45),
    "cross": lambda x, y, roundness: np.minimum(_box(x, y, 1.1, 0.38), _box(x, y, 0.38, 1.1)),
    "half_disc": lambda x, y, roundness: np.maximum(np.hypot(x, y + 0.4) - 1.1, -y - np.float32(0.4)),
}
"""Signed distance to the shape's edge at places ``(x, y)`` in units of its radius, negative inside; ``[T, H, W]``."""


@dataclass(frozen=True)
class Look:
    """Shape, colours and textures, which stay the same through a video."""

    size_px: int
    shape: str
    """A key of ``SHAPES``."""
    background: Array
    """RGB 0 to 1, ``[S, S, 3]``, S = the frame's side with the margin on both sides."""
    fill: Array
    """The two colours of the shape's texture, ``[2, 3]``."""
    waves: Array
    """``[2, 3]``: of each of two waves that make the texture, the wave vector and phase, in the shape's own frame."""


@dataclass(frozen=True)
class ShapeTrack:
    """Values that vary from frame to frame: each float32 ``[T]``."""

    x: Array
    """Centre of the shape, from the left."""
    y: Array
    """Centre of the shape, from the top."""
    angle: Array
    radius: Array
    opacity: Array
    roundness: Array
    """For the shape ``rounded``: 0 square, 1 circle."""
    camera_x: Array
    """Shift of the background, at most the margin either way."""
    camera_y: Array

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, frames: slice) -> ShapeTrack:
        return ShapeTrack(**{field.name: getattr(self, field.name)[frames] for field in fields(self)})


def draw_look(rng: np.random.Generator, size_px: int, shapes: tuple[str, ...] = tuple(SHAPES)) -> Look:
    """Draw the shape, colours and textures at random: no single frame says anything of the class."""
    side = size_px + 2 * round(_MARGIN * size_px)
    ground = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    fill = _draw_fill(rng, ground.mean(axis=0))
    mixture = _texture(rng, side)[..., None]
    waves = _draw_waves(rng)
    shape = shapes[int(rng.integers(len(shapes)))]
    mixture = 0.5 + (mixture - 0.5) * np.float32(rng.uniform(0.3, 0.8))  # backgrounds are quieter than the shape
    background = ground[0] * (1 - mixture) + ground[1] * mixture
    return Look(size_px, shape, background, fill, waves)


def with_shape(rng: np.random.Generator, look: Look, shape: str) -> Look:
    """The look of another shape before the same background; its own textures are drawn."""
    ground = look.background.mean(axis=(0, 1))
    return replace(look, shape=shape, fill=_draw_fill(rng, ground), waves=_draw_waves(rng))


def _draw_fill(rng: np.random.Generator, ground: Array) -> Array:
    while True:
        fill = rng.uniform(0, 1, (2, 3)).astype(np.float32)
        if _far_apart(fill[0], fill[1], ground):
            return fill


def _draw_waves(rng: np.random.Generator) -> Array:
    directions, lengths = rng.uniform(0, 2 * np.pi, 2), rng.uniform(1.5, 4.0, 2)
    waves = [lengths * np.cos(directions), lengths * np.sin(directions), rng.uniform(0, 2 * np.pi, 2)]
    return np.stack(waves, axis=1).astype(np.float32)


def _far_apart(*colours: Array) -> bool:
    pairs = [(a, b) for i, a in enumerate(colours) for b in colours[:i]]
    return all(float(np.linalg.norm(a - b)) >= _MIN_COLOUR_DISTANCE for a, b in pairs)


def _texture(rng: np.random.Generator, side: int) -> Array:
    """Noise of several scales plus a gradient, 0 to 1, ``[side, side]``."""
    across, down = np.meshgrid(*[np.linspace(-1, 1, side, dtype=np.float32)] * 2)
    total = rng.uniform(-1, 1) * across + rng.uniform(-1, 1) * down
    for num_cells in (3, 7, 17, 33):
        total = total + rng.uniform(0, 1.2) * _smooth_noise(rng, side, num_cells)
    low, high = total.min(), total.max()
    texture: Array = ((total - low) / (high - low)).astype(np.float32)
    return texture


def _smooth_noise(rng: np.random.Generator, side: int, num_cells: int) -> Array:
    """Value noise: random numbers on a grid, blended smoothly in between (as in Perlin, 1985)."""
    place = np.linspace(0, num_cells, side, endpoint=False, dtype=np.float32)
    cell = place.astype(int)
    blend = place - cell
    blend = blend * blend * (3 - 2 * blend)
    weights = np.zeros((side, num_cells + 1), np.float32)
    weights[np.arange(side), cell] = 1 - blend
    weights[np.arange(side), cell + 1] = blend
    values = rng.uniform(-1, 1, (num_cells + 1, num_cells + 1)).astype(np.float32)
    noise: Array = np.linalg.multi_dot([weights, values, weights.T]).astype(np.float32, copy=False)
    return noise


def render(*shapes: tuple[Look, ShapeTrack]) -> NDArray[np.uint8]:
    """The frames of a video, uint8 RGB ``[T, H, W, 3]``: the shapes one over the other, before the background of the
    first."""
    num_frames = len(shapes[0][1])
    blocks = [slice(start, start + _TRACK_BLOCK) for start in range(0, num_frames, _TRACK_BLOCK)]
    return np.concatenate([_render_block([(look, track[block]) for look, track in shapes]) for block in blocks])


def _render_block(shapes: Sequence[tuple[Look, ShapeTrack]]) -> NDArray[np.uint8]:
    look, track = shapes[0]
    frames = np.stack([_shifted(look, dx, dy) for dx, dy in zip(track.camera_x, track.camera_y, strict=True)])
    for shape in shapes:
        _draw_shape(frames, *shape)
    return (frames * 255 + 0.5).astype(np.uint8)


def _draw_shape(frames: Array, look: Look, track: ShapeTrack) -> None:
    """Into frames, 0 to 1, ``[T, H, W, 3]``."""
    centres = (np.arange(look.size_px, dtype=np.float32) + 0.5) / look.size_px
    x = centres[None, None, :] - track.x[:, None, None]  # [T, 1, W]
    y = centres[None, :, None] - track.y[:, None, None]  # [T, H, 1]
    cos, sin, radius, opacity, roundness = (
        values[:, None, None]
        for values in (np.cos(track.angle), np.sin(track.angle), track.radius, track.opacity, track.roundness)
    )
    own_x = np.divide(cos * x + sin * y, radius, dtype=np.float32)  # [T, H, W], the shape's own frame
    own_y = np.divide(cos * y - sin * x, radius, dtype=np.float32)
    distance_px = SHAPES[look.shape](own_x, own_y, roundness) * radius * look.size_px
    cover = (np.clip(0.5 - distance_px, 0, 1) * opacity)[..., None]
    frames += cover * (_fill(look, own_x, own_y) - frames)


def _fill(look: Look, x: Array, y: Array) -> Array:
    """The shape's texture, ``[T, H, W, 3]``: stripes crossed with a second wave, between two colours."""
    first, second = (np.sin(wave[0] * x + wave[1] * y + wave[2]) for wave in look.waves)
    mixture = (0.5 + 0.38 * first + 0.12 * second)[..., None]
    colours: Array = look.fill[0] * (1 - mixture) + look.fill[1] * mixture
    return colours


def _shifted(look: Look, dx: float, dy: float) -> Array:
    """The background as the swaying camera sees it, ``[H, W, 3]``, blended between whole pixels."""
    margin, size = (len(look.background) - look.size_px) // 2, look.size_px
    left, top = margin - dx * size, margin - dy * size
    column, row = int(left), int(top)
    part = look.background[row : row + size + 1, column : column + size + 1]
    part = part[:, :-1] + (left - column) * (part[:, 1:] - part[:, :-1])
    return part[:-1] + (top - row) * (part[1:] - part[:-1])
