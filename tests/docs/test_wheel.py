"""The wheel and the source distribution hold the package whole: installed where there is no checkout, it predicts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.checkpoint import save_model
from pipeline.inference import load_model
from pipeline.version import __version__
from tests.small import small_model

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
ENVIRONMENT["PYTHONDONTWRITEBYTECODE"] = "1"  # nothing is written beside the dependencies


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing is left in the checkout, with what ``make dist`` builds; but nothing is fetched."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    for folder in ("pipeline", "examples", "tools"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", cwd=source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return source / "dist" / f"clipgru-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def package() -> set[str]:
    """Its files."""
    found = (path for path in (ROOT / "pipeline").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path, package: set[str]) -> None:
    assert "pipeline/py.typed" in package
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("pipeline/")} == package


def test_the_source_distribution_holds_the_package_and_no_more(source: Path, package: set[str]) -> None:
    name = f"clipgru-{__version__}"
    with tarfile.open(source / "dist" / f"{name}.tar.gz") as archive:
        files = {member.name.removeprefix(f"{name}/") for member in archive if member.isfile()}
    assert files == package | {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}


def test_it_gives_the_wheel_that_the_checkout_gives(source: Path, wheel: Path) -> None:
    """``wheel`` was built from it."""
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", "direct", cwd=source)
    assert (source / "direct" / wheel.name).read_bytes() == wheel.read_bytes()


def test_it_predicts_where_it_is_installed(wheel: Path, motion_root: Path, tmp_path: Path) -> None:
    """In an environment of its own. The dependencies are those around this one: a line in a .pth file names their
    folder, and Python reads no .pth files there, so that no editable installation is found."""
    run(sys.executable, "-m", "venv", "--without-pip", "environment", cwd=tmp_path)
    python = tmp_path / "environment" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=tmp_path)
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    installed = Path(run(python, "-c", find, cwd=tmp_path).strip())
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    elsewhere = tmp_path / "elsewhere"
    save_model(elsewhere / "model.safetensors", small_model())
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    shutil.copy(video, elsewhere / "video.mp4")
    words = ("predict", "model.safetensors", "video.mp4", "--json", "out.json", "--html", "pages", "--quiet")
    program = (
        "import pipeline, sys; print(pipeline.__file__); from pipeline.__main__ import console_main; console_main()"
    )
    where, *_ = run(python, "-c", program, *words, cwd=elsewhere).splitlines()

    assert Path(where).is_relative_to(installed)
    assert (python.parent / "clipgru").is_file()
    assert (elsewhere / "pages" / "video.html").stat().st_size > 0
    (told,) = json.loads((elsewhere / "out.json").read_text())["videos"]
    expected = list(load_model(elsewhere / "model.safetensors").predict(video))
    assert [window["label"] for window in told["windows"]] == [prediction.label for prediction in expected]
