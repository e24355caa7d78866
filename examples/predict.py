"""The timeline of a video, from Python.

    python examples/predict.py runs/mine/model.safetensors long_video.mp4

Prints each stretch of the video that has one label, as soon as it is finished. An ONNX file of clipgru export does too.
"""

import argparse
import sys

from pipeline import UserError, load_model
from pipeline.config import TimelineConfig


def main(model_path: str, video: str, min_seconds: float) -> None:
    """Prints the segments and what the run cost."""
    model = load_model(model_path)
    print(f"labels: {', '.join(model.labels)}")
    for segment in model.segments(video, timeline=TimelineConfig(min_seconds=min_seconds)):
        print(f"{segment.start_seconds:8.2f} - {segment.end_seconds:8.2f} s  {segment.score:6.1%}  {segment.label}")
    print(f"{model.stats.windows} windows, {model.stats.frames_embedded} frames through the backbone")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The timeline of a video.")
    parser.add_argument("model")
    parser.add_argument("video")
    parser.add_argument("--min_seconds", type=float, default=0.0, help="leave out shorter segments")
    args = parser.parse_args()
    try:
        main(args.model, args.video, args.min_seconds)
    except UserError as error:
        sys.exit(f"error: {error}")
