"""What the steps of a Dockerfile make: a folder that stands for an image's root, and the settings of its commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from containers.dockerfile import assignments, copies, exec_form

RAN, NOT_RUN, NOTED, FAILED, AS_BEFORE = "ran", "not run", "noted", "FAILED", "as before"
PYTHON = "usr/local"
"""Where the base image has its Python."""

# What a RUN may not do here -> what is looked at in its place.
_OF_THE_MACHINE = {
    "apt-get": "in its place: which system libraries the installed packages load, below",
    "useradd": "in its place: who may read the image's files, and where its commands write, below",
}
_PASSED_ON = re.compile(r"PIP_.*|SSL_.*|REQUESTS_CA_BUNDLE|.*_proxy|.*_PROXY|LANG|HOME|TMPDIR")


class Outcome(NamedTuple):
    """Of a step: one of the words above, and what there is to say."""

    word: str
    remark: str = ""


@dataclass
class Image:
    """What a Dockerfile has made so far: a folder, and settings."""

    root: Path
    checkout: Path
    files: Sequence[str]
    """Of the checkout, the build context."""
    wanted_python: str | None = None
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """Where a path of the image lies."""
        return self.root / self.workdir.strip("/") / path if not path.startswith("/") else self.root / path.strip("/")

    def placed(self, words: Sequence[str]) -> list[str]:
        """Absolute paths among the words as they are here."""
        return [str(self.inside(word)) if word.startswith("/") else word for word in words]

    def variables(self) -> dict[str, str]:
        """Of this machine what pip needs; of the image all."""
        passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
        own = dict(zip(self.environment, self.placed(list(self.environment.values())), strict=True))
        return passed_on | {"PATH": f"{self.root / PYTHON / 'bin'}:{os.defpath}"} | own

    def run(self, words: Sequence[str], more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """In the WORKDIR, to its end."""
        return subprocess.run(
            self.placed(words),
            cwd=self.inside("."),
            env=self.variables() | dict(more or {}),
            capture_output=True,
            text=True,
            check=False,
        )

    def megabytes(self) -> float:
        """Of all its files, each counted once."""
        files = (Path(folder, name).lstat() for folder, _, names in os.walk(self.root) for name in names)
        return sum({file.st_ino: file.st_size for file in files}.values()) / 1e6


def take_base(image: Image, rest: str) -> Outcome:
    """A virtual environment in the place of the base image's Python, with the newest pip, as the base has it."""
    version = rest.removeprefix("python:").partition("-")[0]
    python = find_python([image.wanted_python, f"python{version}", sys.executable])
    place = image.root / PYTHON
    if not place.exists():
        subprocess.run([python, "-m", "venv", "--upgrade-deps", str(place)], check=True, capture_output=True)
    found = image.run(["python", "-c", "import pip, platform; print(platform.python_version(), pip.__version__)"])
    python_version, pip_version = found.stdout.split()
    other = "" if python_version.startswith(f"{version}.") else f", not {version}"
    return Outcome(NOT_RUN, f"in its place: a virtual environment of Python {python_version}{other}, pip {pip_version}")


def find_python(names: Sequence[str | None]) -> str:
    """The first that is there and starts."""
    for name in names:
        path = shutil.which(name) if name else None
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    raise SystemExit("no Python that starts")


def run_step(image: Image, rest: str) -> Outcome:
    """With ``sh``, unless it is not for this machine."""
    for program, instead in _OF_THE_MACHINE.items():
        if program in rest:
            return Outcome(NOT_RUN, instead)
    before = image.megabytes()
    result = image.run(["sh", "-c", rest])
    if result.returncode:
        return Outcome(FAILED, f"exit code {result.returncode}: {last_line(result.stderr or result.stdout)}")
    return Outcome(RAN, f"{image.megabytes() - before:+,.0f} MB; {last_line(result.stdout)}".removesuffix("; "))


def copy_step(image: Image, rest: str) -> Outcome:
    """From the tracked files that ``.dockerignore`` leaves."""
    found = copies(rest, image.files)
    for source, target in found.items():
        place = image.inside(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.checkout / source, place)
    return Outcome(RAN, f"{len(found)} file{'s' if len(found) > 1 else ''}")


def take_workdir(image: Image, rest: str) -> Outcome:
    image.workdir = rest
    image.inside(".").mkdir(parents=True, exist_ok=True)
    return Outcome(RAN)


def take_environment(image: Image, rest: str) -> Outcome:
    image.environment |= assignments(rest)
    for path in image.environment.values():
        if path.startswith("/"):
            image.inside(path).mkdir(parents=True, exist_ok=True)
    return Outcome(RAN)


def take_entrypoint(image: Image, rest: str) -> Outcome:
    image.entrypoint = exec_form(rest)
    return Outcome(NOTED)


def take_command(image: Image, rest: str) -> Outcome:
    image.command = exec_form(rest)
    return Outcome(NOTED)


def take_health(image: Image, rest: str) -> Outcome:
    image.health = exec_form(rest.partition("CMD ")[2])
    return Outcome(NOTED)


STEPS: dict[str, Callable[[Image, str], Outcome]] = {
    "FROM": take_base,
    "RUN": run_step,
    "COPY": copy_step,
    "WORKDIR": take_workdir,
    "ENV": take_environment,
    "ENTRYPOINT": take_entrypoint,
    "CMD": take_command,
    "HEALTHCHECK": take_health,
    "ARG": lambda image, rest: Outcome(NOTED, "not set, as in a build without --build-arg"),
    "USER": lambda image, rest: Outcome(NOT_RUN, _OF_THE_MACHINE["useradd"]),
}


def last_line(text: str) -> str:
    """The last that was said."""
    return (text.strip().splitlines() or [""])[-1].strip()
