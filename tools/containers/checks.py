"""What a container of this project is for, done with a folder in which the steps of its Dockerfile ran."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from containers.dockerfile import usual_command
from containers.image import FAILED, PYTHON, RAN, Image, Outcome, last_line

_IMPORTS = "cv2, torch, torchvision, timm, av, decord, lightning, matplotlib, pyarrow, starlette, uvicorn"
_LOADED = "print(*sorted({l.split()[-1] for l in open('/proc/self/maps') if '.so' in l}), sep=chr(10))"
_STDLIB = "import bz2, ctypes, lzma, readline, sqlite3, ssl, uuid, zlib"
_OPTIONAL = {"libfribidi0"}  # Pillow loads it where it is there, for text from right to left
_SECONDS_TO_START = 60  # start_period of the health check
_SECONDS_TO_STOP = 30  # stop_grace_period of compose.yaml


def states(image: Image) -> dict[str, int]:
    """When each file was last written, those left out that anybody may write."""
    open_to_all = (str(image.root / "tmp"), str(image.root / "work"))
    files = (Path(folder, name) for folder, _, names in os.walk(image.root) for name in names)
    kept = (file for file in files if not str(file).startswith(open_to_all) and file.suffix != ".pyc")
    return {str(file): file.lstat().st_mtime_ns for file in kept}


def nothing_else_written(image: Image, before: Mapping[str, int]) -> Outcome:
    """Compiled Python does not count: a container's user may not write it, and Python does without."""
    written = sorted(file for file, when in states(image).items() if before.get(file) != when)
    return Outcome(FAILED, f"{len(written)}, as {written[0]}") if written else Outcome(RAN)


def make_files(folder: Path) -> None:
    """An untrained model, a generated video, a small experiment and its clips, by the names that the comments use."""
    from pipeline.checkpoint import save_model
    from pipeline.config.text import to_yaml
    from pipeline.datasets.motion import MotionSetConfig, make_motion_set
    from tests.small import small_experiment, small_model

    clips = MotionSetConfig(num_train_clips=3, num_val_clips=1, num_test_clips=1, size_px=48, num_untrimmed=1)
    make_motion_set(folder / "clips", clips)
    shutil.copy(next((folder / "clips" / "untrimmed").glob("*.mp4")), folder / "video.mp4")
    save_model(folder / "model.safetensors", small_model())
    (folder / "config.yaml").write_text(to_yaml(small_experiment(Path("clips"), Path("runs"))))


def free_port() -> int:
    """One that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def help_is_shown(image: Image, text: str) -> Outcome:
    """ENTRYPOINT with CMD: what a run without a command does."""
    result = image.run([*image.entrypoint, *image.command])
    is_help = result.returncode == 0 and result.stdout.startswith("usage: clipgru")
    return Outcome(RAN, "prints the help") if is_help else Outcome(FAILED, last_line(result.stderr))


def usual_command_works(image: Image, text: str) -> Outcome:
    """In the mounted folder, with an untrained model, a generated video and a small experiment under the names that it
    gives. What it asks of a GPU is asked of the CPU."""
    words = ["cpu" if word == "gpu" else word for word in usual_command(text)]
    before = set(image.inside(".").rglob("*"))
    result = image.run([*image.entrypoint, *words])
    if result.returncode:
        return Outcome(FAILED, f"exit code {result.returncode}: {last_line(result.stderr)}")
    written = [path for path in image.inside(".").rglob("*") if path not in before and path.is_file()]
    told = f"{len(written)} files written" if written else f"ends with {' '.join(last_line(result.stdout).split())!r}"
    return Outcome(RAN, f"clipgru {' '.join(words)}: exit code 0, {told}")


def health_follows_the_page(image: Image, text: str) -> Outcome:
    """Unhealthy before the page is there, healthy while it is served, unhealthy after the stop that an engine sends."""
    address = f"127.0.0.1:{free_port()}"
    address_of_health = {"CLIPGRU_HEALTH_URL": f"http://{address}/health"}
    words = [*image.entrypoint, "webcam", "model.safetensors", "video.mp4", "--replay", "--serve", address]

    def code() -> int:
        return image.run(image.health, address_of_health).returncode

    codes, start = [code()], monotonic()
    with running(image, words) as process:
        while code() and process.poll() is None and monotonic() - start < _SECONDS_TO_START:
            sleep(0.2)
        healthy_after = monotonic() - start
        codes.append(code())
        start = monotonic()
        process.send_signal(signal.SIGTERM)
        ended = process.wait(_SECONDS_TO_STOP)
    codes.append(code())
    remark = f"exit codes {codes[0]}, {codes[1]} and {codes[2]}; healthy {healthy_after:.1f} s after the start; ended "
    remark += f"{monotonic() - start:.1f} s after SIGTERM with exit code {ended}"
    return Outcome(RAN if codes == [1, 0, 1] and ended in (0, 128 + signal.SIGTERM) else FAILED, remark)


@contextmanager
def running(image: Image, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block."""
    silent = subprocess.DEVNULL
    with subprocess.Popen(words, cwd=image.inside("."), env=image.variables(), stdout=silent, stderr=silent) as process:
        try:
            yield process
        finally:
            process.kill()


def code_is_the_installed(image: Image, text: str) -> Outcome:
    """Not the checkout's, and not that of the folder it was installed from."""
    place = image.run(["python", "-c", "import pipeline; print(pipeline.__file__)"]).stdout.strip()
    is_installed = place.startswith(str(image.root / PYTHON)) and "site-packages" in place
    return Outcome(RAN if is_installed else FAILED, place)


def system_libraries_are_there(image: Image, text: str) -> Outcome:
    """Those that the dependencies load and neither Python nor their packages bring, against what apt-get brings."""
    own = set(image.run(["python", "-c", f"{_STDLIB}\n{_LOADED}"]).stdout.split())
    result = image.run(["python", "-c", f"import {_IMPORTS}\n{_LOADED}"])
    if result.returncode:
        return Outcome(FAILED, last_line(result.stderr))
    outside = [path for path in result.stdout.split() if path not in own and not path.startswith(str(image.root))]
    owners = owners_of([Path(path).name for path in outside if "/lib/python3" not in path])
    wanted = re.findall(r"--no-install-recommends ([^&]*)", text)[0].split()
    missing = owners - brought_by(wanted) - _OPTIONAL
    if missing:
        return Outcome(FAILED, f"apt-get does not bring {', '.join(sorted(missing))}")
    packages = ", ".join(sorted(owners - _OPTIONAL)) or "not known, for this is no Debian"
    return Outcome(
        RAN,
        f"{_IMPORTS} load; the packages of what they take from the system, all brought by the "
        f"list of apt-get as this machine's Debian has it: {packages}",
    )


def owners_of(names: Sequence[str]) -> set[str]:
    """The Debian packages that files of these names are of; none where there are no such packages."""
    if not shutil.which("dpkg") or not shutil.which("apt-cache"):
        return set()
    told = subprocess.run(
        ["dpkg", "-S", *(f"*/{n}" for n in names)], capture_output=True, text=True, check=False
    ).stdout
    return {line.partition(":")[0] for line in told.splitlines()}


def brought_by(packages: Sequence[str]) -> set[str]:
    """These Debian packages, and what they depend on."""
    options = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    words = ["apt-cache", "depends", "--recurse", *options, *packages]
    told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return {line for line in told.splitlines() if not line.startswith((" ", "<"))}


def anybody_may_read(image: Image, text: str) -> Outcome:
    """A container runs as whoever starts it."""
    paths = [Path(folder, name) for folder, *names in os.walk(image.root) for name in (*names[0], *names[1])]
    closed = [path for path in paths if not path.is_symlink() and not is_open(path)]
    remark = f"{len(paths):,} files and folders, {len(closed)} of them closed to others"
    return Outcome(FAILED if closed else RAN, remark + (f", as {closed[0]}" if closed else ""))


def is_open(path: Path) -> bool:
    """To everybody."""
    wanted = 0o005 if path.is_dir() else 0o004
    return path.stat().st_mode & wanted == wanted


CHECKS: dict[str, Callable[[Image, str], Outcome]] = {
    "the entry point with its default command": help_is_shown,
    "the usual command": usual_command_works,
    "the health check beside a served page": health_follows_the_page,
    "the code that runs is the installed one": code_is_the_installed,
    "system libraries": system_libraries_are_there,
    "the image's files can be read by anybody": anybody_may_read,
}
