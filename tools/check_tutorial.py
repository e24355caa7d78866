"""The newcomer's path, timed: docs/tutorial.md word by word, from three unlabelled long videos to a live answer.

    python tools/check_tutorial.py data/ceiling --output benchmarks

FOLDER has long videos and ``manifest.csv``, which says what happens when. One video of each of its first three groups
is copied without a label; one of the fourth is ``long_video.mp4``. The last commit is cloned into an empty folder, what
section 1 says is run there, with empty caches; then every other command of the page as it stands there. On the
labelling page a script presses the keys in a Chromium, as fast as a person, and answers from the table. Exit code 1 if
a command fails, or if all took longer than the twenty minutes that the page promises, the reading of it included.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.newcomer import Step, is_late, reading_seconds, score_table, table, verdict, write

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.newcomer import Labeller, Truth

_NUM_LABELLED = 3
_ROUNDS = (("offers", 220.0), ("drafts", 180.0), ("offers", 120.0))
"""What is worked on before each Learn, and for how many seconds."""
_LIVE_SECONDS, _NOTHING = 20.0, "nothing recognised"
_PATIENCE_SECONDS = 120.0


def install_commands(tutorial: str) -> list[str]:
    """Those of the first section, which stand between fences."""
    (block,) = re.findall(r"^## 1\. .*?^```\n(.*?)^```", tutorial, flags=re.DOTALL | re.MULTILINE)
    return [line for line in block.splitlines() if line]


def clipgru_commands(tutorial: str) -> list[str]:
    """Those of the other sections, found as the tests find them."""
    from tests.docs.test_docs import commands_in

    return commands_in(tutorial)


# Videos


@dataclass(frozen=True)
class Videos:
    """Those that are labelled, and the last one, which nobody labels."""

    labelled: tuple[Path, ...]
    last: Path
    truth: Truth


def choose_videos(folder: Path) -> Videos:
    """The first of each of four groups."""
    from pipeline.labelling.stretches import Span

    truth: dict[str, list[Span]] = {}
    groups: dict[str, str] = {}
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            span = Span(row["label"], float(row["start_seconds"]), float(row["end_seconds"]))
            truth.setdefault(row["path"], []).append(span)
            groups.setdefault(row.get("group") or row["path"], row["path"])
    *first, last = [folder / name for name in list(groups.values())[: _NUM_LABELLED + 1]]
    return Videos(tuple(first), last, truth)


def prepare(folder: Path, videos: Videos) -> str:
    """A clone, and beside it a folder with nothing but videos under the names of the page. Returns the commit."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clipgru")], check=True)
    (folder / "own" / "my_videos").mkdir(parents=True)
    for path in videos.labelled:
        shutil.copy(path, folder / "own" / "my_videos")
    shutil.copy(videos.last, folder / "own" / "long_video.mp4")
    spans = [f"long_video.mp4,{s.label},{s.start_seconds},{s.end_seconds}" for s in videos.truth[videos.last.name]]
    (folder / "truth.csv").write_text("\n".join(["path,label,start_seconds,end_seconds", *spans, ""]))
    words = ["git", "-C", str(folder / "clipgru"), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


# The way


class Newcomer:
    """Follows the page in a folder that was prepared."""

    def __init__(self, folder: Path, videos: Videos, browser: Browser) -> None:
        self._folder, self._videos, self._browser = folder, videos, browser
        self._tutorial = (folder / "clipgru" / "docs" / "tutorial.md").read_text(encoding="utf-8")

    def follow(self) -> Iterator[Step]:
        """One step after the other, up to the first that fails."""
        yield Step("reading docs/tutorial.md", reading_seconds(self._tutorial))
        install = install_commands(self._tutorial)
        yield self._run(" && ".join(install), self._folder / "clipgru")
        for command in clipgru_commands(self._tutorial):
            if command.startswith("clipgru label "):
                yield from self._label(command)
            elif "--serve" in command:
                yield self._watch(command)
            else:
                yield self._run(self._activated(command))

    def scores(self) -> Iterator[dict[str, float]]:
        """Figures of the model after each Learn on the video that was not labelled; not a part of the way."""
        for model in sorted(self._folder.glob("learned_*.safetensors")):
            answer = self._folder / "answer.json"
            for words in (f"predict {model} long_video.mp4 --json {answer}", f"score {answer} ../truth.csv"):
                command = self._activated(f"clipgru {words}") + (" --json" if "score" in words else " --quiet")
                out = subprocess.run(command, **self._shell, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = json.loads(out)
            yield {name: found[name] for name in ("frame_accuracy", "f1_10", "f1_25", "f1_50")}

    def _activated(self, command: str) -> str:
        activate = install_commands(self._tutorial)[-1]
        return f"cd {self._folder / 'clipgru'} && {activate} && cd {self._folder / 'own'} && {command}"

    @property
    def _shell(self) -> dict[str, Any]:
        environment = os.environ | {"XDG_CACHE_HOME": str(self._folder / "caches")}
        for name in ("VIRTUAL_ENV", "PYTHONPATH"):
            environment.pop(name, None)
        return {"shell": True, "executable": "/bin/bash", "cwd": self._folder / "own", "env": environment}

    def _run(self, command: str, where: Path | None = None) -> Step:
        start = perf_counter()
        done = subprocess.run(command, **self._shell | ({"cwd": where} if where else {}), check=False)
        return Step(command.rpartition(f"cd {self._folder / 'own'} && ")[2], perf_counter() - start, done.returncode)

    @contextmanager
    def _served(self, command: str) -> Iterator[str]:
        """The address that a command prints; ctrl-c ends it."""
        log = self._folder / "log.txt"
        with log.open("w") as file:
            process = subprocess.Popen(
                self._activated(command), **self._shell, stdout=file, stderr=file, start_new_session=True
            )
        try:
            yield _address_in(log, process)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(_PATIENCE_SECONDS)
            print(log.read_text())

    # In the browser

    def _label(self, command: str) -> Iterator[Step]:
        from playwright.sync_api import expect

        from tests.newcomer import Labeller, Pace

        start = perf_counter()
        with self._served(command) as url, self._browser.new_context() as context:
            page = context.new_page()
            page.goto(url)
            expect(page.locator("#picture img")).to_be_visible(timeout=1000 * _PATIENCE_SECONDS)
            yield Step(command, perf_counter() - start)
            labeller = Labeller(page, self._videos.truth, Pace())
            for number, (kind, seconds) in enumerate(_ROUNDS, start=1):
                start = perf_counter()
                work(labeller, kind, start + seconds)
                lines = page.request.get(f"{url}folder.json").json()["videos"]
                labelled = sum(line["labelled_seconds"] or 0 for line in lines)
                yield Step(f"label: {kind}", perf_counter() - start, 0, asdict(labeller.work) | {"labelled": labelled})
                start = perf_counter()
                figures = labeller.learn()
                yield Step("Learn", perf_counter() - start, 0, dict(figures))
                shutil.copy(
                    self._folder / "own" / "my_videos" / "model.safetensors",
                    self._folder / f"learned_{number}.safetensors",
                )

    def _watch(self, command: str) -> Step:
        """Until a label stands on the live page, and then for a while."""
        start = perf_counter()
        with self._served(command) as url, self._browser.new_context() as context:
            page = context.new_page()
            page.goto(url)
            labels = page.locator("#sources .labels").first
            seen: list[str] = []
            first, end = None, start + _PATIENCE_SECONDS
            while perf_counter() < end:
                words = labels.text_content() if labels.count() else ""
                if words and words != _NOTHING and first is None and page.locator("#sources img").first.is_visible():
                    first, end = perf_counter() - start, perf_counter() + _LIVE_SECONDS
                seen += [words] if words and words not in seen else []
                page.wait_for_timeout(200)
        return Step(command, first or _PATIENCE_SECONDS, int(first is None), {"labels that were seen": seen})


def _address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(int(10 * _PATIENCE_SECONDS)):
        if found := re.search(r"http://\S+/", log.read_text()):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"no address: {log.read_text()}")


def work(labeller: Labeller, kind: str, end: float) -> None:
    """At what is offered, or at the drafts of each video in turn, until the time is over."""

    def is_over() -> bool:
        return perf_counter() > end

    if kind == "offers":
        labeller.label_offers(is_over)
    while kind == "drafts" and not is_over():
        labeller.correct_drafts(is_over)
        if not labeller.open_next_video():
            return


def about_videos(videos: Videos, folder: Path) -> dict[str, Any]:
    """Which they are, and how long."""
    from pipeline.decode import open_video

    def minutes(path: Path) -> float:
        with open_video(path) as video:
            return video.info.duration_seconds / 60

    return {
        "folder": folder.as_posix(),
        "labelled": [path.name for path in videos.labelled],
        "last": videos.last.name,
        "minutes_to_label": round(sum(map(minutes, videos.labelled)), 2),
        "last_minutes": round(minutes(videos.last), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="long videos of four groups, and manifest.csv")
    parser.add_argument("--output", type=Path, help="folder for newcomer.md and newcomer.json")
    args = parser.parse_args()
    from benchmarks.timing import machine

    from tests.browsing import chromium, find_chromium

    if find_chromium() is None:
        parser.error("no Chromium on this machine, and keys are pressed in one (Debian: apt-get install chromium)")

    load_before, videos, steps = round(os.getloadavg()[0], 1), choose_videos(args.folder), list[Step]()
    with tempfile.TemporaryDirectory(prefix="clipgru-") as name, chromium() as browser:
        folder = Path(name).resolve()
        commit = prepare(folder, videos)
        newcomer = Newcomer(folder, videos, browser)
        for step in newcomer.follow():
            print(f"\n{step}", flush=True)
            steps.append(step)
            if step.exit_code:
                break
        scores = list(newcomer.scores())
    print(f"\n{table(steps)}\n\n{score_table(scores)}\n\n{verdict(steps)}")
    if args.output:
        on = machine("cpu") | {"load_before": load_before, "commit": commit}
        write(steps, about_videos(videos, args.folder), scores, on, args.output)
    return int(any(step.exit_code for step in steps) or is_late(steps))


if __name__ == "__main__":
    sys.exit(main())
