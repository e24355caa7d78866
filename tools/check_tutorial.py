"""The newcomer's path, timed: docs/tutorial.md word by word, from a clean folder and own videos to a live prediction.

    python tools/check_tutorial.py VIDEOS LONG_VIDEO --output benchmarks

VIDEOS has a folder of videos for each class, LONG_VIDEO is one video in which they happen. The last commit is cloned
into an empty folder, what section 1 says is run there, with empty caches; then every other command of the page as it
stands there, in a folder with copies of the videos. Exit code 1 if a command fails, or if all took longer than the ten
minutes that the page promises.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import av

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_PROMISED_SECONDS = 600


@dataclass(frozen=True)
class Step:
    """What was typed, how long it took, and what the shell said of it."""

    command: str
    seconds: float
    exit_code: int


def install_commands(tutorial: str) -> list[str]:
    """Those of the first section, which stand between fences."""
    (block,) = re.findall(r"^## 1\. .*?^```\n(.*?)^```", tutorial, flags=re.DOTALL | re.MULTILINE)
    return [line for line in block.splitlines() if line]


def clipgru_commands(tutorial: str) -> list[str]:
    """Those of the other sections, found as the test that runs them finds them."""
    from tests.docs.test_docs import commands_in

    return commands_in(tutorial)


def prepare(folder: Path, videos: Path, long_video: Path) -> None:
    """A clone, and beside it a folder with nothing but videos under the names that the page uses."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clipgru")], check=True)
    shutil.copytree(videos, folder / "own" / "my_videos")
    shutil.copy(long_video, folder / "own" / "long_video.mp4")


def follow(folder: Path) -> Iterator[Step]:
    """One step after the other, up to the first that fails."""
    tutorial = (folder / "clipgru" / "docs" / "tutorial.md").read_text(encoding="utf-8")
    install = install_commands(tutorial)
    steps: list[tuple[str, Path, list[str]]] = [(" && ".join(install), folder / "clipgru", [])]
    activate = f"cd {folder / 'clipgru'} && {install[-1]} && cd {folder / 'own'}"
    steps += [(command, folder / "own", [activate]) for command in clipgru_commands(tutorial)]
    for command, where, before in steps:
        print(f"\n$ {command}", flush=True)
        start = perf_counter()
        code = shell(" && ".join([*before, command]), where, folder / "caches")
        yield Step(command, perf_counter() - start, code)
        if code:
            return


def shell(command: str, where: Path, caches: Path) -> int:
    """Exit code of a command typed into bash."""
    environment = os.environ | {"XDG_CACHE_HOME": str(caches)}
    for name in ("VIRTUAL_ENV", "PYTHONPATH"):
        environment.pop(name, None)
    return subprocess.run(["bash", "-c", command], cwd=where, env=environment, check=False).returncode


def about_videos(folder: Path) -> dict[str, float]:
    """How much was learned from, and how long the last video is."""
    files = [path for path in sorted((folder / "my_videos").rglob("*")) if path.is_file()]
    return {
        "classes": sum(path.is_dir() for path in (folder / "my_videos").iterdir()),
        "videos": len(files),
        "seconds_of_all": round(sum(map(video_seconds, files)), 1),
        "seconds_of_long_video": round(video_seconds(folder / "long_video.mp4"), 1),
    }


def video_seconds(path: Path) -> float:
    """As its container says; 0 for what is no video."""
    try:
        with av.open(str(path)) as container:
            return (container.duration or 0) / av.time_base
    except av.FFmpegError:
        return 0.0


def table(steps: list[Step]) -> str:
    """Of the steps and all of them together, in Markdown."""
    lines = [f"| `{step.command}` | {step.seconds:.1f} | {step.exit_code} |" for step in steps]
    total = f"| **all** | **{total_seconds(steps):.1f}** | |"
    return "\n".join(["| step | seconds | exit code |", "|---|---|---|", *lines, total])


def total_seconds(steps: list[Step]) -> float:
    return sum(step.seconds for step in steps)


def verdict(steps: list[Step]) -> str:
    """In a sentence."""
    if steps[-1].exit_code:
        return f"Failed at `{steps[-1].command}`."
    minutes = total_seconds(steps) / 60
    asked = "less" if total_seconds(steps) < _PROMISED_SECONDS else "MORE"
    without_install = (total_seconds(steps) - steps[0].seconds) / 60
    return f"{minutes:.1f} minutes, {asked} than ten; {without_install:.1f} of them after the installation."


def write(steps: list[Step], videos: dict[str, float], on: dict[str, Any], note: str, folder: Path) -> None:
    """``newcomer.md`` and ``newcomer.json``."""
    parts = [
        "# A newcomer's way through the tutorial",
        "    python tools/check_tutorial.py VIDEOS LONG_VIDEO --output benchmarks",
        f"Every command of docs/tutorial.md as it stands there, from a fresh clone and empty caches. {verdict(steps)}",
        f"{videos['videos']} videos of {videos['classes']} classes, {videos['seconds_of_all']} s together; the long "
        f"one has {videos['seconds_of_long_video']} s. {note}",
        f"{on['cores']} cores ({on['cpu']}), commit {on['commit']}. Load average {on['load_before']} before the start, "
        f"{on['load_average']} in the end: what is above 0 before the start are other programs, which had their share "
        "of the cores. Python's packages came from an index near by; a slow line adds what some gigabytes take on it. "
        "Nobody's typing and reading is in these seconds.",
        table(steps),
    ]
    (folder / "newcomer.md").write_text("\n\n".join(parts) + "\n")
    found = {"machine": on, "videos": videos, "steps": [vars(step) for step in steps]}
    (folder / "newcomer.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="a folder with a folder of videos for each class")
    parser.add_argument("long_video", type=Path, help="one video in which the classes happen")
    parser.add_argument("--output", type=Path, help="folder for newcomer.md and newcomer.json")
    parser.add_argument("--note", default="", help="a sentence for the record, on what the videos are")
    args = parser.parse_args()
    from benchmarks.timing import machine

    load_before = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory(prefix="clipgru-") as name:
        folder = Path(name).resolve()
        prepare(folder, args.videos, args.long_video)
        steps = list(follow(folder))
        videos = about_videos(folder / "own")
    print(f"\n{table(steps)}\n\n{verdict(steps)}")
    if args.output:
        write(steps, videos, machine("cpu") | {"load_before": load_before}, args.note, args.output)
    return int(steps[-1].exit_code != 0 or total_seconds(steps) > _PROMISED_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
