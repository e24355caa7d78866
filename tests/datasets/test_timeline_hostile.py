"""Files of labels that are damaged or hostile, and what formats do with times that they cannot hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config import DataConfig
from pipeline.datasets.timelines.frames import clock_at
from pipeline.datasets.timelines.reading import read_timelines
from pipeline.datasets.timelines.rows import read_stretches
from pipeline.datasets.timelines.writing import write_labelled
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

ROOT = Path(__file__).resolve().parents[2]
EAF = '<?xml version="1.0" encoding="{}"?><ANNOTATION_DOCUMENT/>'
CVAT = "<annotations><meta><task><frame_filter>{}</frame_filter></task></meta></annotations>"
ETHOGRAM = ",background,run\n0,1,0\n{},0,1\n"
VIA = {"attribute": {}, "metadata": {}, "view": {"1": {"fid_list": 5}}}


def task(data: object, **region: object) -> str:
    return json.dumps([{"data": {"video": data}, "predictions": [{"result": [region] if region else []}]}])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.eaf", EAF.format("shift_jis"), "multi-byte encodings are not supported; save it as UTF-8"),
        ("f.eaf", EAF.format("nonsense"), "unknown encoding: nonsense; save it as UTF-8"),
        ("f.xml", CVAT.format("step=x"), "frame_filter is 'x', which is no finite number"),
        ("f.xml", CVAT.format("step=0"), "frame_filter is step=0"),
        ("f.xml", CVAT.format("step=" + "9" * 5000), "frame_filter is '9999"),
        ("f.json", task("http://[me:secret@x"), "task 0: the address of its video is none that can be read"),
        ("f.json", json.dumps(VIA), r"view\.1\.fid_list: must be a list"),
        ("f_labels.csv", ETHOGRAM.format(5), r"f_labels\.csv:3: expected the line of frame 1"),
        (
            "f.srt",
            "00:00:01,000 --> 00:00:02,000\na\n00:00:03,000 --> 00:00:04,000\nb\n",
            r"f\.srt:3: an empty line is",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        read_timelines(tmp_path / name)
    assert "secret" not in str(refused.value)


def test_a_label_is_one_line(tmp_path: Path) -> None:
    """Of a transcript there may be several, and lines of tables, subtitles and label files cannot hold them."""
    path = tmp_path / "f.json"
    path.write_text('{"a.mp4": [{"start_seconds": 0, "end_seconds": 1, "label": "cut\\r\\nand\\tmix\\n"}]}')
    assert read_timelines(path)[0].spans == (LabelledSpan(0, 1, "cut and mix"),)


def test_scores_that_are_not_there_and_scores_of_0(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    ranges = {"ranges": [{"start": 1, "end": 3}], "timelinelabels": ["x"]}
    path.write_text(task("a.mp4", type="timelinelabels", score=None, value=ranges))
    assert read_timelines(path)[0].spans == (LabelledSpan(0, 3, "x", 1.0),)
    detections = [{"label": 0, "timestamps": [0, 1], "confidence": score} for score in (0, None, 0.5)]
    path.write_text(json.dumps({"classes": ["a"], "labels": {"v": detections}}))
    assert [span.score for span in read_timelines(path)[0].spans] == [0, 1, 0.5]


def test_a_keyframe_may_have_its_number_as_a_text(tmp_path: Path) -> None:
    keyframe = {"sequence": [{"frame": "00:01"}], "labels": ["x"]}
    (tmp_path / "f.json").write_text(task("a.mp4", type="videorectangle", value=keyframe))
    assert read_timelines(tmp_path / "f.json")[0].spans == (LabelledSpan(0, 1, "x"),)


def test_long_texts_of_subtitles_take_no_square_of_their_length(tmp_path: Path) -> None:
    """Minutes, when it was so."""
    (tmp_path / "f.vtt").write_text(f"WEBVTT\n\n00:01.000 --> 00:02.000\n<b>run{'<a' * 500_000}\n")
    code = f"from pipeline.datasets.timelines.subtitles import *; read_subtitles(Path({str(tmp_path / 'f.vtt')!r}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300, check=False).returncode == 0


@pytest.mark.parametrize("name", ["elan", "srt", "vtt", "epic"])
def test_times_before_0_are_moved_and_named(tmp_path: Path, name: str) -> None:
    video = LabelledVideo("a.mp4", (LabelledSpan(-2, -1, "run"), LabelledSpan(-1, 1, "run")))
    notes = write_labelled([video], tmp_path / "out", name, lambda _: clock_at(5))
    assert f"{name} cannot hold times before 0 or finer than a millisecond, which are moved: 3" in notes
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert read_timelines(path, name)[0].spans[-1] == LabelledSpan(0, 1, "run")


@pytest.mark.parametrize("seconds", [None, 1e12])
@pytest.mark.parametrize("name", ["ms_tcn", "cvat", "deepethogram", "label_studio"])
def test_there_is_no_memory_for_every_number_of_frames(tmp_path: Path, name: str, seconds: float | None) -> None:
    video = LabelledVideo("a.mp4", (LabelledSpan(0, 1e12, "run"),), seconds)
    with pytest.raises(UserError, match=r"1e\+12 s at 25 frames a second are more than 20,000,000"):
        write_labelled([video], tmp_path / "out", name, lambda video: clock_at(25, video.duration_seconds))
    assert not (tmp_path / "out").exists()


def test_videos_may_be_called_as_the_files_of_ms_tcn_are(tmp_path: Path) -> None:
    videos = [LabelledVideo(f"{name}.mp4", (LabelledSpan(0, 1, "run"),)) for name in ("README", "c", "mapping")]
    write_labelled(videos, tmp_path / "out", "ms_tcn", lambda _: clock_at(5, 2.0))
    assert sorted(video.name for video in read_timelines(tmp_path / "out")) == ["README", "c", "mapping"]


def test_a_pipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is looked at to tell the format would be missing when it is read."""
    os.mkfifo(tmp_path / "in.csv")
    assert main(["convert", str(tmp_path / "in.csv"), str(tmp_path / "out.json"), "--to", "segments"]) == 2
    assert "in.csv: a pipe or a device, which cannot be read twice; save it as a file" in capsys.readouterr().err


@pytest.mark.parametrize("linked", ["groundTruth", "groundTruth/a.txt", "mapping.txt", "splits/train.split1.bundle"])
def test_label_files_are_no_links_out_of_the_root(tmp_path: Path, linked: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in ("groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "groundTruth" / "a.txt").write_text("secret\n")
    (root / "mapping.txt").write_text("0 run\n")
    (root / "splits" / "train.split1.bundle").write_text("a.txt\n")
    elsewhere.mkdir()
    moved = (root / linked).rename(elsewhere / Path(linked).name)
    (root / linked).symlink_to(moved)
    with pytest.raises(UserError, match=r"label files are links that lead out of .*root\. 1: .*Set data\.allow_links"):
        read_stretches("ms_tcn", DataConfig(format="ms_tcn", root=str(root)))
    with pytest.raises(UserError, match="the label 'secret' is not in mapping"):
        read_stretches("ms_tcn", DataConfig(format="ms_tcn", root=str(root), allow_links=True))


def test_a_label_file_that_is_a_link_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "t.eaf").write_text("<ANNOTATION_DOCUMENT>")
    link = tmp_path / "root" / "t.eaf"
    link.symlink_to(tmp_path / "t.eaf")
    with pytest.raises(UserError, match="links that lead out"):
        read_stretches("elan", DataConfig(format="elan", root=str(link.parent)))
    with pytest.raises(UserError, match="not XML"):
        read_stretches("elan", DataConfig(format="elan", root=str(link.parent), annotations=str(link)))
