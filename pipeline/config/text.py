"""Settings as plain data and as YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import yaml

from pipeline.errors import UserError


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain dicts and lists, ready for YAML or JSON."""
    return {key: _tuples_to_lists(value) for key, value in asdict(config).items()}


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return [_tuples_to_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML that reads back to an equal one."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def from_dict(config_type: type[Any], values: dict[str, Any]) -> Any:
    """The dataclass whose ``to_dict`` this is, with types checked.

    Raises:
        UserError: a key or a value is none of the dataclass's.
    """
    import jsonargparse  # here, so that who only reads settings need not load it

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config_type, "config")
    try:
        return parser.instantiate(parser.parse_object({"config": values}))["config"]
    except jsonargparse.ArgumentError as error:
        raise UserError(f"a setting of the model file is not understood: {error}") from error


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
