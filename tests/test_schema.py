"""The checked reader: what it takes, and what it says of the rest."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.config import Experiment, SamplingConfig, read_settings, read_yaml, to_dict
from pipeline.errors import UserError
from pipeline.schema import check_labels, check_types, read_checked, read_json, to_json


@dataclass(frozen=True)
class Inner:
    number: float
    word: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.number > 10:
            raise UserError(f"inner.number must be at most 10, got {self.number}")


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    table: dict[str, Inner] = field(default_factory=dict)
    either: int | str | None = None
    flag: bool = False
    anything: Any = None
    next: Outer | None = None


def test_a_value_becomes_the_dataclass_it_describes() -> None:
    said = {
        "count": 3,
        "inner": {"number": 2, "word": "b"},
        "names": ["x", "y"],
        "pair": [1, 2],
        "table": {"k": {"number": 0.5}},
        "either": "text",
        "flag": True,
        "anything": [{}],
        "next": {"count": 1, "inner": {"number": 1}},
    }
    found = read_checked(Outer, said, "here")
    nested = Outer(1, Inner(1.0))
    assert found == Outer(3, Inner(2.0, "b"), ("x", "y"), (1, 2.0), {"k": Inner(0.5)}, "text", True, [{}], nested)
    assert type(found.inner.number) is float
    assert read_checked(dict[str, float], {"a": 1}, "") == {"a": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "here: count: must be a whole number of at most 19 digits; got True"),
        ({"count": 2.0}, "here: count: must be a whole number"),
        ({"count": 2**63}, "here: count: must be a whole number of at most 19 digits"),
        ({"count": None}, "here: count: must be a whole number of at most 19 digits; got None"),
        ({"inner": {"number": math.nan}}, "here: inner.number: must be a finite number; got nan"),
        ({"inner": {"number": 10**400}}, "here: inner.number: must be a finite number"),
        ({"inner": {"number": "1"}}, "here: inner.number: must be a finite number; got '1'"),
        ({"inner": {"number": 11}}, "here: inner.number must be at most 10, got 11.0"),
        ({"inner": {"number": 1, "word": "c"}}, "here: inner.word: must be one of a, b; got 'c'"),
        ({"inner": "/etc/hostname"}, "here: inner: must be a mapping of number, word; got '/etc/hostname'"),
        ({"inner": {"class_path": "os.system"}}, "here: inner: unknown key 'class_path'. Known: number, word"),
        ({"inner": {"numbr": 1}}, "here: inner: unknown key 'numbr'. Did you mean 'number'"),
        ({"inner": {}}, "here: inner.number: missing"),
        ({"names": "xy"}, "here: names: must be a list; got 'xy'"),
        ({"names": ["x", 3]}, "here: names[1]: must be a text; got 3"),
        ({"pair": [1]}, "here: pair: must be a list of 2; got [1]"),
        ({"table": {"k": {"number": None}}}, "here: table.k.number: must be a finite number; got None"),
        ({"table": [1]}, "here: table: must be a mapping with texts for keys"),
        ({"flag": 1}, "here: flag: must be true or false; got 1"),
        ({"either": 2.5}, "here: either: must be"),
        ({"other": 1}, "here: unknown key 'other'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change: dict[str, Any], message: str) -> None:
    said = {"count": 3, "inner": {"number": 2}} | change
    with pytest.raises(UserError) as caught:
        read_checked(Outer, said, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_without_end_is_one_line() -> None:
    deep: dict[str, Any] = {"count": 1, "inner": {"number": 1}}
    for _ in range(5000):
        deep = {"count": 1, "inner": {"number": 1}, "next": deep}
    with pytest.raises(UserError, match="here: nested deeper"):
        read_checked(Outer, deep, "here")
    with pytest.raises(UserError) as caught:
        read_checked(Outer, {"count": "x" * 1_000_000, "inner": {}}, "here")
    assert len(str(caught.value)) < 300


def test_types_alone_are_checked_where_settings_are_to_change() -> None:
    settings = {"transform": {"input_size_px": 500}}  # more than fit_size_px has by default
    check_types(Experiment, settings, "x.yaml")
    with pytest.raises(UserError, match=r"x\.yaml: transform.fit_size_px: must be a whole number"):
        check_types(Experiment, {"transform": {"fit_size_px": "500"}}, "x.yaml")


def test_every_setting_has_a_rule() -> None:
    assert read_checked(Experiment, to_dict(Experiment()), "") == Experiment()


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "[NaN]",
        "[-Infinity]",
        "[1e999]",
        "9" * 5000,
        "[" * 100_000,
        '{"a":' * 5000,
        "{",
        "",
        "\ufeff{}",
        b"\xff\xfe\x00",
    ],
)
def test_json_that_would_mislead_is_refused(text: str | bytes) -> None:
    with pytest.raises(UserError, match=r"x\.json:4: not JSON") as caught:
        read_json(text, "x.json:4")
    assert "\n" not in str(caught.value)


def test_json_that_is_written_has_no_nan() -> None:
    value = {"a": [1.5, math.nan, (math.inf, {"b": -math.inf})], "c": "ü"}
    assert json.loads(to_json(value), parse_constant=pytest.fail) == {"a": [1.5, None, [None, {"b": None}]], "c": "ü"}
    assert to_json({"b": 1, "a": "ü"}, ensure_ascii=False, sort_keys=True) == '{"a": "ü", "b": 1}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "x.yaml:2: not YAML: aliases"),
        ("a: 1\nb: {c: 1, c: 2}", "x.yaml:2: not YAML: a key stands twice"),
        ("[" * 5000, "nested too deep"),
        ("x" * 200_000, "longer than the 100,000 characters"),
        ("a: " + "9" * 5000, "x.yaml: not YAML"),
        ("a: \x00", "x.yaml: not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml:1: not YAML"),
        ("? [1, 2]\n: 3", "x.yaml:1: not YAML"),
        ("a: 1\n---\nb: 2", "x.yaml:2: not YAML"),
        ("a: [1,\n", "x.yaml:2: not YAML"),
    ],
)
def test_yaml_that_would_mislead_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_yaml(text, "x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_reads_numbers_as_people_write_them() -> None:
    text = "a: 1e-3\nb: 2024-01-01\nc: 1.5\nd: null\ne: true\nf: -2E+1\ng: 12"
    assert read_yaml(text, "") == {"a": 1e-3, "b": "2024-01-01", "c": 1.5, "d": None, "e": True, "f": -20.0, "g": 12}
    assert read_yaml("", "") == {}


def test_a_settings_file_is_no_more_than_settings(tmp_path: Path) -> None:
    path, other = tmp_path / "x.yaml", tmp_path / "other.yaml"
    other.write_text("sample_fps: 3\n")
    for value in (str(other), "{class_path: os.system}", "[sample_fps]", "null", "3"):
        path.write_text(f"sampling: {value}\n")
        with pytest.raises(UserError, match=r"x\.yaml: sampling: (must be a mapping|unknown key)"):
            read_settings(Experiment, path)
    path.write_text("sampling: {sample_fps: 3}\n")
    assert read_settings(Experiment, path) == {"sampling": {"sample_fps": 3}}
    for missing in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(UserError, match="cannot be read"):
            read_settings(Experiment, missing)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "0 class names"),
        (["a"] * 10_001, "10001 class names"),
        (["a", ""], "class name ''"),
        (["a" * 201], "201 characters"),
        (["a", "b\x1b[2J"], "control characters"),
        (["a\u202eb"], "control characters"),
        (["a\ud800"], "control characters"),
        (["a\nb"], "control characters"),
        (["a", "b", "a"], "'a' stands there twice"),
        (["e\u0301", "\u00e9"], "stands there twice"),
        (["a", "a "], "'a' stands there twice"),
        (["a", " "], "class name ' '"),
        (["a", "a\u200b"], "control characters"),
        (["a\u200f"], "control characters"),
    ],
)
def test_class_names_are_texts_that_can_be_shown(labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match="labels: ") as caught:
        check_labels(labels, "labels")
    assert message in str(caught.value)


def test_class_names_of_every_script_are_taken() -> None:
    check_labels(["wave", "schließt", "手を振る", "می‌رود", "👨‍👩‍👧", "a b"], "labels")


@pytest.mark.parametrize("value", [1001.0, 0.0001, 0.0, -1.0])
def test_a_grid_has_limits(value: float) -> None:
    with pytest.raises(UserError, match=r"sampling\.sample_fps must be between 0\.001 and 1,000"):
        SamplingConfig(sample_fps=value)
