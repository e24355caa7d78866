"""Readers of labelled stretches: each format as its tools write it, told by its content, and what is wrong with one."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.clip import Prediction, Segment, VideoInfo
from pipeline.datasets.timelines.formats import TIMELINE_FORMATS
from pipeline.datasets.timelines.names import rename_as
from pipeline.datasets.timelines.reading import read_timelines
from pipeline.datasets.timelines.text_files import MS_TCN_HEADING
from pipeline.errors import UserError
from pipeline.report.csv_file import CsvFile
from pipeline.report.json_file import JsonFile
from pipeline.report.jsonl import JsonLines
from pipeline.report.records import SourceVideo
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

A = LabelledVideo("a.mp4", (LabelledSpan(1.0, 2.5, "run"), LabelledSpan(2.0, 4.0, "jump")))
B = LabelledVideo("b.mp4", (LabelledSpan(0.0, 3.0, "run"),))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


MANIFEST = (
    "path,label,start_seconds,end_seconds,group,split\n"
    "a.mp4,run,1,2.5,g,test\na.mp4,jump,2,4,g,test\nb.mp4,run,,3,h,train\n"
)
MANIFEST_LINES = (
    '{"path": "a.mp4", "label": "run", "start_seconds": 1, "end_seconds": 2.5}\n'
    '{"path": "a.mp4", "label": "jump", "start_seconds": 2, "end_seconds": 4}\n'
    '{"path": "b.mp4", "label": "run", "start_seconds": 0, "end_seconds": 3}\n'
)
ACTIVITYNET = {
    "version": "1.3",
    "taxonomy": [],
    "database": {
        "a.mp4": {
            "duration": 9.5,
            "subset": "validation",
            "url": "",
            "annotations": [{"segment": [1, 2.5], "label": "run"}, {"segment": ["2.0", 4], "label": "jump"}],
        },
        "b.mp4": {"duration": 5, "subset": "training", "annotations": [{"segment": [0, 3.0], "label": "run"}]},
    },
}
RESULTS = {
    "version": "1.3",
    "external_data": {},
    "results": {
        "a.mp4": [
            {"segment": [1, 2.5], "label": "run", "score": 1},
            {"segment": [2, 4], "action": "jump", "score": 1.0},
        ],
        "b.mp4": [{"segment": [0, 3], "label": "run", "score": 1}],
    },
}
EPIC = (
    "narration_id,video_id,start_timestamp,stop_timestamp,verb,noun,all_nouns\n"
    "1,a.mp4,00:00:01.00,00:00:02.50,run,,\"['x', 'y']\"\n2,a.mp4,2,4.0,jump,,\n3,b.mp4,0:00,00:03,run,,\n"
)


def test_the_manifest(tmp_path: Path) -> None:
    write(tmp_path, {"m.csv": MANIFEST, "m.jsonl": MANIFEST_LINES})
    first, second = read_timelines(tmp_path / "m.csv")
    assert [first, second] == [replace(A, split="test", group="g"), replace(B, split="train", group="h")]
    assert read_timelines(tmp_path / "m.jsonl") == [A, B]
    assert read_timelines(tmp_path / "m.csv", split="Training") == [second]
    text = "path,label,start_seconds,end_seconds,score,duration_seconds\nc.mp4,,,,,7\nd.mp4,run,-1,-1,0.25,\n"
    still, point = read_timelines(write(tmp_path, {"n.csv": text}) / "n.csv")
    assert still == LabelledVideo("c.mp4", (), 7.0)
    assert point.spans == (LabelledSpan(-1.0, -1.0, "run", 0.25),)


def test_activitynet(tmp_path: Path) -> None:
    write(tmp_path, {"t.json": json.dumps(ACTIVITYNET, indent=1), "r.json": json.dumps(RESULTS)})
    first, second = read_timelines(tmp_path / "t.json")
    assert (first.spans, first.duration_seconds) == (A.spans, 9.5)
    assert read_timelines(tmp_path / "t.json", split="val") == [first]
    assert read_timelines(tmp_path / "t.json", split="training") == [second]
    assert read_timelines(tmp_path / "r.json") == [A, B]


def test_thumos(tmp_path: Path) -> None:
    files = {
        "run_test.txt": "a.mp4  1.0 2.5\nb.mp4 0 3\n",
        "jump_test.txt": "a.mp4 2 4\n",
        "Ambiguous_test.txt": "a.mp4 0 1\n",
        "run_val.txt": "c.mp4 0 1\n",
    }
    found = read_timelines(write(tmp_path, files), split="test")
    ambiguous = {LabelledSpan(0.0, 1.0, "unlabelled")}
    assert {v.name: set(v.spans) for v in found} == {"a.mp4": {*A.spans, *ambiguous}, "b.mp4": set(B.spans)}
    assert {video.name for video in read_timelines(tmp_path)} == {"a.mp4", "b.mp4", "c.mp4"}
    (scored,) = read_timelines(write(tmp_path / "one", {"dive.txt": "v 1 2 0.5\n"}) / "dive.txt")
    assert scored.spans == (LabelledSpan(1.0, 2.0, "dive", 0.5),)


def test_epic(tmp_path: Path) -> None:
    first, second = read_timelines(
        write(tmp_path, {"e.csv": EPIC.replace("run,,", "run,on,").replace("jump,,", "jump,up,")}) / "e.csv"
    )
    assert [(s.start_seconds, s.end_seconds, s.label) for s in first.spans] == [
        (1.0, 2.5, "run on"),
        (2.0, 4.0, "jump up"),
    ]
    assert second.spans[0].end_seconds == 3.0
    classes = "video_id,start_timestamp,stop_timestamp,verb,verb_class,noun_class\nv,01:00:02.5,01:01:00,take,3,14\n"
    (video,) = read_timelines(write(tmp_path, {"c.csv": classes}) / "c.csv")
    assert video.spans == (LabelledSpan(3602.5, 3660.0, "3,14"),)


def ms_tcn_tree(folder: Path) -> Path:
    files = {
        "groundTruth/v1.txt": "rest\nrun\nrun\n",
        "groundTruth/v2.txt": "run\r\nrest\r\n",
        "groundTruth/v3.txt": "",
        "mapping.txt": "0 rest\n1 run\n",
        "splits/test.split1.bundle": "v2.txt\n",
        "splits/train.split1.bundle": "v1.txt\nv3.txt\n",
        "splits/test.split2.bundle": "v1.txt\n",
    }
    return write(folder, files)


def test_ms_tcn(tmp_path: Path) -> None:
    root = ms_tcn_tree(tmp_path)
    v1, v2, v3 = (
        LabelledVideo(name, steps=steps)
        for name, steps in (("v1", ("rest", "run", "run")), ("v2", ("run", "rest")), ("v3", ()))
    )
    assert read_timelines(root) == read_timelines(root / "groundTruth", "ms_tcn") == [v1, v2, v3]
    assert read_timelines(root / "splits" / "train.split1.bundle") == [v1, v3]
    assert read_timelines(root, split="test.split2") == read_timelines(root, split="test.split2.bundle") == [v1]
    assert read_timelines(root, split="training") == [v1, v3]
    with pytest.raises(UserError, match=r"2 bundles of the split 'test'; name one of test.split1, test.split2"):
        read_timelines(root, split="test")


def test_predictions_as_ms_tcns_code_writes_them(tmp_path: Path) -> None:
    write(tmp_path, {"v1": f"{MS_TCN_HEADING}\nrest run run", "v2": f"{MS_TCN_HEADING}\nrun rest"})
    assert [video.steps for video in read_timelines(tmp_path)] == [("rest", "run", "run"), ("run", "rest")]


def test_indices_for_labels(tmp_path: Path) -> None:
    root = write(tmp_path, {"groundTruth/v.txt": "0\n1\nrun\n", "mapping.txt": "0 rest\n1 run\n"})
    assert read_timelines(root)[0].steps == ("rest", "run", "run")


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_what_predict_writes_comes_back(kind: str, tmp_path: Path) -> None:
    """One video with segments, and one that could not be opened."""
    path = tmp_path / f"out.{kind}"
    writer = {
        "json": lambda: JsonFile(path, {"labels": ["run"]}),
        "jsonl": lambda: JsonLines(path, {"labels": ["run"]}),
        "csv": lambda: CsvFile(path),
    }[kind]()
    info = VideoInfo(Path("sub/a.mp4"), 100, 64, 48, Fraction(25), 4.0, 0, "h264", "mp4")
    writer.begin_video(SourceVideo("sub/a.mp4", "a", info))
    writer.window(Prediction("sub/a.mp4", 0.0, 1.0, "run", 0.75, (("run", 0.75),)), np.ones(1, np.float32))
    writer.segment(Segment(0.25, 1.5, "run", 0.5))
    writer.segment(Segment(2.0, 3.0, "jump", 0.875))
    writer.end_video("ok", "")
    writer.begin_video(SourceVideo("sub/b.mp4", "b"))
    writer.end_video("error", "it is broken")
    writer.close()
    (video,) = read_timelines(path)
    assert (video.name, video.duration_seconds) == ("sub/a.mp4", 4.0)
    assert video.spans == (LabelledSpan(0.25, 1.5, "run", 0.5), LabelledSpan(2.0, 3.0, "jump", 0.875))


def test_segments_by_video(tmp_path: Path) -> None:
    run = {"start_seconds": 1, "end_seconds": 2.5, "label": "run"}
    content = {"a.mp4": [run | {"score": 0.5}], "b.mp4": {"duration_seconds": 9, "segments": [run]}, "c.mp4": []}
    found = read_timelines(write(tmp_path, {"s.json": json.dumps(content, indent=1)}) / "s.json")
    assert [(video.name, video.duration_seconds) for video in found] == [
        ("a.mp4", None),
        ("b.mp4", 9.0),
        ("c.mp4", None),
    ]
    assert [video.spans for video in found[:2]] == [(LabelledSpan(1, 2.5, "run", s),) for s in (0.5, 1.0)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"m.csv": "path,label,start_seconds,end_seconds\na,run,1,x\n"}, r"m.csv:2: the end is 'x'"),
        (
            {"m.csv": "path,label,start_seconds,end_seconds\na,run,3,2\n"},
            r"m.csv:2: .* ends at 2, before it starts at 3",
        ),
        ({"m.csv": "path,label,start_seconds,end_seconds\na,,1,2\n"}, r"m.csv:2: the segment has no label"),
        ({"m.csv": "path,label,start_seconds,end_seconds\na,run,1,\n"}, r"m.csv:2: end_seconds is empty"),
        ({"m.csv": "path,label,start_seconds,end_seconds,scor\na,run,1,2,3\n"}, r"m.csv:2: .*Did you mean 'score'"),
        ({"m.csv": "path,label,start_seconds,end_seconds,score\na,run,1,2,nan\n"}, r"m.csv:2: the score is 'nan'"),
        ({"e.csv": "video_id,start_timestamp,stop_timestamp,verb,noun\nv,1:2:3:4,5,a,b\n"}, r"e.csv:2: the start"),
        ({"r.json": '{"results": {"v": [{"segment": [1, 2], "label": "a"}]}}'}, r"r.json: results.v\[0\]: the score"),
        ({"r.json": '{"results": {"v": [{"segment": [1], "label": "a"}]}}'}, r"results.v\[0\]: segment must be"),
        (
            {"r.json": '{"results": {"v": [{"segment": [1, 2], "label": "a", "score": NaN}]}}'},
            r"r.json: not JSON.*finite",
        ),
        ({"r.json": '{"database": [1]}'}, r"database: must be videos by name"),
        ({"r.json": '{"results": {}, "results": {}}'}, r"twice"),
        ({"o.json": '{"videos": [{"path": "v"}]}'}, r"videos\[0\]: needs path and segments"),
        ({"o.jsonl": '{"event": "run"}\n{"path": "v"}\n'}, r"o.jsonl:2: no event"),
        ({"d.txt": "v 1 2\nv 1\n"}, r"d.txt:2: expected VIDEO START END"),
        (
            {"s.json": '{"v": [{"start_seconds": 1, "end_seconds": 0, "label": "a"}]}'},
            r"s.json: v\[0\]: .*before it starts",
        ),
        ({"s.json": '{"v": [1]}'}, r"s.json: v: must be segments"),
        ({"s.json": '{"v": {"segments": 3}}'}, r"s.json: v: needs a list of segments"),
        ({"y.json": '{"v": 3}'}, r"does not tell its format"),
        ({"x.json": "{}"}, r"does not tell its format.*--format"),
        ({"x.csv": "a,b\n1,2\n"}, r"does not tell its format"),
    ],
)
def test_a_fault_is_named_with_its_place(files: dict[str, str], message: str, tmp_path: Path) -> None:
    write(tmp_path, files)
    with pytest.raises(UserError, match=message):
        read_timelines(tmp_path / next(iter(files)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"groundTruth/v1.txt": "rest\n\nrun\n"}, r"v1.txt:2: an empty line"),
        ({"groundTruth/v1.txt": "rest\nwalk\n"}, r"v1.txt:2: the label 'walk' is not in mapping.txt"),
        ({"mapping.txt": "0 rest\nrun\n"}, r"mapping.txt:2: expected an index and a label"),
        ({"splits/train.split1.bundle": "v9.txt\n"}, r"train.split1.bundle names label files that are not in"),
    ],
)
def test_a_fault_of_a_tree_is_named_with_its_place(files: dict[str, str], message: str, tmp_path: Path) -> None:
    root = write(ms_tcn_tree(tmp_path), files)
    with pytest.raises(UserError, match=message):
        read_timelines(root, split="train" if "split" in next(iter(files)) else None)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_timelines(tmp_path / "absent")
    with pytest.raises(UserError, match="Did you mean 'ms_tcn'"):
        read_timelines(tmp_path, "mstcn")
    for name in TIMELINE_FORMATS:
        with pytest.raises(UserError, match=r"folder|no line VIDEO|no label file|no file of the format|labels\.json"):
            read_timelines(tmp_path, name)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (["a", "b"], ["b", "c"], ["b", "c"]),
        (["x/a.mp4", "x/b.mp4"], ["/home/x/a.mp4"], ["x/a.mp4"]),
        (["a", "b"], ["sub/b.MP4"], ["b"]),
        (["a.txt", "v1.2"], ["a.mp4", "v1.2.avi"], ["a.mp4", "v1.2"]),
        (["x/a", "y/a"], ["y/a", "z/a"], ["y/a", "z/a"]),  # without folders, two would be one
    ],
)
def test_names_of_one_video(truth: list[str], predicted: list[str], expected: list[str]) -> None:
    found = rename_as([LabelledVideo(name) for name in truth], [LabelledVideo(name) for name in predicted])
    assert [video.name for video in found] == expected
