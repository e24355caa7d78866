"""Options from dataclasses: parsing, help and one-screen errors. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import docstring_parser
import jsonargparse

from pipeline.config import DecodeConfig, Experiment, read_settings, to_dict
from pipeline.errors import UserError
from pipeline.schema import check_types

if TYPE_CHECKING:
    from pipeline.terminal import PlainConsole

EXIT_SOME_FAILED, EXIT_USER_ERROR = 1, 2


class _Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser with one-screen errors: what is wrong and where to look, not the whole usage."""

    def parse_args(self, args: Any = None, **settings: Any) -> Any:  # type: ignore[override]
        """As jsonargparse does, of words in which no text is a path: it would open one that is given for a group of
        settings, and import one that looks like a class. A config file is read here, and handed on as what it says.
        """
        args = [_at_home(word) for word in args]
        config_files: list[str] = []
        parsed = super().parse_args(list(self._without_paths(args, config_files)), **settings)
        if config_files:
            parsed.config = config_files
        return parsed

    def _without_paths(self, args: Sequence[str], config_files: list[str]) -> Iterator[str]:
        options = [text for action in self._actions for text in action.option_strings]
        left = iter(args)
        for word in left:
            self._check_not_an_option(word)
            name, equals, value = word.partition("=")
            if word == "--":
                yield from (word, *left)
            elif name == "--config" and (value := value if equals else next(left, "")):
                config_files.append(value)
                yield f"--config={json.dumps(read_settings(Experiment, Path(value)), ensure_ascii=False)}"
            elif inside := [option for option in options if option.startswith(f"{name}.")]:
                raise UserError(f"{name} is a group of settings: give one of them, such as {inside[0]}")
            else:
                yield word

    def _check_not_an_option(self, word: str) -> None:
        known = word.partition("=")[0] in self._option_string_actions
        if word.startswith("-") and word not in ("-", "--") and not known and os.path.exists(word):
            raise UserError(f"{word} looks like an option, and is a file here: write ./{word}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what ``main`` prints, with a guess at what was meant."""
        whole = {text.removeprefix("--"): text for action in self._actions for text in action.option_strings}
        known = {name.rpartition(".")[2]: text for name, text in whole.items()} | whole
        words = [word for pair in re.findall(r"--([\w.]+)|option '([\w.]+)'", message) for word in pair if word]
        words += [word.rpartition(".")[2] for word in words]
        close = [match for word in words for match in get_close_matches(word, sorted(known), n=1)]
        guess = f" Did you mean {known[close[0]]}?" if close else ""
        raise UserError(f"{message.strip()}.{guess}\nSee {self.prog} --help")


def _at_home(word: str) -> str:
    """``~/a.mp4`` and ``--json=~/a.json`` as the shell would have them, which leaves quoted words alone."""
    option, path = re.match(r"(--[\w.]+=|)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    return option + os.path.expanduser(path) if path.startswith("~") and not os.path.exists(path) else word


def make_parser(command: str, description: str) -> _Parser:
    """The parser of one command."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return _Parser(prog=f"clipgru {command}", description=description, exit_on_error=True, allow_abbrev=False)


def console() -> PlainConsole:
    """Where messages go: standard error, so that standard output stays for answers."""
    from pipeline.terminal import PlainConsole

    return PlainConsole()


def to_experiment(parser: _Parser, arguments: Any) -> Experiment:
    """The experiment that parsed arguments describe."""
    groups = set(Experiment.__dataclass_fields__)
    instantiated = parser.instantiate(arguments)
    experiment = Experiment(**{name: instantiated[name] for name in groups})
    check_types(Experiment, to_dict(experiment), "")  # jsonargparse takes nan for a number
    return experiment


def read_experiment(path: Path, words: Sequence[str] = ()) -> Experiment:
    """The experiment that a YAML file describes, with what ``words`` change as on the command line.

    Raises:
        UserError: the file is missing, or a key or value in it is wrong.
    """
    parser = _experiment_parser()
    return to_experiment(parser, parser.parse_args(["--config", str(path), *words]))


@cache
def _experiment_parser() -> _Parser:
    """Made once: it takes as long as reading a file with it."""
    parser = make_parser("train", "")
    add_experiment(parser)
    return parser


def add_experiment(parser: _Parser) -> None:
    """``--config`` and every setting of an experiment."""
    parser.add_argument("--config", action="config", help="A YAML file with any of these settings; configs/ has some.")
    parser.add_class_arguments(Experiment, None)


def config_files(arguments: Any) -> list[str]:
    """The files that were given as ``--config``."""
    return [str(path) for path in arguments.config or ()]


def add_no_clobber(parser: _Parser) -> None:
    """``--no_clobber``, for commands whose options do not have it."""
    help_text = "End with an error instead of replacing a file that is there already."
    parser.add_argument("--no_clobber", action="store_true", help=help_text)


def add_options(parser: _Parser, options_type: type[Any]) -> None:
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


def read_options(options_type: type[Any], parser: _Parser, arguments: Any) -> Any:
    """An options dataclass from parsed arguments."""
    instantiated = parser.instantiate(arguments)
    values = {name: instantiated[name] for name in options_type.__dataclass_fields__}
    options = options_type(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
    check_types(options_type, to_dict(options), "")
    return options


def read_paths(
    options_type: type[Any], parser: _Parser, args: Sequence[str]
) -> tuple[list[str], Any, DecodeConfig, bool]:
    """What the commands that look at files are given: the paths, their options, how to decode, and whether files that
    are there are to stay."""
    parser.add_argument("paths", nargs="+", type=str, metavar="path", help="Videos, folders, manifests or configs.")
    add_options(parser, options_type)
    add_no_clobber(parser)
    parser.add_class_arguments(DecodeConfig, "decode")
    arguments = parser.parse_args(list(args))
    options, config = read_options(options_type, parser, arguments), parser.instantiate(arguments).decode
    return arguments.paths, options, config, arguments.no_clobber
