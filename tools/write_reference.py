"""Writes docs/reference.md, settings and options from their dataclasses: python tools/write_reference.py"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from pipeline import options
from pipeline.config import DeliveryConfig, Experiment, InferenceConfig, StreamingConfig, TimelineConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEAD = """# Reference

Every key of an experiment and every option of a command. Written by `python tools/write_reference.py` from the
dataclasses in `pipeline/config/` and `pipeline/options/`; `clipgru COMMAND --help` says the same.

An experiment is a YAML file of these groups, such as those in `configs/`; each key is also an option of `clipgru train`
and `clipgru evaluate`, as `--data.batch_size 8`. Every command that opens videos takes the keys of `decode`, as
`--decode.isolate true`.
"""
RUNNING: dict[str, Any] = {
    "inference": InferenceConfig,
    "timeline": TimelineConfig,
    "streaming": StreamingConfig,
    "delivery": DeliveryConfig,
}


def meanings(kind: type) -> dict[str, str]:
    """Field -> the text below it in the source, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for statement, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(below, ast.Expr), f"{kind.__name__}.{statement.target.id} has no meaning"
            assert isinstance(below.value, ast.Constant)
            found[statement.target.id] = " ".join(str(below.value.value).split())
    return found


def table(kind: Any, prefix: str) -> list[str]:
    """A row for each field that is a value; groups of fields have tables of their own."""
    lines = [f"| {prefix} | default | meaning |", "|---|---|---|"]
    said, defaults = meanings(kind), kind()
    for item in dataclasses.fields(kind):
        if not dataclasses.is_dataclass(item.default_factory):
            meaning = said[item.name].replace("|", "\\|").replace("<", "&lt;")
            if "given_of" in item.metadata:
                lines.append(f"| `{item.name}.*` | as the model file | {meaning} |")
            else:
                lines.append(f"| `{item.name}` | {_written(getattr(defaults, item.name))} | {meaning} |")
    return lines


def _written(value: Any) -> str:
    if value is None:
        return "unset"
    return f"`{str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value}`"


def page() -> str:
    """The whole text."""
    parts = [HEAD, "## Experiment", *table(Experiment, "key"), ""]
    groups: dict[str, Any] = {
        name: type(value) for name, value in vars(Experiment()).items() if dataclasses.is_dataclass(value)
    }
    for name, kind in groups.items():
        parts += [f"## {name}", inspect.getdoc(kind) or "", "", *table(kind, f"{name}."), ""]
    parts += ["## Settings of a model at work", "", "Groups of options of `predict` and `webcam`.", ""]
    for name, kind in RUNNING.items():
        parts += [f"### {name}", inspect.getdoc(kind) or "", "", *table(kind, f"{name}."), ""]
    parts += ["## Options of the commands", ""]
    for name, command in inspect.getmembers(options, dataclasses.is_dataclass):
        if name.endswith("Options"):
            parts += [f"### {_command(name)}", inspect.getdoc(command) or "", "", *table(command, "option"), ""]
    return "\n".join(parts)


def _command(name: str) -> str:
    words = re.findall("[A-Z][a-z]+", name.removesuffix("Options"))
    return f"clipgru {'-'.join(words).lower()}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
