"""Settings as plain data and as YAML."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.earlier import with_new_names
from pipeline.errors import UserError
from pipeline.schema import check_types

# Said where it is something else alone: the files of models of pictures, and the names of their cached features, stay
# what they were before there were video networks, and earlier versions read them.
_UNSAID = ("input_frames", 1)
_MAX_YAML_CHARACTERS = 100_000
"""Twenty times what clipgru's own configs have."""


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain dicts and lists, ready for YAML or JSON."""
    return {key: _tuples_to_lists(value) for key, value in asdict(config, dict_factory=_said).items()}


def _said(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pair for pair in pairs if pair != _UNSAID)


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return [_tuples_to_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML that reads back to an equal one."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def read_settings(kind: type[Any], path: Path) -> dict[str, Any]:
    """Return the settings that a YAML file gives of those a dataclass has, by name, with keys and types checked.

    Raises:
        UserError: the file cannot be read, is no YAML, or has a key or a value that is none of the dataclass's.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(_MAX_YAML_CHARACTERS + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    settings = read_yaml(text, str(path))
    if isinstance(settings, Mapping):
        settings = with_new_names(settings, str(path))
    check_types(kind, settings, str(path))
    found: dict[str, Any] = settings
    return found


def read_yaml(text: str, where: str) -> Any:
    """Return the plain values of a YAML text; an empty one is an empty mapping.

    Of YAML that is what JSON has too: no key twice, no anchors, which can multiply a small text to any size.

    Raises:
        UserError: the text is not such YAML; begins with ``where``.
    """
    if len(text) > _MAX_YAML_CHARACTERS:
        raise UserError(f"{where}: longer than the {_MAX_YAML_CHARACTERS:,} characters that settings may have")
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{where}:{line}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:  # a character or a number that cannot be
        raise UserError(f"{where}: not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise UserError(f"{where}: not YAML that clipgru reads: nested too deep") from None
    return {} if value is None else value


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"data": {"root": 1}}`` -> ``("data.root", 1)``."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def shown(value: object) -> str:
    """A setting as a command line has it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, stricter; 1e-3 is a number as in YAML 1.2, and a date is a text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice in a mapping", node.start_mark)
        return mapping


_RESOLVERS = {
    letter: [(tag, pattern) for tag, pattern in known if not tag.endswith((":timestamp", ":merge"))]
    for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_implicit_resolvers = _RESOLVERS
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
