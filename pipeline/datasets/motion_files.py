"""The files of the motion set: frames to a video whose bytes are the same on every machine."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.files.failures import failures_of
from pipeline.files.writing import OutputFile

_INTRA_CODECS: dict[str, tuple[str, dict[str, str]]] = {
    # Constant quantiser, every frame for itself: what a frame looks like does not depend on its neighbours.
    ".mp4": ("libx264", {"preset": "veryfast", "qp": "18", "g": "1", "bf": "0"}),
    ".avi": ("mpeg4", {"flags": "+qscale", "global_quality": str(3 * 118), "g": "1", "bf": "0"}),
}
# Rate control by macroblock tree (crf) gives other bytes now and then from the same frames; a fixed quantiser does not.
_LONG_CODEC = ("libx264", {"preset": "veryfast", "qp": "20", "g": "50", "bf": "2"})


def write_video(path: Path, frames: NDArray[np.uint8], fps: int, *, intra: bool) -> None:
    """Encodes ``frames``, uint8 RGB ``[T, H, W, 3]`` of even sides; the suffix (.mp4, .avi) gives the container.

    With ``intra`` each frame stands for itself, so that frames reversed are, once decoded, exactly the frames of the
    file reversed. Without, the file is coded as usual, with frames predicted from both sides (MP4 only).
    """
    codec, options = _INTRA_CODECS[path.suffix] if intra else _LONG_CODEC
    with (
        OutputFile(path) as output,
        failures_of(path),
        av.open(str(output.temporary), "w", format=path.suffix[1:]) as container,
    ):
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.thread_count = 1  # threads would cut a frame into slices; and the bytes must not depend on the machine
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
