"""What the decode tests know without the code under test: painted numbers, plain decodes, small files of many kinds."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decode import DECODERS, open_video
from pipeline.errors import DecodeError, UserError

Image = NDArray[np.uint8]

MADE = Path(__file__).parent / "samples"

# name: (encoder, container format, pixel format, encoder options, container options)
KINDS: dict[str, tuple[str, str, str, dict[str, str], dict[str, str]]] = {
    "bframes.avi": ("mpeg4", "avi", "yuv420p", {"bf": "2", "g": "12"}, {}),
    "mpeg4.mp4": ("mpeg4", "mp4", "yuv420p", {"bf": "2", "g": "12"}, {}),
    "mpeg2.ts": ("mpeg2video", "mpegts", "yuv420p", {"bf": "2", "g": "12"}, {}),
    "mpeg2.mpg": ("mpeg2video", "mpeg", "yuv420p", {"bf": "2", "g": "12"}, {}),
    "mpeg2.mkv": ("mpeg2video", "matroska", "yuv420p", {"bf": "2", "g": "12"}, {}),
    "h264.ts": ("libx264", "mpegts", "yuv420p", {"g": "12"}, {}),
    "h264.avi": ("libx264", "avi", "yuv420p", {"g": "12"}, {}),
    "raw.h264": ("libx264", "h264", "yuv420p", {"g": "12"}, {}),
    "interlaced.mp4": ("libx264", "mp4", "yuv420p", {"g": "12", "flags": "+ildct+ilme", "x264-params": "tff=1"}, {}),
    "intra_refresh.mkv": ("libx264", "matroska", "yuv420p", {"intra-refresh": "1", "g": "12"}, {}),
    "fragments.mp4": ("libx264", "mp4", "yuv420p", {"g": "12"}, {"movflags": "frag_keyframe+empty_moov"}),
    "live.mkv": ("libx264", "matroska", "yuv420p", {"g": "12"}, {"live": "1"}),
    "h264.flv": ("libx264", "flv", "yuv420p", {"g": "12"}, {}),
    "hevc.mp4": ("libx265", "mp4", "yuv420p", {"g": "12", "x265-params": "log-level=none"}, {}),
    "vp8.webm": ("libvpx", "webm", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "24"}, {}),
    "vp9.webm": ("libvpx-vp9", "webm", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "24"}, {}),
    "av1.mp4": ("libsvtav1", "mp4", "yuv420p", {"g": "24", "preset": "12"}, {}),
    "alpha.mov": ("qtrle", "mov", "argb", {}, {}),
    "ffv1.mkv": ("ffv1", "matroska", "yuv444p", {}, {}),
    "mjpeg.avi": ("mjpeg", "avi", "yuvj420p", {}, {}),
    "raw.avi": ("rawvideo", "avi", "bgr24", {}, {}),
    "palette.gif": ("gif", "gif", "rgb8", {}, {}),
}


def installed_decoders() -> list[str]:
    """Those of ``DECODERS`` that can be used here."""
    with TemporaryDirectory() as folder:
        path = encode(Path(folder), "mpeg4.mp4", num_frames=2)
        assert path is not None
        return [name for name in DECODERS if _can_open(path, name)]


def _can_open(path: Path, decoder: str) -> bool:
    try:
        open_video(path, decoder).close()
    except UserError as error:
        return isinstance(error, DecodeError)  # it is there, and does not like the file
    return True


def load_read_index(odd_videos: Path) -> Callable[[Image], int | None]:
    """The data's own reader of the frame number painted in each picture."""
    spec = importlib.util.spec_from_file_location("read_index", odd_videos / "read_index.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_index  # type: ignore[no-any-return]


def load_manifest(odd_videos: Path) -> dict[str, dict[str, Any]]:
    return json.loads((odd_videos / "manifest.json").read_text())  # type: ignore[no-any-return]


def plain_decode(path: Path) -> list[Image]:
    """Every picture of a plain sequential decode, upright, uint8 RGB ``[H, W, 3]``."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [np.rot90(f.to_ndarray(format="rgb24"), (f.rotation // 90) % 4) for f in frames]


def encode(folder: Path, name: str, num_frames: int = 60) -> Path | None:
    """Writes a small video of that kind; None where this build of FFmpeg lacks the encoder."""
    path = folder / name
    if (MADE / name).exists() and num_frames == 60:  # SVT-AV1 hangs now and then
        shutil.copy(MADE / name, path)
        return path
    encoder, container_format, pixel_format, options, container_options = KINDS[name]
    try:
        av.Codec(encoder, "w")
    except av.error.FFmpegError:
        return None
    except ValueError:  # UnknownCodecError
        return None
    with av.open(str(path), "w", format=container_format, container_options=container_options) as container:
        stream = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixel_format
        for number in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def picture(number: int) -> Image:
    """A picture that no other number gives: its bits as eight bright or dark columns over a moving texture."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(60, 200, (12, 16)), np.ones((8, 8))).astype(np.uint8)
    image = np.stack([np.roll(texture, 2 * number, axis=1)] * 3, axis=-1)
    for bit in range(8):
        image[:48, 16 * bit : 16 * bit + 16] = 230 if number >> bit & 1 else 20
    return image


def painted_number(image: Image) -> int:
    """The number that ``picture`` painted."""
    cells = [image[8:40, 16 * bit + 4 : 16 * bit + 12].mean() for bit in range(8)]
    return sum(1 << bit for bit, value in enumerate(cells) if value > 125)


def resident_megabytes() -> float:
    """Memory of this process as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# name: (encoder, container format, pixel format); pictures without B-frames, so that their times may be anything. Not
# MPEG-PS, where several small pictures share one time.
TIMED_KINDS: dict[str, tuple[str, str, str]] = {
    "mpeg2.ts": ("mpeg2video", "mpegts", "yuv420p"),
    "h264.ts": ("libx264", "mpegts", "yuv420p"),
    "h264.flv": ("libx264", "flv", "yuv420p"),
    "flv1.flv": ("flv", "flv", "yuv420p"),
    "wmv2.wmv": ("wmv2", "asf", "yuv420p"),
    "mpeg4.asf": ("mpeg4", "asf", "yuv420p"),
    "mpeg4.mkv": ("mpeg4", "matroska", "yuv420p"),
    "vp8.webm": ("libvpx", "webm", "yuv420p"),
    "vp8.ogv": ("libvpx", "ogg", "yuv420p"),
    "mpeg4.avi": ("mpeg4", "avi", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "avi", "yuvj420p"),
    "mjpeg.mov": ("mjpeg", "mov", "yuvj420p"),
    "mpeg4.mp4": ("mpeg4", "mp4", "yuv420p"),
    "mpeg4.nut": ("mpeg4", "nut", "yuv420p"),
}


def encode_at(
    folder: Path, name: str, times_seconds: Sequence[float], tick: str = "1/1000", rate: int | Fraction = 25
) -> Path | None:
    """Writes a video whose pictures are shown at these times, in whole ticks; None where the encoder is lacking."""
    encoder, container_format, pixel_format = TIMED_KINDS[name]
    if encoder not in av.codecs_available:
        return None
    path, seconds_per_tick = folder / name, Fraction(tick)
    options = {"bf": "0"} if encoder in ("libx264", "mpeg2video", "mpeg4") else {}
    if container_format in ("avi", "ogg"):
        rate = round(1 / seconds_per_tick)
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixel_format
        packets = []
        for number in range(len(times_seconds)):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number
            packets += stream.encode(frame)
        for packet, seconds in zip([*packets, *stream.encode()], times_seconds, strict=True):
            packet.time_base, packet.duration = seconds_per_tick, 0
            packet.pts = packet.dts = round(seconds / seconds_per_tick)
            container.mux(packet)
    return path
