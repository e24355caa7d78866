"""Writes docs/reference.md (settings and options, from their dataclasses) and docs/api.md (the public names in Python).

python tools/write_reference.py            # writes them
python tools/write_reference.py --check    # exit code 1 if they are not what would be written
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pipeline
from pipeline import options
from pipeline.config import DeliveryConfig, Experiment, InferenceConfig, StreamingConfig, TimelineConfig
from pipeline.decode import VideoReader
from pipeline.evaluation import Evaluation
from pipeline.inference import Model, RunStats
from pipeline.streaming.sources import parse_sources
from pipeline.streaming.streams import Streams
from pipeline.training.fit import TrainingResult

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HEAD = """# Reference

Every key of an experiment and every option of a command. Written by `python tools/write_reference.py` from the
dataclasses in `pipeline/config/` and `pipeline/options/`; `clipgru COMMAND --help` says the same.

An experiment is a YAML file of these groups, such as those in `configs/`; each key is also an option of `clipgru train`
and `clipgru evaluate`, as `--data.batch_size 8`. Every command that opens videos takes the keys of `decode`, as
`--decode.isolate true`.
"""
API_HEAD = """# API

The public names in Python, with signatures and the first sentence of their docstrings. `help(name)` has the rest:
shapes, dtypes, units and errors. Written by `python tools/write_reference.py`. Short programs that use them:
[examples](../examples).

Every error that a user can cause is a `UserError`. Settings are the frozen dataclasses of `pipeline.config`; the
[reference](reference.md) has their fields.
"""
RETURNED = (Model, RunStats, VideoReader, TrainingResult, Evaluation)
LIVE = (Streams, parse_sources)
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
            meaning = said[item.name].replace("|", "\\|").replace("<", "\\<")
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
    parts += ["# Settings of a model at work", "", "Groups of options of `predict` and `webcam`.", ""]
    for name, kind in RUNNING.items():
        parts += [f"## {name}", inspect.getdoc(kind) or "", "", *table(kind, f"{name}."), ""]
    parts += ["# Options of the commands", ""]
    for name, command in inspect.getmembers(options, dataclasses.is_dataclass):
        if name.endswith("Options"):
            parts += [f"## {_command(name)}", inspect.getdoc(command) or "", "", *table(command, "option"), ""]
    return "\n".join(parts)


def api_page() -> str:
    """The page of the public names."""
    parts = [API_HEAD, "## `pipeline`", ""]
    for name in pipeline.__all__:
        value = getattr(pipeline, name)
        parts += [f"**`pipeline.{name}`**: the version, a text.", ""] if isinstance(value, str) else _entry(value)
    parts += ["## What these return", ""]
    for kind in RETURNED:
        parts += _entry(kind)
    parts += ["## Live sources", ""]
    for value in LIVE:
        parts += _entry(value)
    return "\n".join(parts).rstrip("\n") + "\n"


def _entry(value: Any) -> list[str]:
    """A name, what it is, and the public members of a class."""
    signature, lines = _signature(value), []
    if dataclasses.is_dataclass(value):
        signature, lines = "", _fields(value)
    if inspect.isclass(value):
        lines += [f"- `{name}`: {sentence}" for name, sentence in _members(value)]
    return [f"**`{_home(value)}{signature}`**: {_first_sentence(value)}", "", *lines, *([""] if lines else [])]


def _home(value: Any) -> str:
    """The shortest module to import it from, and its name."""
    parts = value.__module__.split(".")
    modules = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    home = next(module for module in modules if getattr(import_module(module), value.__name__, None) is value)
    return f"{home}.{value.__name__}"


def _fields(kind: Any) -> list[str]:
    """A line for each field of a dataclass; groups of settings stand in the reference."""
    if kind is Experiment:
        return ["- its fields: [the reference](reference.md#experiment)"]
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    said = {}
    for statement, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            said[statement.target.id] = " ".join(str(below.value.value).split()) if is_text else ""  # type: ignore[union-attr]
    lines = []
    for item in dataclasses.fields(kind):
        meaning = said.get(item.name, "")
        lines.append(f"- `{item.name}: {item.type}`" + (f": {_markdown(meaning)}" if meaning else ""))
    return lines


def _members(kind: type) -> Iterator[tuple[str, str]]:
    """(name with signature, first sentence) of each public method and property that the class itself defines."""
    for name, member in vars(kind).items():
        if isinstance(member, property):
            assert member.fget is not None
            yield f"{name}{_returned(member.fget)}", _first_sentence(member)
        elif inspect.isfunction(member) and (not name.startswith("_") or name == "__iter__"):
            yield f"{name}{_signature(member)}", _first_sentence(member)


def _signature(value: Callable[..., Any]) -> str:
    """Parameters and result, with the annotations as they stand in the source."""
    if inspect.isclass(value) and issubclass(value, Exception) and "__init__" not in vars(value):
        return ""
    parts, is_keyword = [], False
    for name, parameter in inspect.signature(value).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            is_keyword = True
            parts.append("*")
        kind = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        parts.append(f"{name}{kind}{default}")
    return f"({', '.join(parts)})" + ("" if inspect.isclass(value) else _returned(value))


def _default(value: Any) -> str:
    text = repr(value)
    return "..." if text.startswith("<") or len(text) > 40 else text


def _returned(value: Callable[..., Any]) -> str:
    kind = inspect.signature(value).return_annotation
    return "" if kind in (inspect.Signature.empty, "None") else f" -> {kind}"


def _first_sentence(value: Any) -> str:
    paragraph = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return _markdown(re.split(r"(?<=[.])\s", paragraph)[0].rstrip(".") + ".")


def _markdown(text: str) -> str:
    return text.replace("``", "`")


PAGES: dict[str, Callable[[], str]] = {"reference.md": page, "api.md": api_page}


def _command(name: str) -> str:
    words = re.findall("[A-Z][a-z]+", name.removesuffix("Options"))
    return f"clipgru {'-'.join(words).lower()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    is_check, stale = parser.parse_args().check, False
    for name, text_of in PAGES.items():
        path, text = DOCS / name, text_of()
        if not is_check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{name} is out of date; run python tools/write_reference.py")
            stale = True
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
