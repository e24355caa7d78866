"""Installs the wheel in an empty environment of each Python, and trains and predicts there without a network.

    make dist
    python tools/check_wheels.py                         # 3.10 to 3.13, from pyenv or PATH; needs uv
    python tools/check_wheels.py 3.12 /opt/python/bin/python3

An environment is some 6 GB, for torch brings its GPU libraries; it is deleted before the next is made.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USUAL = ("3.10", "3.11", "3.12", "3.13")
_MAKE_VIDEOS = """
import sys
from importlib import resources
from pathlib import Path
from pipeline.datasets.motion import MotionSetConfig, make_motion_set
assert Path(sys.prefix) in Path(str(resources.files("pipeline"))).parents
assert resources.files("pipeline").joinpath("py.typed").is_file(), "py.typed is missing"
sizes = dict(num_train_clips=2, num_val_clips=2, num_test_clips=2, num_untrimmed=1, untrimmed_seconds=8.0)
make_motion_set(Path("motion"), MotionSetConfig(**sizes))
"""
_TRAIN = (
    "train --name small --quiet --data.format folder --data.root motion --data.num_workers 0 --training.epochs 1 "
    "--model.backbone tiny --model.weights none --training.freeze_batch_norm false "
    "--transform.fit_size_px 40 --transform.input_size_px 32"
)
_PREDICT = "predict runs/small/model.safetensors motion/untrimmed/000.mp4 --quiet --csv out.csv"
_DEAD_PROXY = "http://127.0.0.1:9"
_VERSIONS = (
    "import platform, torch, torchvision as v; print(platform.python_version(), torch.__version__, v.__version__)"
)
_DECORD = "decord 0.6.0 is not supported on this platform"
"""What pip says of a wheel that is tagged for Python 3.6 inside and for every Python by its name; it works on all."""


class StepError(Exception):
    """A command ended with another exit code than 0; the message is what it wrote last."""


class Environment:
    """An empty virtual environment, and the folder beside it in which its commands run."""

    def __init__(self, place: Path, python: str) -> None:
        self.place, self.bin = place, place / "venv" / "bin"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "VIRTUAL"))}
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _DEAD_PROXY)
        self._online, self._offline = kept, {**kept, **proxies, "XDG_CACHE_HOME": str(place / "cache")}
        self.online("uv", "venv", "--quiet", "--seed", "--python", _interpreter(python), place / "venv")

    def online(self, *words: str | Path) -> str:
        """Runs a command; what it wrote."""
        return _run(words, self.place, self._online)

    def pip_check(self) -> str:
        """The cell for ``pip check``, whose complaint about decord's tag alone is no failure."""
        try:
            self.online(self.bin / "python", "-m", "pip", "check")
        except StepError as error:
            if not str(error).endswith(f"exit code 1: {_DECORD}"):
                raise
            return "decord's tag alone"
        return "passed"

    def offline(self, name: str, *words: str | Path) -> str:
        """Runs a program of the environment without a network: in a network namespace of its own, where this machine
        allows that, and in any case with proxies that lead nowhere and with empty caches."""
        return _run((*_without_network(), self.bin / name, *words), self.place, self._offline)


def _run(words: Sequence[str | Path], cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        shown = " ".join(Path(word).name for word in map(str, words[:3]))
        raise StepError(f"{shown}: exit code {done.returncode}: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout.strip()


def _without_network() -> tuple[str, ...]:
    words = ("unshare", "--map-root-user", "--net")
    try:
        is_allowed = subprocess.run([*words, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        is_allowed = False
    return words if is_allowed else ()


def _interpreter(python: str) -> str:
    """The path of a version that pyenv has; else the word as it is, for uv to find."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    built = sorted(root.glob(f"versions/{python}.*/bin/python")) if re.fullmatch(r"3\.\d+", python) else []
    return str(built[-1]) if built else python


def check(python: str, wheel: Path) -> dict[str, str]:
    """Column to cell of one Python's row."""
    row, start = {"Python": python}, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clipgru_wheel_") as folder:
        try:
            environment = Environment(Path(folder), python)
            where = ("--python", environment.bin / "python", "--constraint", ROOT / "constraints.txt")
            environment.online("uv", "pip", "install", "--quiet", *where, wheel)
            row["install"] = f"{time.monotonic() - start:.0f} s"
            row["pip check"] = environment.pip_check()
            row["network"] = "none" if _without_network() else "dead proxies"
            row["Python"], row["torch"], row["torchvision"] = environment.offline("python", "-c", _VERSIONS).split()
            row["--version"] = environment.offline("clipgru", "--version")
            environment.offline("python", "-c", _MAKE_VIDEOS)
            row["py.typed"] = "there"
            environment.offline("clipgru", *_TRAIN.split())
            environment.offline("clipgru", *_PREDICT.split())
            num_windows = (environment.place / "out.csv").read_text().count(",window,")
            if num_windows == 0:
                raise StepError("clipgru predict: no window in the table")
            row["predicted"] = f"{num_windows} windows"
        except StepError as error:
            print(f"{python}: {error}", file=sys.stderr, flush=True)
    return row | {"all": f"{time.monotonic() - start:.0f} s"}


def table(rows: Sequence[dict[str, str]]) -> str:
    """A row for each Python; what was not reached after a failure is FAILED."""
    head = "Python, torch, torchvision, install, pip check, network, --version, py.typed, predicted, all"
    columns = tuple(head.split(", "))
    cells = [columns, ("---",) * len(columns), *(tuple(row.get(name, "FAILED") for name in columns) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def main() -> int:
    """Checks one Python after the other; exit code 1 if any failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pythons", nargs="*", default=USUAL, help="versions or paths (%(default)s)")
    parser.add_argument("--wheel", type=Path, help="the newest in dist/ unless given")
    given = parser.parse_args()
    wheels = (
        [given.wheel] if given.wheel else sorted((ROOT / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    )
    if not wheels or not shutil.which("uv"):
        missing = "uv is not installed; pip install uv" if wheels else "no wheel in dist/; run make dist"
        print(f"check_wheels: error: {missing}", file=sys.stderr)
        return 2
    rows = []
    for python in given.pythons:
        rows.append(check(python, wheels[-1].resolve()))
        print(*rows[-1].values(), sep=", ", flush=True)
    print(f"\n{wheels[-1].name}\n\n{table(rows)}")
    return 0 if all("predicted" in row for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
