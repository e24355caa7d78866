"""BORIS' observations of several files, on one clock: nothing that was noted is lost between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets.timelines.boris import read_boris
from pipeline.errors import UserError

Found = dict[str, list[tuple[float, float, str]]]


def found_in(path: Path) -> Found:
    return {v.name: [(s.start_seconds, s.end_seconds, s.label) for s in v.spans] for v in read_boris(path)}


def project(path: Path, events: object, **facts: Any) -> Path:
    """Of a.mp4, ten seconds long, and b.mp4, which follows and lasts five."""
    observation = {
        "file": {"1": ["a.mp4", "b.mp4"]},
        "media_info": {"length": {"a.mp4": 10.0, "b.mp4": 5.0}},
        "events": events,
    }
    behaviours = {"0": {"type": "State event", "code": "run"}, "1": {"type": "Point event", "code": "bark"}}
    path.write_text(json.dumps({"behaviors_conf": behaviours, "observations": {"one": observation | facts}}))
    return path


@pytest.mark.parametrize(
    ("events", "facts", "expected"),
    [
        ([[8, "", "run"], [12, "", "run"]], {}, {"a.mp4": [(8, 10, "run")], "b.mp4": [(0, 2, "run")]}),
        ([[8, "", "run"], [10, "", "run"]], {}, {"a.mp4": [(8, 10, "run")], "b.mp4": []}),
        ([[10, "", "run"], [11, "", "run"]], {}, {"a.mp4": [], "b.mp4": [(0, 1, "run")]}),
        ([[15, "", "bark"], [16, "", "bark"]], {}, {"a.mp4": [], "b.mp4": [(5, 5, "bark"), (6, 6, "bark")]}),
        ([[10, "", "bark"]], {}, {"a.mp4": [], "b.mp4": [(0, 0, "bark")]}),
        ([[99, "", "bark"]], {"time offset": 100}, {"a.mp4": [(-1, -1, "bark")], "b.mp4": []}),
        (
            [[105, "", "run"], [1002, "", "run"], [500, "", "bark"]],
            {
                "media_creation_date_as_offset": True,
                "media_info": {"length": {"a.mp4": 10}, "media_creation_time": {"a.mp4": 1000, "b.mp4": 100}},
            },
            {"b.mp4": [(5, 900, "run"), (400, 400, "bark")], "a.mp4": [(0, 2, "run")]},
        ),
    ],
)
def test_each_file_has_its_piece(tmp_path: Path, events: object, facts: dict[str, Any], expected: Found) -> None:
    found = found_in(project(tmp_path / "f.boris", events, **facts))
    assert {name: sorted(spans) for name, spans in found.items()} == expected


AGGREGATED = (
    "Observation id,Source,Media duration (s),Subject,Behavior,Behavior type,Start (s),Stop (s),Media file name\n"
    "one,player #1:a.mp4;b.mp4,10.000;5.000,,run,STATE,8,12,a.mp4\n"
    "one,player #1:a.mp4;b.mp4,10.000;5.000,,bark,POINT,16,16,b.mp4\n"
    "two,player #1:c.mp4,10.000,,bark,POINT,10.001,10.001,c.mp4\n"
)
TABULAR = (
    "Observation id,Source,Media duration (s),Subject,Behavior,Behavior type,Time,Media file name\n"
    "one,player #1:a.mp4;b.mp4,10.000;5.000,,run,START,8,a.mp4\n"
    "one,player #1:a.mp4;b.mp4,10.000;5.000,,run,STOP,12,b.mp4\n"
)


def test_so_it_is_in_tables(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(AGGREGATED)
    moments = {"b.mp4": [(0, 2, "run"), (6, 6, "bark")], "c.mp4": [(10.001, 10.001, "bark")]}
    assert found_in(path) == {"a.mp4": [(8, 10, "run")]} | moments
    path.write_text(TABULAR)
    assert found_in(path) == {"a.mp4": [(8, 10, "run")], "b.mp4": [(0, 2, "run")]}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"media_info": {"length": {"b.mp4": 5.0}}}, r"media_info\.length: that of a\.mp4 is missing"),
        ({"media_info": {"length": ["a.mp4"]}}, r"media_info\.length: must be the seconds of each file"),
        ({"file": {"1": "a.mp4"}}, r"file\.1: must be a list"),
        ({"file": {"1": 3}}, r"file\.1: must be a list"),
        ({"events": {"a": 1}}, r"events: must be a list"),
    ],
)
def test_what_is_no_observation_is_named(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"observation one: {message}"):
        read_boris(project(tmp_path / "f.boris", **({"events": []} | facts)))


def test_what_has_no_files_is_empty(tmp_path: Path) -> None:
    assert found_in(project(tmp_path / "f.boris", None)) == {"a.mp4": [], "b.mp4": []}
    assert found_in(project(tmp_path / "f.boris", [[1, "", "bark"]], file=[])) == {}
