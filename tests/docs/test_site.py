"""``make docs`` builds the site: no warning, no dead link, nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "pyproject.toml", "constraints.txt")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the site is made of, with this environment as its ``.venv``."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in (*FILES, "data/README.md"):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for folder in ("docs", "benchmarks", "examples", "pipeline"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / ".venv").mkdir()
    (copy / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for stamp in (".made", ".installed", ".installed-test"):
        (copy / ".venv" / stamp).touch()
    return copy


def test_a_dead_anchor_is_the_only_warning_and_nothing_is_from_elsewhere(checkout: Path) -> None:
    with (checkout / "docs" / "glossary.md").open("a", encoding="utf-8") as page:
        page.write("\nSee [there](how_to.md#nowhere).\n")
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # of the make that may be running these tests
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(["make", "docs"], cwd=checkout, capture_output=True, text=True, env=environment)

    assert done.returncode != 0
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert ["#nowhere" in line for line in warnings] == [True], done.stdout + done.stderr
    site = checkout / "build" / "site"
    assert "Reads a model file" in (site / "docs" / "api" / "index.html").read_text(encoding="utf-8")
    for path in (*site.rglob("*.html"), *site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"""(?:src=|<link[^>]*href=|url\(|@import )["']?(?:https?:)?//[^"')]+""", text), path
