"""The one reader of what comes from outside: text becomes plain values, plain values become dataclasses, or one line
says what is wrong and where. Nothing is opened, imported, evaluated or built on the way, and a text is never a path.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache, partial
from itertools import repeat
from reprlib import repr as short_repr
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pipeline.errors import UserError, unknown_name

MAX_LABELS, MAX_LABEL_CHARACTERS = 10_000, 200
_MAX_DIGITS = 19
_MAX_WHOLE, _MAX_NUMBER = 2**63, 1e300
# What moves a terminal's cursor, breaks a line, turns the reading direction or is not seen; and halves of characters.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")

T = TypeVar("T")


class _WrongError(Exception):
    """A value that breaks a rule; ``keys`` lead to it from the outside."""

    def __init__(self, rule: str, *keys: str | int) -> None:
        super().__init__(rule)
        self.rule, self.keys = rule, list(keys)

    def below(self, key: str | int) -> _WrongError:
        """The same, seen from one level further out."""
        self.keys.insert(0, key)
        return self


def read_checked(kind: type[T], value: object, where: str) -> T:
    """Return the ``kind`` that a plain value describes: a dataclass from a mapping, with everything below it.

    Annotations are the schema: int, float, bool, str, None, Literal, Any, ``X | Y``, ``tuple[X, ...]``,
    ``tuple[X, Y]``, ``dict[str, X]`` and dataclasses of these. A bool is no number, a whole number may stand for a
    float, a float is finite, a key is known. A field without a default must be there. Ranges are the dataclasses' own.

    Args:
        kind: a dataclass, or one of the annotations above.
        value: as JSON or YAML gave it.
        where: what an error begins with: the file, the file and line.

    Raises:
        UserError: the value is not of that kind; names ``where``, the key, the value and the rule.
    """
    return cast("T", _read(kind, value, where, build=True))


def check_types(kind: type[Any], value: object, where: str) -> None:
    """Check a plain value as ``read_checked`` does, but for the rules that a dataclass has between its fields: they are
    not for settings that the command line still changes.

    Raises:
        UserError: as ``read_checked``.
    """
    _read(kind, value, where, build=False)


def _read(kind: Any, value: object, where: str, build: bool) -> Any:
    try:
        return _check_of(kind)(value, build)
    except _WrongError as wrong:
        key = _dotted(wrong.keys)
        says_it_itself = wrong.rule.startswith(f"{key}.")  # as settings do
        parts = (where, "" if says_it_itself else key, wrong.rule)
        raise UserError(": ".join(part for part in parts if part)) from None
    except RecursionError:
        raise UserError(f"{where}: nested deeper than anything that clipgru writes") from None


def _dotted(keys: Sequence[str | int]) -> str:
    """``["splits", "train", 3]`` -> ``splits.train[3]``"""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


Check = Callable[[object, bool], Any]
"""Value, whether to build dataclasses -> what is made of it. Raises ``_WrongError``."""


@lru_cache(maxsize=1024)
def _check_of(kind: Any) -> Check:
    if kind in _SCALARS:
        return _SCALARS[kind]
    if is_dataclass(kind):
        return partial(_read_fields, kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin in _COMPOUND:
        return partial(_COMPOUND[origin], args)
    raise TypeError(f"no rule for values of {kind}")  # a fault of the dataclass, not of the value


def _read_fields(kind: Any, value: object, build: bool) -> Any:
    known = _fields_of(kind)
    if not isinstance(value, Mapping):
        raise _WrongError(f"must be a mapping of {', '.join(known)}; got {short_repr(value)}")
    for name in value:
        if name not in known:
            raise _WrongError(str(unknown_name("key", str(name), known)))
    missing = [name for name, (_, is_required) in known.items() if is_required and name not in value]
    if missing and build:
        raise _WrongError("missing", missing[0])
    values = _read_each({name: known[name][0] for name in value}, value, build)
    if not build:
        return values
    try:
        return kind(**values)
    except UserError as broken:
        raise _WrongError(str(broken)) from None


@lru_cache(maxsize=256)
def _fields_of(kind: Any) -> dict[str, tuple[Check, bool]]:
    """Name -> (its check, whether it must be given)."""
    hints = get_type_hints(kind)
    return {
        item.name: (_check_of(hints[item.name]), item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    }


def _read_each(checks: Mapping[str, Check], values: Mapping[str, Any], build: bool) -> dict[str, Any]:
    name, read = "", {}
    try:
        for name, check in checks.items():
            read[name] = check(values[name], build)
    except _WrongError as wrong:
        raise wrong.below(name[:MAX_LABEL_CHARACTERS]) from None
    return read


def _scalar(rule: str, is_right: Callable[[Any], bool], make: Callable[[Any], Any] = lambda value: value) -> Check:
    """Return the check of values that are ``is_right``; ``make`` gives what is read."""

    def check(value: object, build: bool) -> Any:
        if not is_right(value):
            raise _WrongError(f"must be {rule}; got {short_repr(value)}")
        return make(value)

    return check


_SCALARS: dict[Any, Check] = {
    int: _scalar(
        f"a whole number of at most {_MAX_DIGITS} digits",
        lambda value: type(value) is int and -_MAX_WHOLE < value < _MAX_WHOLE,
    ),
    float: _scalar(
        "a finite number", lambda value: type(value) in (int, float) and -_MAX_NUMBER < value < _MAX_NUMBER, float
    ),
    bool: _scalar("true or false", lambda value: isinstance(value, bool)),
    str: _scalar("a text", lambda value: isinstance(value, str)),
    NoneType: _scalar("null", lambda value: value is None),
    Any: lambda value, build: value,
}


def _one_of(choices: tuple[Any, ...], value: object, build: bool) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    raise _WrongError(f"must be one of {', '.join(map(str, choices))}; got {short_repr(value)}")


def _either(kinds: tuple[Any, ...], value: object, build: bool) -> Any:
    """Read a value as the first kind that fits. If none does, raise the error of the kind most likely meant."""
    own: Any = type(value)
    if own in kinds:
        return _check_of(own)(value, build)
    wrong = []
    for kind in kinds:
        if kind is not NoneType:
            try:
                return _check_of(kind)(value, build)
            except _WrongError as error:
                wrong.append(error)
    raise max(wrong, key=lambda error: len(error.keys))


def _sequence(kinds: tuple[Any, ...], value: object, build: bool) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _WrongError(f"must be a list; got {short_repr(value)}")
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise _WrongError(f"must be a list of {len(kinds)}; got {short_repr(value)}")
    checks = repeat(_check_of(kinds[0])) if kinds[-1] is Ellipsis else map(_check_of, kinds)
    read: list[Any] = []
    try:
        for check, item in zip(checks, value, strict=False):
            read.append(check(item, build))
    except _WrongError as wrong:
        raise wrong.below(len(read)) from None
    return tuple(read)


def _mapping(kinds: tuple[Any, ...], value: object, build: bool) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _WrongError(f"must be a mapping with texts for keys; got {short_repr(value)}")
    return _read_each(dict.fromkeys(value, _check_of(kinds[1])), value, build)


_COMPOUND: dict[Any, Callable[[tuple[Any, ...], object, bool], Any]] = {
    Literal: _one_of,
    Union: _either,
    UnionType: _either,
    tuple: _sequence,
    dict: _mapping,
}


def check_labels(labels: Sequence[str], where: str) -> None:
    """Check class names, which files keep, pages show and terminals print: distinct texts of 1 to 200 characters, none
    of them a control character; at most 10,000.

    Raises:
        UserError: names the first that is not.
    """
    if not 1 <= len(labels) <= MAX_LABELS:
        raise UserError(f"{where}: {len(labels)} class names; there may be 1 to {MAX_LABELS:,}")
    for label in labels:
        if not label.strip() or len(label) > MAX_LABEL_CHARACTERS or _CONTROL.search(label):
            raise UserError(
                f"{where}: the class name {short_repr(label)} ({len(label)} characters) is not of 1 to "
                f"{MAX_LABEL_CHARACTERS} characters without control characters; rename it"
            )
    alike = [unicodedata.normalize("NFC", label).strip() for label in labels]
    if len(set(alike)) < len(alike):
        raise UserError(f"{where}: the class name {_second(alike)!r} stands there twice; each class has its own")


def _second(names: Iterable[Hashable]) -> Hashable:
    """The first that was there before."""
    seen: set[Hashable] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def read_json(text: str | bytes, where: str) -> Any:
    """Return the plain values of a JSON text: no key twice, no NaN or infinity, no number of thousands of digits.

    Raises:
        UserError: the text is not such JSON; begins with ``where``.
    """
    try:
        return json.loads(
            text,
            parse_int=_parse_whole,
            parse_float=_parse_number,
            parse_constant=_parse_number,
            object_pairs_hook=_distinct,
        )
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are among these
        raise UserError(f"{where}: not JSON ({error})") from None
    except RecursionError:
        raise UserError(f"{where}: not JSON that clipgru reads: nested too deep") from None


def _parse_whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS + 1:
        raise ValueError(f"a whole number of {len(digits)} characters")
    return int(digits)


def _parse_number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]}, which is not finite")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"the key {short_repr(_second(name for name, _ in pairs))} stands twice")
    return mapping


def to_json(value: Any, **layout: Any) -> str:
    """Return the value as JSON that every reader takes: what is no finite number, which JSON cannot say, is null.

    Args:
        value: as ``json.dumps`` takes it.
        layout: ``indent``, ``ensure_ascii``, ``sort_keys`` of ``json.dumps``.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:
        return json.dumps(_without_nan(value), allow_nan=False, **layout)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
