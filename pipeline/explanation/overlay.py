"""What was written into memory, as a video with the map laid over it, a picture and JSON."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import TransformConfig
from pipeline.decode import VideoReader
from pipeline.errors import UserError
from pipeline.explanation.memory import Memory
from pipeline.files import write_atomically
from pipeline.report.drawing import Caption, Image, draw_caption
from pipeline.report.heat import Box, Floats, Strip, lay_over, strip_picture
from pipeline.report.mp4 import Mp4File
from pipeline.report.records import rounded

# Maps are shown against the value that this share of all places stays below, so that one bright place dims nothing.
_FULL_HEAT_QUANTILE = 0.99


def write_explanation(
    memory: Memory, reader: VideoReader, transform: TransformConfig, path: Path, top: int
) -> list[Path]:
    """Writes the video ``path`` and, with its name, a PNG and a JSON file. Returns what it wrote.

    Raises:
        DecodeError: a picture cannot be decoded.
        UserError: a file cannot be written, or ``path`` is no MP4.
    """
    if path.suffix.lower() != ".mp4":
        raise UserError(f"--output {path}: the video is written as MP4; give it a name that ends in .mp4")
    marked, end_seconds = memory.top_frames(top), reader.info.duration_seconds
    inside = sum(time < end_seconds for time in memory.times_seconds)  # a short video was lengthened
    strip = Strip(memory.times_seconds[:inside], memory.gate[:inside].numpy(), marked, end_seconds)
    out = Mp4File(path, reader.info.average_fps)
    try:
        for image, time_seconds in _drawn(memory, reader, transform):
            out.write(strip.drawn_under(image, time_seconds), time_seconds)
        out.close(end_seconds)
    finally:
        with suppress(UserError):  # what stopped the run is told already
            out.discard()  # does nothing to a complete file
    ordered = sorted(place for place in marked if place < inside)
    shown = reader.at([memory.times_seconds[place] for place in ordered]) if ordered else None
    pictures = []
    for number, place in enumerate(ordered):
        assert shown is not None
        image = shown.frames[number].permute(1, 2, 0).numpy()  # [3, H, W] -> [H, W, 3]
        note = f"{memory.times_seconds[place]:.2f} s  {memory.drops[place]:+.1%}"
        pictures.append((note, _with_heat(image, memory, place, transform)))
    title = f"{path.stem}: {memory.label} ({memory.score:.0%}){', unknown' if memory.is_unknown else ''}"
    files = {
        path.with_suffix(".png"): strip_picture(strip, memory.drops[:inside].numpy(), pictures, title),
        path.with_suffix(".json"): json.dumps(explanation_record(memory, marked), indent=1).encode(),
    }
    for name, content in files.items():
        write_atomically(name, content)
    return [path, *files]


def explanation_record(memory: Memory, marked: list[int]) -> dict[str, Any]:
    """As JSON writes it: the label, the frames that decided it, and every grid frame's figures."""
    columns = zip(
        memory.times_seconds, memory.gate.tolist(), memory.written.tolist(), memory.drops.tolist(), strict=True
    )
    frames = [
        {"seconds": rounded(time), "gate": rounded(gate), "written": round(written, 6), "lost_without": round(drop, 6)}
        for time, gate, written, drop in columns
    ]
    return {
        "label": memory.label,
        "score": rounded(memory.score),
        "is_unknown": memory.is_unknown,
        "map_size": list(memory.maps.shape[1:]) if memory.maps is not None else None,
        "top_frames": [frames[place] for place in marked],
        "frames": frames,
    }


def seen_box(width: int, height: int, transform: TransformConfig) -> Box:
    """The part of a picture that the network's input is in evaluation, in pixels."""
    share = transform.input_size_px / transform.fit_size_px
    side = min(width, height)
    wide, high = (width, height) if transform.fit == "stretch" else (side, side)
    wide, high = round(share * wide), round(share * high)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def heat_of(memory: Memory) -> Floats | None:
    """The maps as 0 to 1, ``[G, h, w]``."""
    if memory.maps is None:
        return None
    maps: Floats = memory.maps.numpy()
    return (maps / max(float(np.quantile(maps, _FULL_HEAT_QUANTILE)), 1e-12)).clip(0, 1).astype(np.float32)


def _drawn(memory: Memory, reader: VideoReader, transform: TransformConfig) -> Iterator[tuple[Image, float]]:
    for frame, time_seconds in reader:
        place = max(bisect_right(memory.times_seconds, time_seconds + 1e-6) - 1, 0)
        image = _with_heat(frame.permute(1, 2, 0).numpy(), memory, place, transform)  # [3, H, W] -> [H, W, 3]
        segment = "" if memory.is_unknown else memory.label
        yield draw_caption(image, Caption(time_seconds, memory.label, memory.score, segment)), time_seconds


def _with_heat(image: Image, memory: Memory, place: int, transform: TransformConfig) -> Image:
    heat = heat_of(memory)
    return image if heat is None else lay_over(image, heat[place], seen_box(image.shape[1], image.shape[0], transform))
