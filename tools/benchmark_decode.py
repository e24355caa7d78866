"""Times decoders side by side on your own videos, and counts how many of their frames are the right ones.

    python tools/benchmark_decode.py clip.avi clip.mp4 --long long.mp4 --json decode.json

Three tasks: all frames as RGB one after the other, 16 evenly spread frames, and in a long file windows of 16 frames at
random places. Each reading opens the file anew and decodes on one thread. Rounds are interleaved, so that a busy moment
of the machine hits every column; the median counts. A frame is right if it is nearer to that frame of a sequential
decode than to the ones before and after it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import av
import cv2
import decord
import numpy as np
from numpy.typing import NDArray

from pipeline.decode import open_video
from pipeline.sampling import spread

Image = NDArray[Any]  # uint8 RGB [H, W, 3]
NUM_FRAMES, NUM_WINDOWS = 16, 3
DECODE_ONLY = "decode only"
_TIE, _THINNED_SIDE_PX = 0.01, 160


def ours(path: Path, numbers: Sequence[int]) -> Iterator[Image]:
    with open_video(path) as video:
        if isinstance(numbers, range) and len(numbers) == video.info.num_frames:
            yield from (frame.permute(1, 2, 0).numpy() for frame, _ in video)
        else:
            yield from video.frames(numbers).frames.permute(0, 2, 3, 1).numpy()


def pyav_in_order(path: Path, numbers: Sequence[int]) -> Iterator[Image]:
    """From the start to the last frame wanted; converts those wanted."""
    wanted = set(numbers)
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                yield frame.to_ndarray(format="rgb24")
            if number == numbers[-1]:
                return


def decode_only(path: Path, numbers: Sequence[int]) -> Iterator[Image]:
    """The whole file in order, nothing converted: what reading in order costs at the very least."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass
    yield from ()


def opencv_seek(path: Path, numbers: Sequence[int]) -> Iterator[Image]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    position = 0
    for number in numbers:
        if number != position:
            capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        is_given, image = capture.read()
        position = number + 1
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if is_given else np.zeros((1, 1, 3), np.uint8)
    capture.release()


def decord_batch(path: Path, numbers: Sequence[int]) -> Iterator[Image]:
    reader = decord.VideoReader(str(path), num_threads=1)
    if len(numbers) > NUM_FRAMES:
        yield from (reader[number].asnumpy() for number in numbers)
    else:
        yield from reader.get_batch(list(numbers)).asnumpy()


def torchcodec_batch(path: Path, numbers: Sequence[int]) -> Iterator[Image]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    if len(numbers) > NUM_FRAMES:
        yield from (decoder.get_frame_at(number).data.numpy() for number in numbers)
    else:
        yield from decoder.get_frames_at(list(numbers)).data.numpy()


READERS: dict[str, Callable[[Path, Sequence[int]], Iterator[Image]]] = {
    "ours": ours,
    DECODE_ONLY: decode_only,
    "PyAV in order": pyav_in_order,
    "OpenCV": opencv_seek,
    "decord": decord_batch,
    "torchcodec": torchcodec_batch,
}
_FAILURES = (RuntimeError, IndexError, ValueError, StopIteration, cv2.error, decord.DECORDError)


@dataclass(frozen=True)
class Cell:
    """One reader on one task of one file."""

    milliseconds: float
    num_right: int
    num_frames: int
    error: str = ""


def truth_of(path: Path, numbers: set[int]) -> dict[int, Image]:
    """These frames and their neighbours by sequential decode, thinned out."""
    wanted = {number + step for number in numbers for step in (-1, 0, 1)}
    with av.open(str(path)) as container:
        frames = enumerate(container.decode(video=0))
        return {k: thinned(frame.to_ndarray(format="rgb24")) for k, frame in frames if k in wanted}


def thinned(image: Image) -> Image:
    step = 1 + min(image.shape[:2]) // _THINNED_SIDE_PX
    return image[::step, ::step].astype(np.int16)


def is_right(truth: dict[int, Image], number: int, image: Image) -> bool:
    small = thinned(image)
    if small.shape != truth[number].shape:
        return False
    own, *others = (np.abs(small - truth[k]).mean() for k in (number, number - 1, number + 1) if k in truth)
    return bool(own <= min(others, default=own) + _TIE)


def count_right(reader: str, path: Path, readings: Sequence[Sequence[int]], truth: dict[int, Image]) -> tuple[int, str]:
    num_right = 0
    if reader == DECODE_ONLY:  # gives no pictures that could be wrong
        return sum(map(len, readings)), ""
    try:
        for numbers in readings:
            for number, image in zip(numbers, READERS[reader](path, numbers), strict=False):
                num_right += is_right(truth, number, image)
    except _FAILURES as error:
        return num_right, str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    return num_right, ""


CLOCKS: dict[str, Callable[[], float]] = {"wall": perf_counter, "cpu": process_time}


def seconds_of(reader: str, path: Path, numbers: Sequence[int], clock: str) -> float:
    start = CLOCKS[clock]()
    for _ in READERS[reader](path, numbers):
        pass
    return CLOCKS[clock]() - start


def measure(
    path: Path, readings: Sequence[Sequence[int]], readers: Sequence[str], rounds: int, clock: str
) -> dict[str, Cell]:
    """Time of one reading and right frames of all of them, for each reader."""
    truth = truth_of(path, {number for numbers in readings for number in numbers})
    num_frames = sum(map(len, readings))
    found = {reader: count_right(reader, path, readings, truth) for reader in readers}
    times: dict[str, list[float]] = {reader: [] for reader, (_, error) in found.items() if not error}
    for turn in range(rounds):
        # In another order each round, so that nobody always comes after the one that leaves the caches cold.
        for reader in random.Random(turn).sample(list(times), len(times)):
            times[reader].append(1e3 * seconds_of(reader, path, readings[turn % len(readings)], clock))
    return {
        reader: Cell(round(median(times[reader]), 2) if reader in times else 0.0, right, num_frames, error)
        for reader, (right, error) in found.items()
    }


def tasks_of(path: Path, is_long: bool) -> dict[str, list[Sequence[int]]]:
    with open_video(path) as video:
        num_frames = video.info.num_frames
    if not is_long:
        return {"all": [range(num_frames)], "16 uniform": [spread(num_frames, NUM_FRAMES)]}
    starts = random.Random(0).choices(range(num_frames - NUM_FRAMES), k=NUM_WINDOWS)
    return {"16-frame window": [list(range(start, start + NUM_FRAMES)) for start in starts]}


def table(results: dict[str, dict[str, Cell]], readers: Sequence[str]) -> str:
    """A Markdown table: milliseconds, and right frames where not all are."""
    lines = ["| file, task | " + " | ".join(readers) + " | ours / decode only |", "|---" * (2 + len(readers)) + "|"]
    for name, row in results.items():
        cells = []
        for cell in row.values():
            wrong = "" if cell.num_right == cell.num_frames else f" ({cell.num_right} of {cell.num_frames} right)"
            cells.append(f"fails{wrong}" if cell.error else f"{cell.milliseconds:.1f}{wrong}")
        ratio = row["ours"].milliseconds / row[DECODE_ONLY].milliseconds
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {ratio:.2f} |")
    return "\n".join(lines)


def installed(readers: Sequence[str], path: Path) -> list[str]:
    """torchcodec may be missing, or without FFmpeg's libraries."""
    try:
        next(torchcodec_batch(path, [0]))
    except (ImportError, *_FAILURES) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return [reader for reader in readers if reader != "torchcodec"]
    return list(readers)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, help="short video files: all frames, and 16 uniform ones")
    parser.add_argument("--long", nargs="*", type=Path, default=[], help="long video files: windows at random places")
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=list(READERS), help="time these alone")
    parser.add_argument("--rounds", type=int, default=5, help="how often each reading is repeated")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: of all threads; for a busy machine")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    files = [*args.videos, *args.long]
    if not files:
        parser.error("name at least one video")
    readers = [reader for reader in READERS if reader in {*args.readers, "ours", DECODE_ONLY}]
    if "torchcodec" in readers:
        readers = installed(readers, files[0])
    results: dict[str, dict[str, Cell]] = {}
    for path in files:
        for task, readings in tasks_of(path, path in args.long).items():
            results[f"{path.name}, {task}"] = measure(path, readings, readers, args.rounds, args.clock)
    print(f"milliseconds ({args.clock}), median of {args.rounds} rounds, one thread, PyAV {av.__version__}\n")
    print(table(results, readers))
    if args.json:
        rows = {name: {reader: asdict(cell) for reader, cell in row.items()} for name, row in results.items()}
        about = {"rounds": args.rounds, "clock": args.clock, "pyav": av.__version__}
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    return 0 if all(row["ours"].num_right == row["ours"].num_frames for row in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
