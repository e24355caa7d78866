"""Options from dataclasses: parsing, help and one-screen errors. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import re
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import docstring_parser
import jsonargparse

from pipeline.cli.help import HelpFormatter, group_by_purpose
from pipeline.config import DataConfig, DecodeConfig, Experiment, read_settings, to_dict
from pipeline.config.earlier import new_option
from pipeline.errors import UserError
from pipeline.schema import check_types

if TYPE_CHECKING:
    from pipeline.terminal import PlainConsole

EXIT_SOME_FAILED, EXIT_USER_ERROR = 1, 2
MODEL_HELP = "A model file, or hf://owner/name[@revision], one of the Hugging Face hub."


class _Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser with one-screen errors: what is wrong and where to look, not the whole usage."""

    def parse_args(self, args: Any = None, **settings: Any) -> Any:  # type: ignore[override]
        """Parse as jsonargparse does, but without paths among the words: it would open one that is given for a group of
        settings, and import one that looks like a class. A config file is read here, and its content handed on.
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
            self._check_not_renamed(name)
            if word == "--":
                yield from (word, *left)
            elif name == "--config" and (value := value if equals else next(left, "")):
                config_files.append(value)
                yield f"--config={json.dumps(self._settings_in(Path(value)), ensure_ascii=False)}"
            elif inside := [option for option in options if option.startswith(f"{name}.")]:
                raise UserError(f"{name} is a group of settings: give one of them, such as {inside[0]}")
            else:
                yield word

    def _settings_in(self, config_file: Path) -> dict[str, Any]:
        """The settings of an experiment that this command takes."""
        taken = {action.dest.partition(".")[0] for action in self._actions}
        return {name: value for name, value in read_settings(Experiment, config_file).items() if name in taken}

    def _check_not_an_option(self, word: str) -> None:
        known = word.partition("=")[0] in self._option_string_actions
        if word.startswith("-") and word not in ("-", "--") and not known and os.path.exists(word):
            raise UserError(f"{word} looks like an option, and is a file here: write ./{word}")

    def _check_not_renamed(self, option: str) -> None:
        new = new_option(option)
        if new and option not in self._option_string_actions and new.split()[0] in self._option_string_actions:
            raise UserError(f"{option} is written {new} in this version")

    def format_help(self, *args: Any) -> str:
        """Return the help with its options in groups by purpose."""
        group_by_purpose(self)
        return super().format_help(*args)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what ``main`` prints, with a guess at what was meant."""
        if said := _wrong_value(message):
            raise UserError(f"{said}\nSee {self.prog} --help")
        whole = {text.removeprefix("--"): text for action in self._actions for text in action.option_strings}
        known = {name.rpartition(".")[2]: text for name, text in whole.items()} | whole
        words = [word for pair in re.findall(r"--([\w.]+)|option '([\w.]+)'", message) for word in pair if word]
        words += [word.rpartition(".")[2] for word in words]
        close = [match for word in words for match in get_close_matches(word, sorted(known), n=1)]
        guess = f" Did you mean {known[close[0]]}?" if close else ""
        raise UserError(f"{message.strip()}.{guess}\nSee {self.prog} --help")


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "tuple": "a list, such as [a, b]",
    "NoneType": "null",
}


def _wrong_value(message: str) -> str | None:
    """Return jsonargparse's complaint about a value in a user's words; None if it is about something else."""
    found = re.match(r'\s*Parser key "(?P<key>[\w.]+)":.*(?:Got|Given) value: (?P<value>.*)', message, re.DOTALL)
    kinds = [_KINDS[name] for name in re.findall(r"Expected an? <class '(\w+)'>", message) if name in _KINDS]
    choices = re.findall(r"'([^']*)'", "".join(re.findall(r"Literal\[(.*?)\]", message)))
    if not found or not (kinds or choices):
        return None
    value = found["value"].strip().removesuffix(".")
    allowed = " or ".join([*([f"one of {', '.join(choices)}"] if choices else []), *dict.fromkeys(kinds)])
    close = get_close_matches(value, choices, n=1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return f"--{found['key']} {value}: must be {allowed}.{guess}"


def _at_home(word: str) -> str:
    """``~/a.mp4`` and ``--json=~/a.json`` as the shell would have them, which leaves quoted words alone."""
    option, path = re.match(r"(--[\w.]+=|)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    return option + os.path.expanduser(path) if path.startswith("~") and not os.path.exists(path) else word


def make_parser(command: str, description: str) -> _Parser:
    """The parser of one command."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return _Parser(
        prog=f"clipgru {command}",
        description=description,
        formatter_class=HelpFormatter,
        exit_on_error=True,
        allow_abbrev=False,
    )


def console() -> PlainConsole:
    """Console for messages, on standard error, so that standard output stays for answers."""
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
    _add_config(parser)
    parser.add_class_arguments(Experiment, None)


def add_data(parser: _Parser) -> None:
    """``--config``, and settings of data and decoding in place of a model file's."""
    _add_config(parser)
    add_given(parser, "data", DataConfig)
    add_given(parser, "decode", DecodeConfig)


def _add_config(parser: _Parser) -> None:
    parser.add_argument("--config", action="config", help="A YAML file with any of these settings; configs/ has some.")


def config_files(arguments: Any) -> list[str]:
    """The files that were given as ``--config``."""
    return [str(path) for path in arguments.config or ()]


def add_no_clobber(parser: _Parser) -> None:
    """``--no_clobber``, for commands whose options do not have it."""
    help_text = "End with an error instead of replacing a file that is there already."
    parser.add_argument("--no_clobber", action="store_true", help=help_text)


def add_options(parser: _Parser, options_type: type[Any]) -> None:
    """The fields of an options dataclass. A boolean one is a bare flag (``--quiet``); one whose metadata has a value
    called ``bare`` takes that if the option is given alone (``--serve``); one whose metadata names settings as
    ``given_of`` has those that are given; a tuple is the option's values, which may be given several times
    (``--name``)."""
    flags = {item.name for item in fields(options_type) if item.type == "bool"}
    bare = {item.name: item.metadata["bare"] for item in fields(options_type) if "bare" in item.metadata}
    given = {item.name: item.metadata["given_of"] for item in fields(options_type) if "given_of" in item.metadata}
    repeated = {item.name for item in fields(options_type) if item.type == "tuple[str, ...]"}
    parser.add_class_arguments(options_type, None, skip=flags | bare.keys() | given.keys() | repeated)
    texts = {text.arg_name: text.description for text in docstring_parser.parse_from_object(options_type).params}
    for name in sorted(flags):
        parser.add_argument(f"--{name}", action="store_true", help=texts[name])
    for name in sorted(repeated):
        parser.add_argument(f"--{name}", action="append", type=str, default=[], help=texts[name])
    for name, value in bare.items():
        parser.add_argument(f"--{name}", nargs="?", const=value, type=str, help=f"{texts[name]} Alone: {value}.")
    for name, settings in given.items():
        add_given(parser, name, settings)


def add_given(parser: _Parser, name: str, settings: type[Any]) -> None:
    """``--NAME.*`` in place of the settings of a model file or run; ``given_settings`` returns those that are given."""
    parser.add_class_arguments(settings, name)
    group = parser._action_groups[-1]
    group.title = f"{group.title}, in place of the settings of the model"
    for action in group._group_actions:
        action.default = SUPPRESS


def given_settings(arguments: Any, name: str) -> dict[str, Any]:
    """Return the settings of a group that are given, of arguments that were parsed without defaults."""
    given = arguments.get(name)
    return given.as_dict() if given else {}


def read_options(options_type: type[Any], parser: _Parser, arguments: Any) -> Any:
    """An options dataclass from parsed arguments."""
    instantiated, values = parser.instantiate(arguments), dict[str, Any]()
    for item in fields(options_type):
        if "given_of" in item.metadata:
            values[item.name] = given_settings(arguments, item.name)
        else:
            value = instantiated[item.name]
            values[item.name] = tuple(value) if isinstance(value, list) else value
    options = options_type(**values)
    check_types(options_type, to_dict(options), "")
    return options


def read_paths(
    options_type: type[Any], parser: _Parser, args: Sequence[str]
) -> tuple[list[str], Any, DecodeConfig, bool]:
    """Arguments of the commands that look at files: the paths, the options, the decoding settings, and true if existing
    files are to stay."""
    parser.add_argument("paths", nargs="+", type=str, metavar="PATH", help="Videos, folders, manifests or configs.")
    add_options(parser, options_type)
    add_no_clobber(parser)
    parser.add_class_arguments(DecodeConfig, "decode")
    arguments = parser.parse_args(list(args))
    options, config = read_options(options_type, parser, arguments), parser.instantiate(arguments).decode
    return arguments.paths, options, config, arguments.no_clobber
