"""The steps of the Dockerfiles as a script in an empty folder, where there is no container engine.

    python tools/check_docker.py                       # some minutes, the network, and 8 GB in the temporary folder
    python tools/check_docker.py --output benchmarks   # and writes docker.md there

No image is built. The folder stands for the image's root, a fresh virtual environment for the Python of its base, and
every absolute path is taken to be below that folder. Steps that would change this machine are not run; the table says
which, and what was looked at in their place. What the image is for is then done with what was installed: its help, the
usual command of the file's comments, and a live page under its health check. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from containers.checks import CHECKS, make_files, nothing_else_written, states  # noqa: E402
from containers.dockerfile import Instruction, context, instructions  # noqa: E402
from containers.image import AS_BEFORE, FAILED, STEPS, Image, Outcome  # noqa: E402


@dataclass(frozen=True)
class Row:
    """Of the table."""

    what: str
    outcome: Outcome
    seconds: float


def timed(what: str, act: Callable[[], Outcome], image: Image) -> Row:
    """What an act came to, told at once; paths as they are in the image."""
    start = perf_counter()
    try:
        outcome = act()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        outcome = Outcome(FAILED, f"{type(error).__name__}: {error}")
    remark = outcome.remark.replace(str(image.root), "").replace(str(ROOT), "CHECKOUT")
    row = Row(what, Outcome(outcome.word, remark), perf_counter() - start)
    print(f"{row.outcome.word:10} {row.seconds:6.1f} s  {what[:70]:70}  {remark}", flush=True)
    return row


def build(image: Image, steps: Sequence[Instruction], known: dict[Instruction, str]) -> list[Row]:
    """Step by step, up to the first that fails. What another Dockerfile did before in this folder is not done again;
    ``known`` says what it came to, and grows."""
    rows = []
    for step in steps:
        is_known = step in known and step.keyword in ("FROM", "RUN", "COPY")
        act = partial(Outcome, AS_BEFORE, known[step]) if is_known else partial(STEPS[step.keyword], image, step.rest)
        rows.append(timed(" ".join(step), act, image))
        known.setdefault(step, rows[-1].outcome.word)
        if rows[-1].outcome.word == FAILED:
            break
    return rows


def check(image: Image, text: str) -> list[Row]:
    """What the image is for; in the end, that this wrote nothing but where any user may write."""
    make_files(image.inside("."))
    before = states(image)
    rows = [timed(what, partial(act, image, text), image) for what, act in CHECKS.items()]
    last = partial(nothing_else_written, image, before)
    return [*rows, timed("nothing was written but to /tmp and /work", last, image)]


def tracked_files() -> list[str]:
    """Of the checkout."""
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in told.split("\0") if (ROOT / name).is_file()]


def record(tables: Mapping[str, Sequence[Row]], files: Sequence[str], image: Image) -> str:
    """All of it as a page."""
    from benchmarks.timing import machine

    on = machine("cpu")
    size = sum((ROOT / name).stat().st_size for name in files) / 1e6
    gpu_libraries = sum(folder_megabytes(path) for path in image.root.glob("usr/local/lib/*/site-packages/nvidia"))
    parts = [
        "# The Dockerfiles' steps, without a container engine",
        "    python tools/check_docker.py --output benchmarks",
        "**No image was built and no container was started:** no engine was at hand. The steps ran as a script in an "
        "empty folder that stands for the image's root; those that would change the machine did not run, and the table "
        "says what was looked at in their place. The usual command meets an untrained model and generated "
        "videos. What this cannot show: that the base image and Debian's packages are what they are taken for, that an "
        "engine reads the files as this script does, how GPUs reach a container, or what it is to be its process 1.",
        f"{on['cores']} shared cores ({on['cpu']}), load average {on['load_average']} in the end, commit "
        f"{on['commit']}. Seconds are those of a busy machine with a package index near by. The build context, which "
        f"is the tracked files that .dockerignore leaves: {len(files)} files, {size:.1f} MB. The folder in the end: "
        f"{image.megabytes():,.0f} MB, {gpu_libraries:,.0f} MB of them NVIDIA's libraries, which PyPI's torch brings; "
        "the base image and what apt-get adds are not counted.",
    ]
    for name, rows in tables.items():
        lines = [
            f"| {_cell(row.what)} | {row.outcome.word} | {row.seconds:.1f} | {row.outcome.remark} |" for row in rows
        ]
        parts += [f"## {name}", "\n".join(["| step | | seconds | |", "|---|---|---|---|", *lines])]
    return "\n\n".join(parts) + "\n"


def folder_megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _cell(what: str) -> str:
    return f"`{what}`" if what.split()[0] in STEPS else what


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", help="for the virtual environment; else the version that the Dockerfile names, or this"
    )
    parser.add_argument("--keep", type=Path, help="build in this empty or missing folder, and leave it there")
    parser.add_argument("--output", type=Path, help="folder for docker.md")
    args = parser.parse_args()
    files = context(tracked_files(), (ROOT / ".dockerignore").read_text())
    root = args.keep or Path(tempfile.mkdtemp(prefix="clipgru-image-"))
    tables: dict[str, list[Row]] = {}
    known: dict[Instruction, str] = {}
    try:
        for path in sorted((ROOT / "docker").glob("Dockerfile*")):
            print(f"\n{path.name}")
            image = Image(root.resolve(), ROOT, files, args.python)
            tables[path.name] = build(image, instructions(path.read_text()), known)
            if tables[path.name][-1].outcome.word != FAILED:
                tables[path.name] += check(image, path.read_text())
        if args.output:
            (args.output / "docker.md").write_text(record(tables, files, image))
    finally:
        if not args.keep:
            shutil.rmtree(root)
    failed = [row for rows in tables.values() for row in rows if row.outcome.word == FAILED]
    print(f"\n{len(failed)} failed; no image was built")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
