"""Write constraints.txt: one exact version of everything that an install brings, on each of several Pythons.

    python tools/pin_constraints.py python3.11 python3.10 python3.12 python3.13          # refresh: make constraints
    python tools/pin_constraints.py --check python3.11 python3.10 python3.12 python3.13  # is all of it pinned?

The first Python given is the reference: the others get its versions if they can have all of them, else their own
newest. Needs Python 3.11, pip in each Python given, and the package index. Nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEADER = """\
# Exact versions of every package that an install brings (at run time, for tests, to build; direct or not) on
# Linux x86_64 with Python {pythons}. `make` installs with them.
# Written by tools/pin_constraints.py; to refresh: make constraints
"""

Pins = dict[str, str]  # package -> version
Python = tuple[int, int]


def requirements() -> list[str]:
    """What pyproject.toml asks for: to build, at run time and for tests."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        pyproject = tomllib.load(file)
    project = pyproject["project"]
    return [*pyproject["build-system"]["requires"], *project["dependencies"], *project["optional-dependencies"]["test"]]


def python_version(python: str) -> Python:
    """(major, minor) of an interpreter."""
    out = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=True)
    major, minor = out.stdout.split()
    return int(major), int(minor)


def resolve(python: str, *limits: str) -> Pins:
    """What pip would install into an empty environment, wheels only, or CalledProcessError with what it said."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--quiet"]
        command += ["--report", str(report), *limits, *requirements()]
        subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"] for package in found}


def resolve_like(python: str, reference: Pins) -> Pins:
    """The reference's versions where this Python can have them all, else its own newest."""
    with tempfile.TemporaryDirectory() as folder:
        wished = Path(folder) / "constraints.txt"
        wished.write_text("".join(f"{name}=={version}\n" for name, version in reference.items()))
        try:
            return resolve(python, "--constraint", str(wished))
        except subprocess.CalledProcessError:
            print(f"{python}: not all the versions of the reference exist for it; it gets its own newest")
            return resolve(python)


def pin_lines(name: str, by_python: dict[Python, Pins]) -> list[str]:
    """The lines of one package: one for each run of Pythons with the same version, told apart by markers."""
    versions = [(python, pins[name]) for python, pins in sorted(by_python.items()) if name in pins]
    starts = [i for i, (_, version) in enumerate(versions) if i == 0 or version != versions[i - 1][1]]
    lines = []
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        lower = [] if start == 0 else [f'python_version >= "{_dotted(versions[start][0])}"']
        upper = [] if stop is None else [f'python_version < "{_dotted(versions[stop][0])}"']
        marker = " and ".join([*lower, *upper])
        lines.append(f"{name}=={versions[start][1]}" + (f"; {marker}" if marker else ""))
    return lines


def _dotted(python: Python) -> str:
    return ".".join(map(str, python))


def refresh(pythons: Sequence[str]) -> None:
    """Resolve on every Python and write the file."""
    reference = resolve(pythons[0])
    by_python = {python_version(python): resolve_like(python, reference) for python in pythons[1:]}
    by_python[python_version(pythons[0])] = reference
    names = sorted(set().union(*by_python.values()))
    lines = [line for name in names for line in pin_lines(name, by_python)]
    header = HEADER.format(pythons=", ".join(map(_dotted, sorted(by_python))))
    CONSTRAINTS.write_text(header + "\n".join(lines) + "\n")
    print(f"{CONSTRAINTS.name}: {len(names)} packages, {len(lines)} pins")


def check(pythons: Sequence[str]) -> None:
    """Every Python resolves under the file, and the file names all that it gets."""
    pinned = {line.split("==")[0] for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")}
    for python in pythons:
        pins = resolve(python, "--constraint", str(CONSTRAINTS))
        if missing := sorted(set(pins) - pinned):
            sys.exit(f"{python}: not pinned in {CONSTRAINTS.name}: {', '.join(missing)}; run: make constraints")
        print(f"Python {_dotted(python_version(python))}: {len(pins)} packages, all pinned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="verify constraints.txt instead of writing it")
    parser.add_argument("pythons", nargs="+", help="interpreters, the reference first")
    args = parser.parse_args()
    try:
        (check if args.check else refresh)(args.pythons)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.stderr}{error.cmd[0]}: pip finds no set of wheels")


if __name__ == "__main__":
    main()
