"""200 files through the pool, four shards and Ray, each killed half-way and run again: is the table always the same?

    python tools/check_many.py                         # about 10 minutes on two cores
    python tools/check_many.py --videos 20 --ways pool

Among the files are one that cannot be read and one whose worker is killed from outside (SIGKILL) while it has the file
open, as the kernel does when memory runs out. What is compared: the bytes of the tables; their rows with those of
``clipgru predict --engine local``; that no process outlives a killed run; that no file is worked on twice for nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import sleep
from typing import Any

import av
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_SECONDS_BETWEEN_LOOKS = 0.05
_MOST_SECONDS_TO_END = 60.0
_LONG_FRAMES = 6_000  # of the file whose worker is killed: long enough to be caught with it
WAYS = ("pool", "shards", "ray")


@dataclass
class Outcome:
    """What one way of doing the files came to."""

    killed_after: list[int] = field(default_factory=list)
    """Files in the journal when the run was killed; one number a kill."""
    num_workers_killed: int = 0
    num_survivors: int = 0
    """Processes of a killed run that did not end by themselves."""
    num_journal_lines: int = 0
    """Of finished files, over all shards: as many as there are files, unless one was worked on twice."""
    sha256: str = ""
    num_rows: int = 0


def write_video(path: Path, num_frames: int, seed: int) -> None:
    """Moving noise, 48x48, 10 pictures a second."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 48
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, (seed + 1) * number, axis=seed % 2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_files(folder: Path, num_videos: int) -> Path:
    """The videos, and a model. Returns the file whose worker is to be killed."""
    from pipeline.checkpoint import save_model
    from tests.small import small_model

    (folder / "videos").mkdir()
    save_model(folder / "model.safetensors", small_model())
    names = [folder / "videos" / f"{number:04}.mp4" for number in range(num_videos)]
    for number, path in enumerate(names):
        write_video(path, _LONG_FRAMES if number == num_videos // 3 else 20 + number % 30, number)
    names[num_videos // 4].write_bytes(names[num_videos // 4].read_bytes()[:300])
    return names[num_videos // 3]


def command(folder: Path, table: str, *more: str) -> list[str]:
    """``clipgru predict`` over the videos."""
    options = ["--parquet", str(folder / table), "--timeline.min_seconds", "0.2", "--quiet", *more]
    return [sys.executable, "-m", "pipeline", "predict", str(folder / "model.safetensors"), "videos", *options]


def start(folder: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """In the folder of the videos: their paths are relative."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, cwd=folder, env=environment, stderr=subprocess.DEVNULL)


def run(folder: Path, arguments: Sequence[str]) -> None:
    """To its end. Exit code 1: some videos failed, as they should."""
    with start(folder, arguments) as process:
        if process.wait() != 1:
            sys.exit(f"exit code {process.returncode}: {' '.join(arguments)}")


def run_and_kill(folder: Path, arguments: Sequence[str], journal: Path, num_lines: int, outcome: Outcome) -> None:
    """Kills the command, and it alone, when that many files are done; then waits for those that it started."""
    with start(folder, arguments) as process:
        while process.poll() is None and num_done(journal) < num_lines:
            sleep(_SECONDS_BETWEEN_LOOKS)
        started = descendants(process.pid)
        process.kill()
    outcome.killed_after.append(num_done(journal))
    looks = int(_MOST_SECONDS_TO_END / _SECONDS_BETWEEN_LOOKS)
    while looks and any(is_alive(pid) for pid in started):
        sleep(_SECONDS_BETWEEN_LOOKS)
        looks -= 1
    outcome.num_survivors += sum(is_alive(pid) for pid in started)


def num_done(journal: Path) -> int:
    """Whole lines after the first."""
    return max(journal.read_bytes().count(b"\n") - 1, 0) if journal.exists() else 0


def descendants(pid: int) -> list[int]:
    """All processes that it has started, and they."""
    found = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children = [int(child) for child in (thread / "children").read_text().split()]
            found += [each for child in children for each in (child, *descendants(child))]
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not asked for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def killing_who_opens(path: Path, outcome: Outcome) -> Iterator[None]:
    """SIGKILL for every worker that has the file open, once each."""
    is_over = Event()
    killed: set[int] = set()

    def look() -> None:
        while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
            for pid in set(holders(path)) - killed:
                killed.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    thread = Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        outcome.num_workers_killed = len(killed)


def holders(path: Path) -> Iterator[int]:
    """Workers that have the file open, as seen from outside."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"pipeline.many.worker" in (process / "cmdline").read_bytes():
                links = [os.readlink(link) for link in (process / "fd").iterdir()]
                if str(path) in links:
                    yield int(process.name)


def try_way(way: str, folder: Path, num_videos: int, poison: Path) -> Outcome:
    """All files, with a kill on the way; the table is ``<way>.parquet``."""
    outcome, table = Outcome(), f"{way}.parquet"
    engine = ["--engine", "ray" if way == "ray" else "pool"]
    num_workers, num_parts = (1, 4) if way == "shards" else (2, 1)
    parts = [f"{number}/{num_parts}" for number in range(1, num_parts + 1)] if num_parts > 1 else [None]
    journals = []
    with killing_who_opens(poison, outcome):
        for number, part in enumerate(parts, 1):
            arguments = command(folder, table, *engine, "--workers", str(num_workers))
            arguments += ["--shard", part] if part else []
            stem = f"{way}.shard-{number}-of-{num_parts}" if part else way
            journals.append(folder / f"{stem}.parquet.journal")
            if number == 1:  # of the shards, one is killed
                run_and_kill(folder, arguments, journals[-1], num_videos // num_parts // 2, outcome)
            with start(folder, arguments) as process:
                if process.wait() not in (0, 1):  # 0: the bad files are in other shards
                    sys.exit(f"exit code {process.returncode}: {' '.join(arguments)}")
    if way == "shards":
        merge = [sys.executable, "-m", "pipeline", "merge", str(folder / table)]
        subprocess.run(merge, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    outcome.sha256 = hashlib.sha256((folder / table).read_bytes()).hexdigest()
    outcome.num_journal_lines = sum(map(num_done, journals))
    outcome.num_rows = len(rows_of(folder / table))
    return outcome


def rows_of(table: Path) -> list[dict[str, Any]]:
    """The table as plain rows."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(table).to_pylist()
    return rows


def faults(folder: Path, outcomes: dict[str, Outcome], num_videos: int, poison: Path) -> list[str]:
    """What is not as it should be, in words."""
    poisoned = f"videos/{poison.name}"
    wanted = rows_of(folder / "local.parquet")
    found = []
    for way, outcome in outcomes.items():
        rows = rows_of(folder / f"{way}.parquet")
        if [row for row in rows if row["path"] != poisoned] != [row for row in wanted if row["path"] != poisoned]:
            found.append(f"{way}: other rows than those of --engine local")
        statuses = [(row["kind"], row["status"]) for row in rows if row["path"] == poisoned]
        if statuses != [("video", "crashed")]:
            found.append(f"{way}: the file that costs its worker has the rows {statuses}")
        if outcome.num_survivors:
            found.append(f"{way}: {outcome.num_survivors} processes outlived the killed run")
        if outcome.num_journal_lines != num_videos:
            found.append(f"{way}: {outcome.num_journal_lines} records of {num_videos} files")
    if len({outcome.sha256 for outcome in outcomes.values()}) > 1:
        found.append("the tables are not the same")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200, help="how many; 12 at least")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipgru-") as name:
        folder = Path(name).resolve()
        poison = make_files(folder, args.videos)
        run(folder, command(folder, "local.parquet"))
        outcomes = {}
        for way in args.ways:
            outcomes[way] = try_way(way, folder, args.videos, poison)
            print(way, json.dumps(vars(outcomes[way])), flush=True)
        problems = faults(folder, outcomes, args.videos, poison)
    print("\n".join(problems) or "the same table every way")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
