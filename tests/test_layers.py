"""The layers of the package: a module imports only from below, from the leaf that defines a name, and in no circle.

Read from the source, nothing is imported. A new module fails here until it has its place in ``LAYERS``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pipeline"

LAYERS = {
    # Leaves; these may import one another.
    "version": 0,
    "errors": 0,
    "clip": 0,
    "confidence": 0,
    "config": 0,
    "options": 0,
    "files": 0,
    "sources": 0,
    "buckets": 0,
    "machine": 0,
    "network": 0,
    "terminal": 0,
    "schema": 0,
    "description": 0,
    # The stages, none of which knows another.
    "decode": 1,
    "calibration": 1,
    "sampling": 1,
    "transforms": 1,
    "models": 1,
    "report": 1,
    "serving": 1,
    "sinks": 1,
    "hub": 1,
    "ranks": 1,
    "known_videos": 1,
    # What joins stages.
    "embedding": 2,
    "timeline": 2,
    "checkpoint": 2,
    "datasets": 3,
    "duplicates": 3,
    "training": 4,
    "unseen": 4,
    "scoring": 4,
    "converting": 4,
    "timeline_results": 4,
    "found": 4,
    "inference": 4,
    "check": 5,
    "doctor": 5,
    "evaluation": 5,
    "timeline_evaluation": 5,
    "prediction": 5,
    "streaming": 5,
    "learning": 5,
    "protocols": 6,
    "diagnosis": 6,
    "export": 6,
    "many": 6,
    "run_report": 6,
    "labelling": 6,
    "publishing": 7,
    "explanation": 7,
    "demo": 7,
    "cli": 8,
    "__main__": 9,
}


@dataclass(frozen=True)
class Import:
    """One import of a module of the package, by a module of the package."""

    source: str
    target: str  # dotted; the package itself for a name taken from its root
    line: int
    typing_only: bool


def find_modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file of every module below a package; a folder's name stands for its ``__init__``."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def walk_with_typing(node: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, with whether it stands in the body of ``if TYPE_CHECKING:``."""
    for field, value in ast.iter_fields(node):
        guarded = typing_only or (isinstance(node, ast.If) and field == "body" and _is_type_checking(node.test))
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child, guarded
                yield from walk_with_typing(child, guarded)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imported_names(node: ast.AST, package_of_source: str) -> list[tuple[str, str | None]]:
    """(module, name taken from it or None) for each alias of an import statement, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [(alias.name, None) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents = package_of_source.split(".")
    base = parents[: len(parents) - node.level + 1] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    return [(module, alias.name) for alias in node.names]


def find_imports(package: Path, layers: dict[str, int]) -> list[Import]:
    """Every import inside the package, those in functions too. The root ``__init__`` is exempt: it may name all."""
    modules = find_modules(package)
    submodules = modules.keys() | {f"{package.name}.{name}" for name in layers}
    imports = []
    for source, path in modules.items():
        if source == package.name:
            continue
        package_of_source = source if path.name == "__init__.py" else source.rpartition(".")[0]
        for node, typing_only in walk_with_typing(ast.parse(path.read_text(encoding="utf-8"))):
            for module, name in imported_names(node, package_of_source):
                if module.split(".")[0] == package.name:
                    target = f"{module}.{name}" if f"{module}.{name}" in submodules else module
                    imports.append(Import(source, target, node.lineno, typing_only))  # type: ignore[attr-defined]
    return imports


def layer_faults(package: Path, layers: dict[str, int]) -> list[str]:
    """What breaks the layers, in words: unlisted modules, imports from the root, imports from the side or above."""
    listed = {f"{package.name}.{name}": level for name, level in layers.items()}
    unlisted = {_stage(name) for name in find_modules(package) if name != package.name} - listed.keys()
    faults = [f"{name}: not in LAYERS; give it a level" for name in sorted(unlisted)]
    for found in find_imports(package, layers):
        source, target = _stage(found.source), _stage(found.target)
        where = f"{found.source}, line {found.line}: imports {found.target}"
        if found.target == package.name:
            faults.append(f"{where}, the package root; import from the module that defines the name")
        elif target not in listed:
            faults.append(f"{where}, which is not in LAYERS")
        elif source in listed and source != target and listed[target] >= max(listed[source], 1):
            faults.append(f"{where}, level {listed[target]}, from level {listed[source]}; only lower ones are allowed")
    return list(dict.fromkeys(faults))  # one line that takes several names is one fault


def _stage(module: str) -> str:
    """``pipeline.models.temporal`` -> ``pipeline.models``"""
    return ".".join(module.split(".")[:2])


def import_cycle(package: Path, layers: dict[str, int]) -> list[str]:
    """The modules of one import cycle, the first one repeated at the end; empty if there is none."""
    graph: dict[str, set[str]] = {name: set() for name in find_modules(package)}
    for found in find_imports(package, layers):
        if not found.typing_only:
            graph[found.source].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # reversed: "a, b, a" then reads "a imports b imports a"
    return []


def test_the_package_keeps_its_layers() -> None:
    assert not layer_faults(PACKAGE, LAYERS)


def test_the_package_has_no_import_cycle() -> None:
    assert not import_cycle(PACKAGE, LAYERS)


# The checker itself, on small packages with a planted fault.

SMALL_LAYERS = {"errors": 0, "clip": 0, "decode": 1, "models": 1, "training": 2}


def write_package(folder: Path, files: dict[str, str]) -> Path:
    """Write ``files`` (path -> source) as the package ``small``."""
    package = folder / "small"
    for name, source in {"__init__.py": "from small.training import fit\n", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


def test_a_clean_package_passes(tmp_path: Path) -> None:
    files = {
        "errors.py": "import os.path\n",
        "clip.py": "from small.errors import UserError\n",
        "models/__init__.py": "",
        "models/heads.py": "from .layers import Conv\nfrom ..clip import Clip\n",
        "models/layers.py": "from small import errors\nimport small.clip as clip\n",
        "training.py": "def fit():\n    from small.models.heads import Head\n",
    }
    package = write_package(tmp_path, files)
    assert not layer_faults(package, SMALL_LAYERS)
    assert not import_cycle(package, SMALL_LAYERS)
    assert Import("small.models.heads", "small.clip", 2, False) in find_imports(package, SMALL_LAYERS)


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("decode.py", "from small.training import fit", "imports small.training, level 2, from level 1"),
        ("decode.py", "from .training import fit", "imports small.training, level 2, from level 1"),
        ("decode.py", "def late():\n    import small.training", "line 2: imports small.training, level 2"),
        ("decode.py", "from small.models.heads import Head", "imports small.models.heads, level 1, from level 1"),
        ("decode.py", "from small.training import fit, Fit", "imports small.training"),
        ("clip.py", "from small import decode", "imports small.decode, level 1, from level 0"),
        ("models/heads.py", "from ..training import fit", "small.models.heads, line 1: imports small.training"),
        ("decode.py", "if TYPE_CHECKING:\n    from small.training import Fit", "line 2: imports small.training"),
        ("training.py", "from small import open_video", "imports small, the package root"),
        ("training.py", "import small", "imports small, the package root"),
        ("training.py", "from . import open_video", "imports small, the package root"),
        ("helpers.py", "", "small.helpers: not in LAYERS"),
        ("training.py", "from small.helpers import x", "imports small.helpers, which is not in LAYERS"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, name: str, source: str, fault: str) -> None:
    faults = layer_faults(write_package(tmp_path, {name: source}), SMALL_LAYERS)
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_planted_cycle_is_found(tmp_path: Path) -> None:
    files = {
        "models/__init__.py": "",
        "models/heads.py": "from small.models.layers import Conv",
        "models/layers.py": "def late():\n    from small.models import cells",
        "models/cells.py": "from .heads import Head",
    }
    package = write_package(tmp_path, files)
    assert not layer_faults(package, SMALL_LAYERS)
    cycle = import_cycle(package, SMALL_LAYERS)
    assert cycle[0] == cycle[-1]
    assert " ".join(cycle[:-1]) in " ".join(["small.models.heads", "small.models.layers", "small.models.cells"] * 2)


def test_an_import_for_types_alone_makes_no_cycle(tmp_path: Path) -> None:
    files = {
        "models/heads.py": "from small.models.layers import Conv",
        "models/layers.py": "import typing\nif typing.TYPE_CHECKING:\n    from small.models.heads import Head",
    }
    assert not import_cycle(write_package(tmp_path, files), SMALL_LAYERS)
    files["models/layers.py"] += "\nelse:\n    from small.models.heads import Head"
    assert import_cycle(write_package(tmp_path, files), SMALL_LAYERS)
