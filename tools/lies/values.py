"""JSON with one place changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

Place = tuple[Any, Any]
"""A mapping or list, and a key or index in it."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 4500, 65_536, 1_000_000, 2**31, 2**63, 10**30),
    *(-0.5, 1e-9, 0.1, 1e9, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "fast", "x" * 1000, "\x1b[2J", "\u202ex", "\ud800", "/etc/passwd", "../x", "http://127.0.0.1:9/x"),
    *("hf-hub:a/b", "local-dir:/", "resnet18", "tiny", "pixels", "convgru", "gru", "mean", "frames", "rows", "loop"),
    *([], {}, [[]], [1, 2, 3], ["a", "a"], [None], [["a"]], {"class_path": "os.system"}, {"__path__": "/etc/passwd"}),
    *(["gru"] * 20, ["mean"] * 3, ["a"] * 3, [0.0] * 3, [1e-30] * 3, {"a": {"a": {"a": {}}}}),
)


def places_of(value: Any) -> Iterator[Place]:
    """Every key and index, from the outside inwards."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places_of(value[key])


def other_value(said: Any, rng: Random) -> Any:
    """One place with a value that does not belong there."""
    said = deepcopy(said)
    parent, key = rng.choice(list(places_of(said)))
    number = isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool)
    parent[key] = (
        parent[key] * rng.choice([-1, 0, 0.5, 2, 10, 1000]) if number and rng.random() < 0.5 else rng.choice(VALUES)
    )
    return said


def removal(said: Any, rng: Random) -> Any:
    """One place gone."""
    said = deepcopy(said)
    parent, key = rng.choice(list(places_of(said)))
    del parent[key]
    return said


def addition(said: Any, rng: Random) -> Any:
    """A key or element more: an unknown one, one of another place, or one that is there already."""
    said = deepcopy(said)
    places = list(places_of(said))
    parent, _ = rng.choice(places)
    other, key = rng.choice(places)
    if isinstance(parent, dict):
        parent[rng.choice(["class_path", "stride", "", "format", str(key)])] = deepcopy(other[key])
    else:
        parent.append(deepcopy(rng.choice([parent[-1], other[key]])))
    return said


def text_of(said: Any) -> str:
    """As a file has it; NaN and halves of characters are written as they are."""
    return json.dumps(said, ensure_ascii=False, sort_keys=True)
