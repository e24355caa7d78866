"""Exact frames of a video and the times they are shown at.

    python examples/read_frames.py video.mp4 --at 0 0.5 1 --output frames

Prints what is known of the file and the frame shown at each time; with --output it writes each as a PNG.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from pipeline import UserError, open_video


def main(path: str, times_seconds: list[float], output: Path | None) -> None:
    """Reads the frames shown at these times."""
    with open_video(path) as video:
        info = video.info
        print(f"{info.num_frames} frames of {info.width}x{info.height}, {info.duration_seconds:.3f} s, {info.codec}")
        clip = video.at(times_seconds)  # frames uint8 RGB [T, 3, H, W], pts_seconds float64 [T]
    for asked, shown, frame in zip(times_seconds, clip.pts_seconds.tolist(), clip.frames, strict=True):
        print(f"at {asked:.3f} s: the frame of {shown:.6f} s")
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame.permute(1, 2, 0).numpy()).save(output / f"{asked:.3f}.png")  # [3, H, W] -> [H, W, 3]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Exact frames of a video and their times.")
    parser.add_argument("video")
    parser.add_argument("--at", type=float, nargs="+", default=[0.0], metavar="SECONDS")
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    try:
        main(args.video, args.at, args.output)
    except UserError as error:
        sys.exit(f"error: {error}")
