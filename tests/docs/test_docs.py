"""The documentation's commands are commands, and its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import pipeline
from pipeline.checkpoint import save_model
from pipeline.cli import COMMANDS, main
from tests.small import small_model

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "data" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").glob("*.yaml")),
]


def commands_in(text: str) -> list[str]:
    lines = re.findall(r"^(?: {4}|# ?)(clipgru (?:.*\\\n)*.*)$", text, flags=re.MULTILINE)
    return [line.replace("\\\n", " ") for line in lines]


def test_commands_are_found() -> None:
    assert len(commands_in((ROOT / "README.md").read_text())) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is run with an option nobody has: the parser must complain of that one alone."""
    monkeypatch.chdir(ROOT)
    for command in commands_in(page.read_text(encoding="utf-8")):
        words = shlex.split(command)[1:]
        assert words[0] in COMMANDS, command
        assert main([*words, "--no_such_option"]) == 2
        errors = capsys.readouterr().err
        assert "unrecognized arguments: --no_such_option" in errors, f"{command}\n{errors}"


def test_the_reference_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    from write_reference import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(), "run python tools/write_reference.py"


def test_the_python_of_the_readme_runs(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "runs" / "mine" / "model.safetensors", small_model())
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    (tmp_path / "long_video.mp4").symlink_to(video)
    scope: dict[str, object] = {}
    exec(code, scope)
    assert "class" in capsys.readouterr().out
    assert scope["clip"].frames.shape == (3, 3, 48, 48)  # type: ignore[attr-defined]


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_room_of_the_package_stands_in_the_architecture() -> None:
    rooms = {f"{path.parent.name}/" for path in (ROOT / "pipeline").glob("*/__init__.py")}
    rooms |= {path.name for path in (ROOT / "pipeline").glob("*.py") if not path.name.startswith("__")}
    assert not {room for room in rooms if f"`{room}`" not in ARCHITECTURE}


def test_what_the_architecture_names_exists() -> None:
    names = re.findall(r"`([\w/]+(?:/|\.py))`", ARCHITECTURE)
    assert len(names) > 30
    assert not [name for name in names if not ((ROOT / "pipeline" / name).exists() or (ROOT / name).exists())]
    entries = re.findall(r"`([A-Z_]+)`(?: or `([A-Z_]+)`)? in `([\w/.]+)`", ARCHITECTURE)
    assert len(entries) >= 6
    for *tables, place in entries:
        code = (ROOT / "pipeline" / place).read_text(encoding="utf-8")
        assert not [table for table in tables if table and f"\n{table}: dict[" not in code], place


def test_every_public_name_stands_in_the_api() -> None:
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert not [name for name in pipeline.__all__ if not re.search(rf"(::: |`)pipeline\.{name}\b", api)]


LINKED = [
    path for place in ("", "data/", "docs/", "benchmarks/", "examples/") for path in sorted(ROOT.glob(f"{place}*.md"))
]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http", "mailto:")):
            name, _, heading = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not heading or heading in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_record_stands_in_the_list_of_benchmarks() -> None:
    folder = ROOT / "benchmarks"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    records = {path.name for path in folder.glob("*.md")} - {"README.md"}
    assert not [name for name in records if f"({name})" not in listed]
