"""Watch cameras, or files that play their part, from Python.

    python examples/watch_camera.py runs/mine/model.safetensors 0
    python examples/watch_camera.py runs/mine/model.safetensors long_video.mp4 --replay

Prints every window and every finished segment. Sources share one batch of the backbone. Ctrl-C ends it.
"""

import argparse
import sys

from pipeline import Prediction, Segment, UserError, load_model
from pipeline.streaming.sources import parse_sources
from pipeline.streaming.streams import Streams


def show(source: str, event: object) -> None:
    """Is told of all that happens at a source."""
    if isinstance(event, Prediction | Segment):
        kind = type(event).__name__.lower()
        print(f"{source} {kind} {event.start_seconds:.2f} - {event.end_seconds:.2f} s {event.label} {event.score:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Watch cameras, URLs, or files with --replay.")
    parser.add_argument("model")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--replay", action="store_true", help="the sources are files, played at their own speed")
    parser.add_argument("--fast", action="store_true", help="with --replay: as fast as the model goes")
    args = parser.parse_args()
    try:
        streams = Streams(load_model(args.model), show)
        for source in parse_sources(args.sources, args.replay, args.fast):
            streams.add(source)
        while streams.names:
            if not streams.step():
                streams.wait()
        streams.close()
    except UserError as error:
        sys.exit(f"error: {error}")
