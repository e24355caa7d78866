"""The types that travel between the stages: frozen, with shapes and units checked once, when they are made.

Time is in seconds everywhere, intervals are half-open ``[start, end)``, and pictures are RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]
"""A picture, RGB ``[H, W, 3]`` or, as a model reads it, ``[3, S, S]``; or several along a first axis."""


@dataclass(frozen=True)
class VideoInfo:
    """A video file as a viewer sees it: mirrored and turned as the file asks."""

    path: Path
    num_frames: int
    """Number of pictures a plain sequential decode gives."""
    width: int
    """Pixels across, as shown."""
    height: int
    """Pixels down, as shown."""
    average_fps: Fraction
    """Pictures per second over the whole file."""
    duration_seconds: float
    """From the first picture's start to the last picture's end."""
    rotation_degrees: int
    """Counter-clockwise turn that the container asks for: 0, 90, 180 or 270. Frames come already turned."""
    codec: str
    container: str
    is_mirrored: bool = False
    """Left and right are swapped before the turn, as the container asks. Frames come so."""
    sample_aspect_ratio: Fraction = Fraction(1)
    """Width of a pixel as shown, in its heights: the picture is ``width * sample_aspect_ratio`` by ``height``."""
    times: Literal["file", "counted"] = "file"
    """file: each picture has the time that the file gives it; counted: picture k is at ``k / average_fps``, because the
    file's times are missing or wrong."""
    why_counted: str = ""
    """The rate, where it comes from, and what is wrong with the file's times; empty if the times are the file's."""
    start_seconds_in_file: float = 0.0
    """Time of the first picture on the file's clock, as players show it; more than 0 where sound begins earlier.
    All other times are counted from the first picture."""
    stream: int = 0
    """Number of the video stream in the file."""
    num_video_streams: int = 1
    """Covers are not counted."""

    @property
    def shown_width(self) -> int:
        """Pixels across if they were as wide as high."""
        return max(1, round(self.width * self.sample_aspect_ratio))


@dataclass(frozen=True)
class Clip:
    """Some pictures of one video and the time each is shown at.

    Raises:
        ValueError: wrong dtype, rank, channel count, or a time for some other number of pictures.
    """

    frames: Tensor
    """uint8 RGB ``[T, 3, H, W]``; channels-last in memory, as decoders give it."""
    pts_seconds: Tensor
    """float64 ``[T]``: when each picture is shown, from the start of the video."""

    def __post_init__(self) -> None:
        import torch  # here, so that a process which only decodes need not load it

        if self.frames.dtype != torch.uint8 or self.frames.ndim != 4 or self.frames.shape[1] != 3:
            raise ValueError(
                f"Clip.frames must be uint8 RGB [T, 3, H, W], got {self.frames.dtype} {list(self.frames.shape)}; "
                "convert or permute where the frames are made"
            )
        if self.pts_seconds.dtype != torch.float64 or self.pts_seconds.shape != self.frames.shape[:1]:
            raise ValueError(
                f"Clip.pts_seconds must be float64 [{self.frames.shape[0]}], "
                f"got {self.pts_seconds.dtype} {list(self.pts_seconds.shape)}"
            )

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def __repr__(self) -> str:
        shape, times = list(self.frames.shape), self.pts_seconds
        when = f", {float(times[0]):.3f} to {float(times[-1]):.3f} s" if len(self) else ""
        return f"Clip(frames=uint8 {shape}{when})"


def _check_interval(start_seconds: float, end_seconds: float) -> None:
    if not 0 <= start_seconds < end_seconds:
        raise ValueError(
            f"an interval is [start, end) in seconds with 0 <= start < end, got [{start_seconds}, {end_seconds})"
        )


@dataclass(frozen=True)
class Prediction:
    """A model's answer for one window of one video."""

    path: str
    start_seconds: float
    end_seconds: float
    label: str
    score: float
    """Probability of ``label``, 0 to 1."""
    top_k: tuple[tuple[str, float], ...]
    """The best labels with their probabilities, best first; ``top_k[0]`` is ``(label, score)``."""
    is_unknown: bool = False
    """True if the window is unknown by the model's rule."""

    def __post_init__(self) -> None:
        _check_interval(self.start_seconds, self.end_seconds)

    def __str__(self) -> str:
        """``12.0 to 14.0 s: HandStand 93 %, WallPushups 4 %``."""
        ranked = ", ".join(f"{label} {score:.0%}".replace("%", " %") for label, score in self.top_k)
        unknown = " (unknown)" if self.is_unknown else ""
        return f"{self.start_seconds:.1f} to {self.end_seconds:.1f} s: {ranked}{unknown}"


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label: a run of agreeing windows, or the ground truth."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float = 1.0
    """Mean probability of ``label`` over the stretch; 1 for ground truth."""

    def __post_init__(self) -> None:
        _check_interval(self.start_seconds, self.end_seconds)
