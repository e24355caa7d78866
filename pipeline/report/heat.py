"""A map of heat laid over a picture, and a strip of one figure through time under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Image
from pipeline.report.drawing import GREY, TRACK, WHITE
from pipeline.report.tables import as_png, new_figure

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom excluded."""

_OPACITY = 0.6
HOT, MARK = (255, 140, 0), (80, 200, 255)
"""RGB: the strip's bars, and the frames that decided."""


def lay_over(image: Image, heat: Floats, box: Box) -> Image:
    """A copy of uint8 RGB ``[H, W, 3]`` with ``heat [h, w]``, 0 to 1, in colours over ``box``: the hotter, the less of
    the picture shows through."""
    left, top, right, bottom = box
    out = image.copy()
    part = out[top:bottom, left:right]
    smooth = cv2.resize(heat, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colours = cv2.applyColorMap((smooth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]  # BGR -> RGB
    weight = (_OPACITY * smooth)[:, :, None]
    part[:] = (part * (1 - weight) + colours * weight + 0.5).astype(np.uint8)
    return out


@dataclass(frozen=True)
class HeatStrip:
    """One figure through time: ``values [G]``, 0 to 1, at ``times_seconds``; ``marked`` places stand out."""

    times_seconds: Sequence[float]
    values: Floats
    marked: Sequence[int]
    end_seconds: float

    def drawn_under(self, image: Image, time_seconds: float) -> Image:
        """uint8 RGB ``[H + h, W, 3]``: the picture and the strip, with a line where the time is."""
        width, height = image.shape[1], max(16, image.shape[0] // 8)
        panel = np.full((height, width, 3), 20, np.uint8)
        edges = [self._pixel(time, width) for time in (*self.times_seconds, self.end_seconds)]
        for place, value in enumerate(self.values):
            bar = round(float(np.clip(value, 0, 1)) * (height - 4))
            colour = MARK if place in self.marked else HOT
            right = max(edges[place + 1] - 1, edges[place])
            cv2.rectangle(panel, (edges[place], height - 1 - bar), (right, height - 1), colour, cv2.FILLED)
        now = self._pixel(time_seconds, width)
        cv2.line(panel, (0, 0), (width, 0), TRACK, 1)
        cv2.line(panel, (now, 0), (now, height - 1), WHITE, 1)
        return np.concatenate([image, panel])

    def _pixel(self, time_seconds: float, width: int) -> int:
        share = min(max(time_seconds / self.end_seconds, 0.0), 1.0)
        return min(round(share * width), width - 1)


def strip_picture(strip: HeatStrip, drops: Floats, pictures: Sequence[tuple[str, Image]], title: str) -> bytes:
    """A PNG: the marked frames as ``pictures`` with a line of text each, and under them the strip and ``drops [G]``."""
    figure: Any = new_figure(max(8.0, 1.6 * len(pictures)), 6.0 if pictures else 4.0, title, fontsize=10)
    below = figure
    if pictures:
        above, below = figure.subfigures(2, 1, height_ratios=[1, 1.4])
        for axes, (note, image) in zip(above.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
            axes.imshow(image)
            axes.set_title(note, fontsize=8)
            axes.axis("off")
    upper, lower = below.subplots(2, 1, sharex=True)
    colours = [np.divide(MARK if place in strip.marked else HOT, 255) for place in range(len(strip.values))]
    steps = np.diff([*strip.times_seconds, max(strip.end_seconds, strip.times_seconds[-1] + 1e-3)])
    upper.bar(strip.times_seconds, strip.values, steps, align="edge", color=colours)
    upper.set(ylabel="gate open", ylim=(0, 1))
    lower.bar(strip.times_seconds, drops, steps, align="edge", color=colours)
    lower.axhline(0, color=np.divide(GREY, 255), linewidth=0.8)
    lower.set(ylabel="lost without\nthe frame", xlabel="seconds")
    return as_png(figure)
