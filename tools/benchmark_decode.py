"""Times decoders on your own videos: 16 evenly spread frames as RGB, against a bare sequential decode without RGB.

    python tools/benchmark_decode.py clip.avi clip.mp4 --json decode.json

Each reading opens the file, finds its number of frames, and decodes on one thread. The bare decode is PyAV alone: open,
decode every picture, convert none. Rounds are interleaved, so that a busy moment of the machine hits every column; the
median over the rounds is given, and its ratio to the bare decode's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import av

from pipeline.decode import DECODERS, open_video
from pipeline.errors import DecodeError, UserError
from pipeline.sampling import spread

NUM_FRAMES = 16


def bare_decode(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def read_uniform(path: Path, decoder: str) -> None:
    with open_video(path, decoder) as video:
        video.frames(spread(video.info.num_frames, NUM_FRAMES))


def seconds_of(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def refusal(work: Callable[[], None]) -> str:
    """Why it cannot be done; empty if it can."""
    try:
        work()
    except DecodeError as error:
        return f"refused: {error.cause}"
    except UserError as error:  # not installed
        return f"refused: {error}"
    return ""


def measure(path: Path, num_rounds: int) -> dict[str, float | str]:
    """Median milliseconds of each column; for a decoder that refuses the file, the reason."""
    columns: dict[str, Callable[[], None]] = {"bare": lambda: bare_decode(path)}
    for decoder in DECODERS:
        columns[decoder] = lambda decoder=decoder: read_uniform(path, decoder)  # type: ignore[misc]
    # A round that does not count: caches fill, refusals show.
    refused = {name: reason for name, work in columns.items() if (reason := refusal(work))}
    times: dict[str, list[float]] = {name: [] for name in columns if name not in refused}
    for _ in range(num_rounds):
        for name, measured in times.items():
            measured.append(1e3 * seconds_of(columns[name]))
    return refused | {name: median(measured) for name, measured in times.items()}


def table(results: dict[str, dict[str, float | str]]) -> str:
    """A Markdown table: milliseconds, and the ratio to the bare decode."""
    lines = ["| file | bare decode, ms | " + " | ".join(f"{name}, ms (ratio)" for name in DECODERS) + " |"]
    lines.append("|---" * (2 + len(DECODERS)) + "|")
    for name, row in results.items():
        bare = row["bare"]
        cells = [name, f"{bare:.1f}"]
        for decoder in DECODERS:
            value = row[decoder]
            cells.append("refused" if isinstance(value, str) else f"{value:.1f} ({value / float(bare):.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, help="video files to measure on")
    parser.add_argument("--rounds", type=int, default=15, help="how often each reading is repeated")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    results = {path.name: measure(path, args.rounds) for path in args.videos}
    print(f"{NUM_FRAMES} uniform frames as RGB, median of {args.rounds} rounds, one thread, PyAV {av.__version__}\n")
    print(table(results))
    if args.json:
        report = {"num_frames": NUM_FRAMES, "rounds": args.rounds, "pyav": av.__version__, "milliseconds": results}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
