"""Files of other tools, written by hand after their documentation, and ``clipgru convert``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.datasets.motion import write_video
from pipeline.datasets.timelines.frames import by_clock, clock_at
from pipeline.datasets.timelines.reading import read_timelines
from pipeline.datasets.timelines.writing import write_labelled
from pipeline.errors import UserError
from pipeline.found import find
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo
from tests.small import small_model

# docs: the MPI's EAF 3.0 schema; a slot without a value lies between its neighbours, at no known time.
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/films/day%201.mp4" MIME_TYPE="video/mp4" TIME_ORIGIN="500"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="500"/><TIME_SLOT TIME_SLOT_ID="ts2"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="2000"/>
  </TIME_ORDER>
  <TIER TIER_ID="hands" LINGUISTIC_TYPE_REF="t">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts3">
      <ANNOTATION_VALUE>cut &amp; mix</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>?</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER TIER_ID="rest" LINGUISTIC_TYPE_REF="t">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts3">
      <ANNOTATION_VALUE></ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER TIER_ID="notes" PARENT_REF="hands" LINGUISTIC_TYPE_REF="t">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>slow</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
  <meta><task><size>50</size><start_frame>10</start_frame><frame_filter>step=2</frame_filter>
    <source>film.mp4</source></task></meta>
  <image id="0" name="frame_000010"><tag label="run" source="manual"/></image>
  <image id="1" name="frame_000012"><tag label="run" source="manual"/><tag label="jump"/></image>
  <image id="4" name="frame_000018"><tag label="run"><attribute name="who">me</attribute></tag></image>
  <track id="0" label="dog"><box frame="1" outside="0" xtl="1"/><box frame="3" outside="1" xtl="1"/></track>
</annotations>
"""
BORIS = {
    "project_format_version": "7.0",
    "behaviors_conf": {"0": {"type": "State event", "code": "run"}, "1": {"type": "Point event", "code": "bark"}},
    "observations": {
        "one": {
            "file": {"1": ["a.mp4", "b.mp4"], "2": ["side.mp4"]},
            "type": "MEDIA",
            "media_info": {"length": {"a.mp4": 10.0, "b.mp4": 5.0}},
            "events": [
                [1, "rex", "run", "", ""],
                [3.5, "rex", "run", "", "", 87],
                [2, "", "bark", "m", ""],
                [12, "", "run", "", ""],
            ],
        },
        "live": {"file": [], "type": "LIVE", "events": [[1, "", "bark", "", ""]]},
    },
}
BORIS_TABULAR = (
    "Observation id\tone\n\nMedia file\ta.mp4\n\n"
    "Time\tMedia file path\tSubject\tBehavior\tBehavioral category\tComment\tStatus\n"
    "1.0\ta.mp4\trex\trun\t\t\tSTART\n2\ta.mp4\t\tbark\t\t\tPOINT\n3.5\ta.mp4\trex\trun\t\t\tSTOP\n"
)
BORIS_AGGREGATED = (
    "Observation id,Media duration (s),Subject,Behavior,Modifier #1,Behavior type,Start (s),Stop (s),Media file name\n"
    "one,10.0,No focal subject,run,,STATE,1.0,3.5,a.mp4\none,10.0,No focal subject,bark,,POINT,2,2,a.mp4\n"
)
BORIS_LATER = {  # its clock begins at 100 s, as that of a recorder might
    **BORIS,
    "observations": {
        "one": {
            **BORIS["observations"]["one"],  # type: ignore[index]
            "time offset": 100.0,
            "events": [[101, "", "run"], [103.5, "", "run"], [102, "", "bark"], [112, "", "bark"]],
        },
    },
}
BORIS_DATED = {  # and here at the times at which the files were recorded
    **BORIS,
    "observations": {
        "one": {
            **BORIS["observations"]["one"],  # type: ignore[index]
            "media_creation_date_as_offset": True,
            "media_info": {
                "length": {"a.mp4": 10.0, "b.mp4": 5.0},
                "media_creation_time": {"a.mp4": 1e9, "b.mp4": 2e9},
            },
            "events": [[1e9 + 2, "", "bark"], [2e9 + 1, "", "bark"]],
        },
    },
}
BORIS_OF_TWO = (
    "Observation id,Source,Time offset (s),Media duration (s),Subject,Behavior,Behavior type,Start (s),Stop (s),"
    "Media file name\n"
    "one,player #1:a.mp4;b.mp4|player #2:c.mp4,100.0,10.000;5.000|9.000,No focal subject,run,STATE,101.0,103.5,a.mp4\n"
    "one,player #1:a.mp4;b.mp4|player #2:c.mp4,100.0,10.000;5.000|9.000,No focal subject,bark,POINT,112,112,b.mp4\n"
)
VIA = {
    "project": {"vid_list": ["1"]},
    "attribute": {
        "1": {"aname": "who", "anchor_id": "FILE1_Z2_XY0", "type": 1, "options": {}},
        "2": {
            "aname": "TEMPORAL-SEGMENTS",
            "anchor_id": "FILE1_Z2_XY0",
            "type": 4,
            "options": {"0": "run", "1": "jump"},
        },
    },
    "file": {"7": {"fid": "7", "fname": "a.mp4", "type": 4, "loc": 1, "src": ""}},
    "view": {"1": {"fid_list": ["7"]}},
    "metadata": {
        "1_x": {"vid": "1", "flg": 0, "z": [1.5, 2.25], "xy": [], "av": {"1": "me", "2": "1"}},
        "1_y": {"vid": "1", "flg": 0, "z": [1.5], "xy": [2, 1, 1, 5, 5], "av": {"1": "me"}},
    },
}
VIA_TABLE = (
    "# Exported using VGG Image Annotator\n"
    '# ATTRIBUTE = {"1":{"aname":"Class","type":4,"options":{"0":"run"}}}\n'
    "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
    '"1_j","[""a.mp4""]",0,"[1.124,5.5]","[]","{""1"":""0""}"\n'
)
VIA_OLD = (
    "# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata\n"
    '"1_j","[""a.mp4""]",1,2.5,"{""TEMPORAL-SEGMENTS"":""run""}"\n'
)
LABEL_STUDIO = [
    {
        "id": 1,
        "file_upload": "0123abcd-film.mp4",
        "data": {"video": "/data/upload/3/0123abcd-film.mp4"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {
                "result": [
                    {
                        "type": "timelinelabels",
                        "value": {"ranges": [{"start": 1, "end": 5}], "timelinelabels": ["run"]},
                    },
                    {
                        "type": "videorectangle",
                        "value": {
                            "framesCount": 20,
                            "labels": ["dog"],
                            "sequence": [
                                {"frame": 3, "enabled": True},
                                {"frame": 8, "enabled": False},
                                {"frame": 11, "enabled": True},
                            ],
                        },
                    },
                    {"type": "choices", "value": {"choices": ["good"]}},
                ]
            },
        ],
    },
    {
        "data": {"video": "/data/local-files/?d=day%201/b.mp4"},
        "annotations": [],
        "predictions": [
            {
                "result": [
                    {
                        "type": "timelinelabels",
                        "score": 0.5,
                        "value": {"ranges": [{"start": 2, "end": 2}], "timelinelabels": ["run"]},
                    }
                ]
            }
        ],
    },
]
FIFTYONE = {
    "classes": ["jump", "run"],
    "labels": {
        "a": [{"label": 1, "timestamps": [0.5, "00:00:02.5"], "confidence": 0.25, "attributes": {"x": 1}}],
        "b": [{"label": "hop", "support": [1, 5]}],
        "c": None,
    },
}
CREATEML = [
    {"videoPath": "a.mp4", "label": "run", "startTime": 1.5, "endTime": 3},
    {"file": "b.mp4", "label": "jump", "end": 2},
]
VTRACE = (
    '# trace-meta: {"classes": ["run"]}\n'
    "labelId,  timestamp, endTimestamp, score, review\nrun,1.5,2.25,0.5,\njump,3,4,0.9,rejected\n"
)
ETHOGRAM = ",background,Run,jump\n0,1,0,0\n1,0,1,0\n2,0,1,1\n3,-1,-1,-1\n"
MIXED = [{"label": "x", "support": [1, 2]}, {"label": "x", "timestamps": [1, 2]}]
SRT = (
    "1\r\n00:00:01,500 --> 00:00:02,000\r\nrun (64%)\r\n\r\n"
    "2\r\n01:00:00,000 --> 01:00:01,250 X1:5\r\ncut \u2039x\u203a\r\non\r\n"
)
VTT = "WEBVTT - a title\n\nNOTE nothing\n\nid\n00:01.500 --> 00:02.000 align:start\n<c.red>a &amp; b</c>\n\n"


def spans_of(video: LabelledVideo) -> list[tuple[float, float, str]]:
    return [(span.start_seconds, span.end_seconds, span.label) for span in video.spans]


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8", newline=""
    )
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected", "left_out"),
    [
        (
            "f.eaf",
            EAF,
            {"/C:/films/day 1.mp4": [(1.0, 2.5, "cut & mix"), (1.0, 2.5, "rest")]},
            "tiers' names, annotations without a time, annotations of annotations",
        ),
        (
            "f.xml",
            CVAT,
            {"film.mp4": [(10, 14, "run"), (12, 14, "jump"), (12, 16, "dog"), (18, 20, "run")]},
            "attributes, shapes",
        ),
        (
            "f.boris",
            BORIS,
            {"a.mp4": [(2.0, 2.0, "bark"), (1.0, 3.5, "run")], "b.mp4": []},
            "videos of further players, subjects, modifiers, state events without an end",
        ),
        (
            "f.boris",
            BORIS_LATER,
            {"a.mp4": [(2.0, 2.0, "bark"), (1.0, 3.5, "run")], "b.mp4": [(2.0, 2.0, "bark")]},
            "videos of further players",
        ),
        (
            "f.boris",
            BORIS_DATED,
            {"a.mp4": [(2.0, 2.0, "bark")], "b.mp4": [(1.0, 1.0, "bark")]},
            "videos of further players",
        ),
        ("f.tsv", BORIS_TABULAR, {"a.mp4": [(2.0, 2.0, "bark"), (1.0, 3.5, "run")]}, "subjects"),
        (
            "f.tsv",
            "Time offset (s)\t-1.0\n" + BORIS_TABULAR,
            {"a.mp4": [(3.0, 3.0, "bark"), (2.0, 4.5, "run")]},
            "subjects",
        ),
        ("f.csv", BORIS_OF_TWO, {"a.mp4": [(1.0, 3.5, "run")], "b.mp4": [(2.0, 2.0, "bark")]}, ""),
        ("f.csv", BORIS_AGGREGATED, {"a.mp4": [(1.0, 3.5, "run"), (2.0, 2.0, "bark")]}, ""),
        ("f.json", VIA, {"a.mp4": [(1.5, 2.25, "jump")]}, "further attributes, regions and single frames"),
        ("f.csv", VIA_TABLE, {"a.mp4": [(1.124, 5.5, "run")]}, ""),
        ("f.csv", VIA_OLD, {"a.mp4": [(1.0, 2.5, "run")]}, ""),
        (
            "f.json",
            LABEL_STUDIO,
            {"film.mp4": [(0, 5, "run"), (2, 8, "dog"), (10, 20, "dog")], "day 1/b.mp4": [(1, 2, "run")]},
            "boxes, other regions",
        ),
        ("f.json", CREATEML, {"a.mp4": [(1.5, 3.0, "run")], "b.mp4": [(0.0, 2.0, "jump")]}, ""),
        ("f.pred.csv", VTRACE, {"f": [(1.5, 2.25, "run")]}, "rejected drafts"),
        ("f_labels.csv", ETHOGRAM, {"f": [(1, 3, "Run"), (2, 3, "jump"), (3, 4, "unlabelled")]}, ""),
        ("f.srt", SRT, {"f": [(1.5, 2.0, "run"), (3600.0, 3601.25, "cut <x> on")]}, ""),
        ("f.vtt", VTT, {"f": [(1.5, 2.0, "a & b")]}, ""),
        ("labels.json", FIFTYONE, {"a": [(0.5, 2.5, "run")], "b": [(0.0, 5.0, "hop")], "c": []}, "attributes"),
    ],
)
def test_files_of_other_tools_are_told_and_read(
    tmp_path: Path, name: str, content: object, expected: dict[str, object], left_out: str
) -> None:
    found = read_timelines(written(tmp_path / name, content))
    assert {video.name: spans_of(video) for video in found} == expected
    assert ", ".join(dict.fromkeys(thing for video in found for thing in video.left_out)) == left_out


def test_scores_and_frames_are_read(tmp_path: Path) -> None:
    (video,) = read_timelines(written(tmp_path / "f.srt", SRT))
    assert [span.score for span in video.spans] == [0.64, 1.0]
    first, second = read_timelines(written(tmp_path / "tasks.json", LABEL_STUDIO))
    assert first.in_frames
    assert [span.score for span in second.spans] == [0.5]
    a, b, _ = read_timelines(written(tmp_path / "set" / "labels.json", FIFTYONE).parent)
    assert (a.in_frames, b.in_frames) == (False, True)
    assert a.spans == (LabelledSpan(0.5, 2.5, "run", 0.25),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.eaf", '<!DOCTYPE a [<!ENTITY x "y">]><ANNOTATION_DOCUMENT/>', r"f\.eaf: declares a document type"),
        ("f.eaf", "<ANNOTATION_DOCUMENT>" + "<a>" * 60, r"f\.eaf: nested deeper than 50"),
        ("f.eaf", "<ANNOTATION_DOCUMENT>", r"f\.eaf: not XML"),
        ("f.eaf", "<annotations/>", r"f\.eaf: its root is annotations, and not ANNOTATION_DOCUMENT"),
        ("f.eaf", EAF.replace('TIME_VALUE="2000"', 'TIME_VALUE="2"'), r"annotation a1: the segment ends at"),
        ("f.eaf", EAF.replace("milliseconds", "NTSC-frames"), r"TIME_UNITS 'NTSC-frames'"),
        ("f.boris", {"observations": {"one": {"events": [[1]]}}}, r"observation one: event 0: must be a list"),
        (
            "f.boris",
            {"observations": {"one": {"file": {"1": ["a.mp4"]}, "media_creation_date_as_offset": True}}},
            r"observation one: media_info\.media_creation_time: must be the time at which each file was recorded",
        ),
        ("f.tsv", BORIS_TABULAR.replace("START", "BEGIN"), r"f\.tsv:6: BEGIN of run is no START"),
        ("f.tsv", BORIS_TABULAR.replace("2\ta.mp4", "2\tb.mp4"), r"f\.tsv:7: f is of several videos, .*the project"),
        ("f.srt", "00:00:01,500 --> soon\nrun\n", r"f\.srt:1: expected times such as"),
        ("f.srt", "00:00:01,500 --> 00:00:02,000\n\n", r"f\.srt:1: the segment has no label"),
        ("f_labels.csv", ETHOGRAM.replace("2,0,1,1", "2,0,1,2"), r"f_labels\.csv:4: '2' is neither 0, 1 nor -1"),
        ("labels.json", {"classes": [], "labels": {"a": MIXED}}, r"labels\.a: some detections have support"),
        ("f.json", [{"file": "a.mp4", "label": "x"}], r"entry 0: has no endTime"),
        ("f.json", {**VIA, "view": {}}, r"metadata\.1_x: vid '1' is no view"),
        ("f.csv", VTRACE.replace("2.25", "1"), r"f\.csv:3: the segment ends at 1, before"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_timelines(written(tmp_path / name, content))


# The command


def film(path: Path, num_frames: int = 30) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)
    write_video(path, frames, 5, intra=True)
    return path


def test_convert_names_what_is_lost_and_looks_frames_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = tmp_path / "films"
    film(films / "day 1" / "b.mp4")
    film(films / "film.mp4")
    tasks = written(tmp_path / "labels" / "tasks.json", LABEL_STUDIO)
    words = ["convert", str(tasks), str(tmp_path / "m.csv"), "--to", "manifest"]
    assert main(words) == 2
    assert "film.mp4: its labels count frames, and the video is not in" in capsys.readouterr().err
    assert main([*words, "--videos", str(films)]) == 0
    assert "left out of" in capsys.readouterr().err
    (first, second) = read_timelines(tmp_path / "m.csv")
    assert spans_of(first) == [(0.0, 1.0, "run"), (0.4, 1.6, "dog"), (2.0, 4.0, "dog")]
    assert (second.duration_seconds, second.spans[0].score) == (6.0, 0.5)
    assert main([*words, "--fps", "10"]) == 0
    assert spans_of(read_timelines(tmp_path / "m.csv")[0])[0] == (0.0, 0.5, "run")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "m.csv"), str(tmp_path / "elan"), "--to", "elan"]) == 0
    said = capsys.readouterr().err
    assert "elan cannot hold scores: 1" in said
    assert sorted(path.name for path in (tmp_path / "elan").iterdir() if path.suffix == ".eaf") == ["b.eaf", "film.eaf"]
    assert main(["convert", str(tmp_path / "elan"), str(tmp_path / "back.boris"), "--to", "boris", "--quiet"]) == 0
    assert {video.name for video in read_timelines(tmp_path / "back.boris")} == {"film.mp4", "day 1/b.mp4"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.x", "--to", "elam"], "unknown format to write 'elam'. Did you mean 'elan'"),
        (["out.x", "--to", "predict"], "unknown format to write 'predict'"),
        (["m.csv", "--to", "epic"], "OUT m.csv would be written over the input"),
        (["there.csv", "--to", "epic", "--no_clobber"], "there.csv is there already"),
        (["there.csv", "--to", "thumos"], "is a file, and 2 files are to be written"),
        (["old", "--to", "thumos"], "holds other label files, which would be read too. 1: hop_test.txt"),
        (["out", "--to", "cvat"], "a.mp4: its labels count frames"),
        (["out", "--to", "cvat", "--fps", "0"], "fps must be between"),
    ],
)
def test_convert_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("m.csv"), "path,label,start_seconds,end_seconds\na.mp4,run,1,2\na.mp4,jump,2,3\n")
    written(Path("there.csv"), "x")
    written(Path("old/hop_test.txt"), "a 1 2\n")
    assert main(["convert", "m.csv", *words]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert Path("there.csv").read_text() == "x"


def test_check_and_score_take_such_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name)
    labels = written(tmp_path / "f.json", CREATEML)
    found = find([str(labels)])
    assert [(row.path.name, row.label) for _, row in found.rows] == [("a.mp4", "run"), ("b.mp4", "jump")]
    assert {path.name for path in found.files} == {"a.mp4", "b.mp4"}
    assert main(["score", str(labels), str(labels), "--quiet", "--resamples", "0"]) == 0
    assert "2 videos, 2 true segments, 2 predicted" in capsys.readouterr().out


def test_labels_of_the_sound_of_a_video_have_seconds(tmp_path: Path) -> None:
    region = {"type": "labels", "value": {"start": 1.5, "end": 2.25, "channel": 0, "labels": ["run"]}}
    task = {"data": {"video": "https://films.example/a%20b.mp4?x=1"}, "annotations": [{"result": [region]}]}
    (video,) = read_timelines(written(tmp_path / "t.json", [task]))
    assert (video.name, spans_of(video), video.in_frames) == ("/a b.mp4", [(1.5, 2.25, "run")], False)
    mixed = {
        "data": task["data"],
        "annotations": [{"result": [region, LABEL_STUDIO[0]["annotations"][1]["result"][0]]}],
    }  # type: ignore[index]
    with pytest.raises(UserError, match="task 0: some regions have frames and others seconds"):
        read_timelines(written(tmp_path / "t.json", [mixed]))


def test_frames_are_scored_at_a_rate_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = str(written(tmp_path / "tasks.json", LABEL_STUDIO))
    assert main(["score", tasks, tasks, "--quiet", "--resamples", "0"]) == 2
    assert "film.mp4: its labels count frames; say their rate with --sample_fps" in capsys.readouterr().err
    assert main(["score", tasks, tasks, "--quiet", "--resamples", "0", "--sample_fps", "5"]) == 0


@pytest.mark.parametrize("name", ["boris", "label_studio", "elan"])
def test_predict_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The segments are those of its own file, to the next frame where frames are counted."""
    video, model = film(tmp_path / "a.mp4"), tmp_path / "m.safetensors"
    save_model(model, small_model())
    words = ["predict", str(model), str(video), "--quiet", "--json", str(tmp_path / "own.json")]
    assert main([*words, "--stretches", str(tmp_path / "out"), "--format", name]) == 0
    (own,) = read_timelines(tmp_path / "own.json")
    (other,) = (by_clock(found, clock_at(5.0, 6.0)) for found in read_timelines(tmp_path / "out"))
    assert own.spans
    for ours, theirs in zip(own.spans, sorted(other.spans, key=lambda span: span.start_seconds), strict=True):
        assert theirs.label == ours.label
        assert abs(theirs.start_seconds - ours.start_seconds) <= 0.1
        assert abs(theirs.end_seconds - ours.end_seconds) <= 0.1
    assert main(["predict", str(model), str(video), "--format", name]) == 2
    assert f"--format {name} is of --stretches" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_a_label_that_ends_like_a_score_stays_a_label(tmp_path: Path, name: str) -> None:
    span = LabelledSpan(1.0, 2.0, "run (64%)")
    write_labelled([LabelledVideo("film", (span,))], tmp_path / "out", name, lambda video: clock_at(5.0, 2.0))
    (video,) = read_timelines(tmp_path / "out" / f"film.{name}")
    assert video.spans == (span,)


def test_names_from_outside_lead_nowhere(tmp_path: Path) -> None:
    """A video, a part or a label may be called anything; what is written stays in its folder."""
    spans = (LabelledSpan(0.0, 1.0, "a\x01b"),)
    videos = [LabelledVideo(name, spans, 2.0, split="../x") for name in ("../../a.mp4", "/etc/b\x00.mp4", "..")]
    for name in ("elan", "ms_tcn", "srt", "cvat", "fiftyone"):
        write_labelled(videos, tmp_path / "in" / name, name, lambda video: clock_at(5.0, 2.0))
        assert len(read_timelines(tmp_path / "in" / name, name)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    with pytest.raises(UserError, match="cannot be the name of a file"):
        write_labelled([LabelledVideo("a", (LabelledSpan(0, 1, "../b"),))], tmp_path / "t", "thumos", clock_of=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.jsonl"])
def test_a_folder_with_a_manifest_is_read(tmp_path: Path, name: str) -> None:
    """With the videos, and for FiftyOne where these are."""
    video = film(tmp_path / "films" / "a.b.mp4")
    if name.endswith(".csv"):
        table = "path,label,start_seconds,end_seconds\na.b.mp4,fall,0.2,0.6\n"
    else:
        table = json.dumps({"path": "a.b.mp4", "label": "fall", "start_seconds": 0.2, "end_seconds": 0.6}) + "\n"
    (tmp_path / "films" / name).write_text(table)
    assert main(["convert", str(tmp_path / "films"), str(tmp_path / "out"), "--to", "fiftyone", "--quiet"]) == 0
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == {"a.b.mp4": str(video.resolve())}
    (own,) = read_timelines(tmp_path / "out")
    assert [(span.start_seconds, span.end_seconds, span.label) for span in own.spans] == [(0.2, 0.6, "fall")]
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "again"), "--to", "fiftyone", "--quiet"]) == 0
    assert not (tmp_path / "again" / "data.json").exists()
