"""Options from dataclasses: parsing, help and one-screen errors. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import docstring_parser
import jsonargparse
import yaml

from pipeline.config import DecodeConfig, Experiment
from pipeline.errors import UserError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

EXIT_SOME_FAILED, EXIT_USER_ERROR = 1, 2


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser with one-screen errors: what is wrong and where to look, not the whole usage."""

    def parse_args(self, args: Any = None, **settings: Any) -> Any:  # type: ignore[override]
        """As jsonargparse does, after a look at the config files."""
        for place, word in enumerate(args):
            if word == "--config" and place + 1 < len(args):
                _check_config_file(Path(args[place + 1]))
            elif word.startswith("--config="):
                _check_config_file(Path(word.removeprefix("--config=")))
        return super().parse_args(args, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what ``main`` prints, with a guess at what was meant."""
        known = {text.removeprefix("--") for action in self._actions for text in action.option_strings}
        known |= {name.rpartition(".")[2] for name in known}
        words = re.findall(r"--([\w.]+)|option '([\w.]+)'", message)
        close = [match for pair in words for word in pair for match in get_close_matches(word, sorted(known), n=1)]
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"{message.strip()}.{guess}\nSee {self.prog} --help")


def _check_config_file(path: Path) -> None:
    """Wrong YAML and unknown sections, with the file's name; the rest is checked with the command line's settings."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    known = [item.name for item in fields(Experiment)]
    for name in content if isinstance(content, dict) else ():
        if name not in known:
            raise unknown_name(f"section in {path}:", str(name), known)


def make_parser(command: str, description: str) -> Parser:
    """The parser of one command."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return Parser(prog=f"clipgru {command}", description=description, exit_on_error=True)


def console() -> Console:
    """Where messages go: standard error, so that standard output stays for answers."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def to_experiment(parser: Parser, arguments: Any) -> Experiment:
    """The experiment that parsed arguments describe."""
    groups = set(Experiment.__dataclass_fields__)
    instantiated = parser.instantiate(arguments)
    return Experiment(**{name: instantiated[name] for name in groups})


def read_experiment(path: Path, words: Sequence[str] = ()) -> Experiment:
    """The experiment that a YAML file describes, with what ``words`` change as on the command line.

    Raises:
        UserError: the file is missing, or a key or value in it is wrong.
    """
    parser = make_parser("train", "")
    add_experiment(parser)
    return to_experiment(parser, parser.parse_args(["--config", str(path), *words]))


def add_experiment(parser: Parser) -> None:
    """``--config`` and every setting of an experiment."""
    parser.add_argument("--config", action="config", help="A YAML file with any of these settings; configs/ has some.")
    parser.add_class_arguments(Experiment, None)


def add_options(parser: Parser, options_type: type[Any]) -> None:
    """The fields of an options dataclass. A boolean one is a bare flag (``--quiet``); one whose metadata has a value
    called ``bare`` takes that if the option is given alone (``--serve``); a tuple is the option's values, which may be
    given several times (``--name``)."""
    flags = {item.name for item in fields(options_type) if item.type == "bool"}
    bare = {item.name: item.metadata["bare"] for item in fields(options_type) if "bare" in item.metadata}
    repeated = {item.name for item in fields(options_type) if item.type == "tuple[str, ...]"}
    parser.add_class_arguments(options_type, None, skip=flags | bare.keys() | repeated)
    texts = {text.arg_name: text.description for text in docstring_parser.parse_from_object(options_type).params}
    for name in sorted(flags):
        parser.add_argument(f"--{name}", action="store_true", help=texts[name])
    for name in sorted(repeated):
        parser.add_argument(f"--{name}", action="append", type=str, default=[], help=texts[name])
    for name, value in bare.items():
        parser.add_argument(f"--{name}", nargs="?", const=value, type=str, help=f"{texts[name]} Alone: {value}.")


def read_options(options_type: type[Any], parser: Parser, arguments: Any) -> Any:
    """An options dataclass from parsed arguments."""
    instantiated = parser.instantiate(arguments)
    values = {name: instantiated[name] for name in options_type.__dataclass_fields__}
    return options_type(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def read_paths(options_type: type[Any], parser: Parser, args: Sequence[str]) -> tuple[list[str], Any, DecodeConfig]:
    """What the commands that look at files are given: the paths, their options and how to decode."""
    parser.add_argument("paths", nargs="+", type=str, metavar="path", help="Videos, folders, manifests or configs.")
    add_options(parser, options_type)
    parser.add_class_arguments(DecodeConfig, "decode")
    arguments = parser.parse_args(list(args))
    return arguments.paths, read_options(options_type, parser, arguments), parser.instantiate(arguments).decode
