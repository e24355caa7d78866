"""The changes of a model's memory as a video with the map laid over it, a picture and JSON."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.clip import Image
from pipeline.config import TransformConfig
from pipeline.decode import VideoReader
from pipeline.errors import UserError
from pipeline.explanation.memory import MemoryTrace
from pipeline.files.writing import write_atomically
from pipeline.report.drawing import Caption, as_shown, draw_caption
from pipeline.report.heat import Box, Floats, HeatStrip, lay_over, strip_picture
from pipeline.report.mp4 import Mp4File
from pipeline.report.records import rounded
from pipeline.schema import to_json

# Maps are shown against the value that this share of all places stays below, so that one bright place dims nothing.
_FULL_HEAT_QUANTILE = 0.99


def write_explanation(
    memory: MemoryTrace, reader: VideoReader, transform: TransformConfig, path: Path, num_top: int
) -> list[Path]:
    """Writes the video ``path`` and, with its name, a PNG and a JSON file. Returns what it wrote.

    Raises:
        DecodeError: a picture cannot be decoded.
        UserError: a file cannot be written, or ``path`` is no MP4.
    """
    if path.suffix.lower() != ".mp4":
        raise UserError(f"--output {path}: the video is written as MP4; give it a name that ends in .mp4")
    overlay = _Overlay(memory, reader, transform, num_top)
    overlay.write_video(path)
    files: dict[Path, bytes | str] = {
        path.with_suffix(".png"): overlay.picture(path.stem),
        path.with_suffix(".json"): to_json(explanation_record(memory, num_top), indent=1),
    }
    for name, content in files.items():
        write_atomically(name, content)
    return [path, *files]


def explanation_record(memory: MemoryTrace, num_top: int) -> dict[str, Any]:
    """Record for JSON: the label, the frames that decided it, and every grid frame's figures."""
    columns = (memory.times_seconds, memory.gate.tolist(), memory.let_in.tolist(), memory.drops.tolist())
    frames = [
        {"seconds": rounded(time), "gate": rounded(gate), "let_in": round(let_in, 6), "lost_without": round(drop, 6)}
        for time, gate, let_in, drop in zip(*columns, strict=True)
    ]
    return {
        "label": memory.label,
        "score": rounded(memory.score),
        "is_unknown": memory.is_unknown,
        "map_size": list(memory.maps.shape[1:]) if memory.maps is not None else None,
        "top_frames": [frames[place] for place in memory.top_frames(num_top)],
        "frames": frames,
    }


def seen_box(width: int, height: int, transform: TransformConfig) -> Box:
    """The part of a picture as shown, with square pixels, that the network's input is in evaluation, in pixels."""
    share = transform.input_size_px / transform.fit_size_px
    side = min(width, height)
    wide, high = (width, height) if transform.fit == "stretch" else (side, side)
    wide, high = round(share * wide), round(share * high)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _heat_of(maps: Tensor) -> Floats:
    """Maps ``[G, h, w]`` as 0 to 1."""
    full = max(float(np.quantile(maps.numpy(), _FULL_HEAT_QUANTILE)), 1e-12)
    heat: Floats = (maps / full).clamp(0, 1).numpy()
    return heat


class _Overlay:
    """One memory, drawn over its video."""

    def __init__(self, memory: MemoryTrace, reader: VideoReader, transform: TransformConfig, num_top: int) -> None:
        self._memory, self._reader, self._transform = memory, reader, transform
        self._heat = None if memory.maps is None else _heat_of(memory.maps)
        end_seconds = reader.info.duration_seconds
        inside = sum(time < end_seconds for time in memory.times_seconds)  # a short video was lengthened
        self._marked = sorted(place for place in memory.top_frames(num_top) if place < inside)
        self._strip = HeatStrip(memory.times_seconds[:inside], memory.gate[:inside].numpy(), self._marked, end_seconds)

    def write_video(self, path: Path) -> None:
        """Every picture at its time."""
        out = Mp4File(path, self._reader.info.average_fps)
        try:
            for frame, time_seconds in self._reader:
                out.write(self._frame(frame, time_seconds), time_seconds)
            out.close(self._strip.end_seconds)
        finally:
            out.discard()  # does nothing to a complete file

    def picture(self, name: str) -> bytes:
        """The PNG."""
        memory, times = self._memory, [self._memory.times_seconds[place] for place in self._marked]
        shown = list(self._reader.at(times).frames) if times else []
        pictures = [
            (f"{memory.times_seconds[place]:.2f} s: {-memory.drops[place]:+.1%} without", self._heated(frame, place))
            for place, frame in zip(self._marked, shown, strict=True)
        ]
        title = f"{name}: {memory.label} ({memory.score:.0%}){', unknown' if memory.is_unknown else ''}"
        return strip_picture(self._strip, memory.drops[: len(self._strip.values)].numpy(), pictures, title)

    def _frame(self, frame: Tensor, time_seconds: float) -> Image:
        memory = self._memory
        place = max(bisect_right(memory.times_seconds, time_seconds + 1e-6) - 1, 0)
        segments = () if memory.is_unknown else (memory.label,)
        caption = Caption(time_seconds, memory.label, memory.score, segments)
        return self._strip.drawn_under(draw_caption(self._heated(frame, place), caption), time_seconds)

    def _heated(self, frame: Tensor, place: int) -> Image:
        stored: Image = frame.permute(1, 2, 0).numpy()  # [3, H, W] -> [H, W, 3]
        image = as_shown(stored, self._reader.info.sample_aspect_ratio)
        if self._heat is None:
            return image
        return lay_over(image, self._heat[place], seen_box(image.shape[1], image.shape[0], self._transform))
