"""Damages small videos in many ways and reads them: nothing may hang, crash this process, or come out wrong as healthy.

    python tools/fuzz_decode.py clip.avi clip.mp4 --mutations 500 --seeds 0 1 2 --json benchmarks/fuzz_decode.json

One decoding process examines them all. Each mutation cuts a file off, flips bits, zeroes a stretch or splices bytes in;
the seed and its number decide all. The damaged file is examined and read through the isolated reader. If it is reported
usable, every frame that the reader gives, in order and at random, must be that of a plain sequential decode of the same
bytes by bare PyAV, which runs in a process of its own.

A flipped bit can make another valid video, which no reader can tell from what was meant: formats without checksums
carry no proof. Such files are counted as ``changed_unseen``: reported usable, read exactly, and not what they were.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, VideoReader
from pipeline.decode.health import USABLE
from pipeline.errors import DecodeError

NUM_RANDOM_FRAMES = 8
TRUTH_SECONDS = 60.0
_MAX_BITS, _MAX_SHARE = 64, 0.1


def cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.randint(1, _MAX_BITS)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def zero(data: bytearray, rng: random.Random) -> bytearray:
    start, length = _stretch(data, rng)
    data[start : start + length] = bytes(length)
    return data


def splice(data: bytearray, rng: random.Random) -> bytearray:
    """Bytes from one place put in at another, or over what was there."""
    start, length = _stretch(data, rng)
    piece, place = data[start : start + length], rng.randrange(len(data))
    data[place : place + rng.choice([0, len(piece)])] = piece
    return data


def _stretch(data: bytearray, rng: random.Random) -> tuple[int, int]:
    length = rng.randint(1, max(1, int(len(data) * _MAX_SHARE)))
    return rng.randrange(max(1, len(data) - length)), length


MUTATIONS: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    "cut": cut,
    "flip": flip,
    "zero": zero,
    "splice": splice,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file."""

    number: int
    file: str
    mutation: str
    verdict: str
    seconds: float
    num_wrong: int
    """Frames that are not those of a plain decode of the same bytes. Must be 0 if the verdict is usable."""
    changed_unseen: bool
    """Reported usable, and not the frames of the file before it was damaged."""
    error: str
    """Why the reader stopped."""

    @property
    def is_of_interest(self) -> bool:
        """Whether it is more than a damaged file that was told as such."""
        return bool(self.num_wrong or self.changed_unseen or "decoding process" in self.error)


def mutate(source: Path, number: int, seed: int, target: Path) -> str:
    """Writes mutation ``number`` of a file; returns its kind."""
    rng = random.Random(f"{seed}/{number}/{source.name}")
    kind = list(MUTATIONS)[number % len(MUTATIONS)]
    target.write_bytes(MUTATIONS[kind](bytearray(source.read_bytes()), rng))
    return kind


def plain_digests(path: Path) -> list[str]:
    """A digest of each frame of a plain decode, up to the first error."""
    digests: list[str] = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            container.streams.video[0].codec_context.thread_count = 1
            digests.extend(_digest(_upright(frame)) for frame in container.decode(video=0))
    except (av.error.FFmpegError, IndexError):  # the second, where a new stream begins in the middle
        pass
    return digests


def _upright(frame: av.VideoFrame) -> NDArray[Any]:
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)


def truth_of(path: Path) -> list[str]:
    """``plain_digests`` in a process of its own."""
    command = [sys.executable, __file__, str(path), "--truth"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TRUTH_SECONDS, check=True, env=environment)
    digests: list[str] = json.loads(done.stdout)
    return digests


def read_digests(video: VideoReader, rng: random.Random) -> Iterator[tuple[int, str]]:
    """Number and digest of each frame in order, then of some at random."""
    num_frames = 0
    for number, (frame, _) in enumerate(video):
        num_frames += 1
        yield number, _digest(frame.permute(1, 2, 0).numpy())  # [3, H, W] -> [H, W, 3]
    chosen = rng.choices(range(num_frames), k=NUM_RANDOM_FRAMES) if num_frames else []
    for number, frame in zip(chosen, video.frames(chosen).frames, strict=True):
        yield number, _digest(frame.permute(1, 2, 0).numpy())


def _digest(image: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def try_one(opener: VideoOpener, source: Path, original: Sequence[str], number: int, seed: int, path: Path) -> Outcome:
    """Damages a file, examines it and reads it."""
    kind, start = mutate(source, number, seed, path), monotonic()
    verdict = opener.examine(path).health.verdict
    found: list[tuple[int, str]] = []
    error = ""
    try:
        with opener.open(path) as video:
            found.extend(read_digests(video, random.Random(number)))
    except DecodeError as refusal:
        error = str(refusal).replace(str(path), source.name)
    seconds = monotonic() - start
    num_wrong, changed_unseen = 0, False
    if verdict == USABLE:
        truth = truth_of(path)
        num_wrong = sum(k >= len(truth) or digest != truth[k] for k, digest in found)
        if not error:  # one too few or too many is wrong as well
            num_wrong += abs(len(truth) + min(NUM_RANDOM_FRAMES, len(truth) * NUM_RANDOM_FRAMES) - len(found))
        changed_unseen = truth != list(original)
    return Outcome(number, source.name, kind, verdict, round(seconds, 3), num_wrong, changed_unseen, error)


def fuzz(sources: Sequence[Path], num_mutations: int, seed: int, opener: VideoOpener) -> Iterator[Outcome]:
    """Tries that many mutations, in turn of the files and in turn of the kinds."""
    originals = {source: plain_digests(source) for source in sources}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(num_mutations):
            source = sources[number // len(MUTATIONS) % len(sources)]
            path = Path(folder) / f"damaged{source.suffix}"
            yield try_one(opener, source, originals[source], number, seed, path)


def summary(outcomes: Sequence[Outcome], deadline_seconds: float) -> dict[str, object]:
    """Counts, and what must be zero."""
    return {
        "mutations": len(outcomes),
        "verdicts": dict(Counter(outcome.verdict for outcome in outcomes)),
        "by_mutation": {
            kind: dict(Counter(outcome.verdict for outcome in outcomes if outcome.mutation == kind))
            for kind in MUTATIONS
        },
        "slowest_seconds": max(outcome.seconds for outcome in outcomes),
        "past_the_deadline": sum(outcome.seconds > 3 * deadline_seconds for outcome in outcomes),
        "stopped_processes": sum("decoding process" in outcome.error for outcome in outcomes),
        "wrong_frames_in_usable_files": sum(outcome.num_wrong for outcome in outcomes),
        "usable_but_refused_by_the_reader": sum(o.verdict == USABLE and bool(o.error) for o in outcomes),
        "changed_unseen": sum(outcome.changed_unseen for outcome in outcomes),
        "changed_unseen_by_kind": dict(Counter(f"{o.file} {o.mutation}" for o in outcomes if o.changed_unseen)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, help="small video files to damage copies of")
    parser.add_argument("--mutations", type=int, default=500, help="how many damaged files to try")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="that many mutations for each")
    parser.add_argument("--timeout-seconds", type=float, default=20.0, help="deadline of the isolated reader")
    parser.add_argument("--json", type=Path, help="write the summary and the outcomes of interest to this file")
    parser.add_argument("--truth", action="store_true", help="print the digests of a plain decode and end")
    args = parser.parse_args()
    if args.truth:
        print(json.dumps(plain_digests(args.videos[0])))
        return 0
    results: list[dict[str, object]] = []
    with VideoOpener(DecodeConfig(isolate=True, timeout_seconds=args.timeout_seconds)) as opener:
        for seed in args.seeds:
            outcomes = list(fuzz(args.videos, args.mutations, seed, opener))
            rows = [asdict(outcome) for outcome in outcomes if outcome.is_of_interest]
            results.append({"seed": seed} | summary(outcomes, args.timeout_seconds) | {"of_interest": rows})
            print(json.dumps(results[-1], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"pyav": av.__version__, "seeds": results}, indent=1) + "\n")
    must_be_zero = ("wrong_frames_in_usable_files", "past_the_deadline", "usable_but_refused_by_the_reader")
    return 1 if any(result[name] for result in results for name in must_be_zero) else 0


if __name__ == "__main__":
    sys.exit(main())
