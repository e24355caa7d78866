"""Label, score and time drawn into a picture with OpenCV, in sizes that fit the picture."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from pipeline.clip import Image

Colour = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, GREY = (255, 255, 255), (190, 190, 190)
TRACK, GOING_ON, OTHER = (60, 60, 60), (16, 128, 98), (92, 92, 140)
"""RGB: the empty bar, and dark enough under white text: the bar of an action going on, and of another label."""


@dataclass(frozen=True)
class Caption:
    """Texts and values drawn into one picture."""

    time_seconds: float
    label: str = ""
    """The best label at this moment; empty: none."""
    score: float = 0.0
    """Its score, 0 to 1, drawn as a bar."""
    segments: tuple[str, ...] = ()
    """The actions that are going on; empty: none."""


def as_shown(image: Image, sample_aspect_ratio: Fraction) -> Image:
    """``[H, W, 3]`` with pixels of that ratio -> ``[H, W', 3]`` with square ones, as wide as players show it."""
    height, width = image.shape[:2]
    return resized(image, round(width * sample_aspect_ratio), height)


def resized(image: Image, width: int, height: int) -> Image:
    """``[H, W, 3]`` -> ``[height, width, 3]``, of at least one pixel; the same array where that is its size."""
    if image.shape[:2] == (height, width):
        return image
    size = max(1, width), max(1, height)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def shrunk(image: Image, max_side_px: int) -> Image:
    """``[H, W, 3]`` with sides of at most that."""
    scale = min(1.0, max_side_px / max(image.shape[:2]))
    return resized(image, round(scale * image.shape[1]), round(scale * image.shape[0]))


def as_jpeg(image: Image, quality: int) -> bytes:
    """RGB ``[H, W, 3]`` as a JPEG; ``quality`` up to 100."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()


def draw_caption(image: Image, caption: Caption) -> Image:
    """A copy of uint8 RGB ``[H, W, 3]`` with a dark band at the bottom: the actions and the time, under them the best
    label with its score as a bar."""
    height, width = image.shape[:2]
    line = max(9, min(round(height * 0.075), round(width * 0.06), 48))  # pixels of one line of text
    margin = max(2, line // 3)
    out = image.copy()
    top = max(0, height - 2 * line - 3 * margin)
    out[top:] = out[top:] // 4
    time = clock(caption.time_seconds)
    baseline, right = top + margin + line, width - margin
    time_width = _text(out, time, (0, baseline), line, GREY, right_at=right)
    actions = ", ".join(caption.segments) or "-"
    _text(out, actions, (margin, baseline), line, WHITE if caption.segments else GREY, right - time_width - 2 * margin)
    _draw_bar(out, caption, (margin, baseline + margin, right, min(baseline + margin + line, height - 1)))
    return out


def _draw_bar(image: Image, caption: Caption, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    cv2.rectangle(image, (left, top), (right, bottom), TRACK, cv2.FILLED)
    if not caption.label:
        return
    filled = left + round((right - left) * min(max(caption.score, 0.0), 1.0))
    colour = GOING_ON if caption.label in caption.segments else OTHER
    cv2.rectangle(image, (left, top), (filled, bottom), colour, cv2.FILLED)
    size, inset = round(0.8 * (bottom - top)), max(1, (bottom - top) // 5)
    share = f"{caption.score:.0%}"
    taken = _text(image, share, (0, bottom - inset), size, WHITE, right_at=right - inset)
    _text(image, caption.label, (left + inset, bottom - inset), size, WHITE, right - left - taken - 3 * inset)


def _text(
    image: Image,
    text: str,
    origin: tuple[int, int],
    height: int,
    colour: Colour,
    max_width: int | None = None,
    right_at: int | None = None,
) -> int:
    """Writes on a baseline; shortens what is wider than ``max_width``. Returns the width in pixels."""
    text = in_font(text)
    scale, thickness = height / 30, max(1, round(height / 16))  # capitals of this font are about 22 pixels at scale 1
    width = _width(text, scale, thickness)
    while max_width is not None and width > max_width and len(text) > 1:
        text = text.rstrip(".")[:-1] + ".."
        if text == "..":
            return 0
        width = _width(text, scale, thickness)
    place = origin if right_at is None else (right_at - width, origin[1])
    cv2.putText(image, text, place, FONT, scale, colour, thickness, cv2.LINE_AA)
    return width


def _width(text: str, scale: float, thickness: int) -> int:
    return int(cv2.getTextSize(text, FONT, scale, thickness)[0][0])


def in_font(text: str) -> str:
    """Return a text in letters of the font: accents are dropped, other letters become question marks."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()


def clock(seconds: float) -> str:
    """75.04 -> 1:15.0; hours only where there are any."""
    tenths = int(10 * seconds + 1e-6)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{tenths // 10:02}.{tenths % 10}"
