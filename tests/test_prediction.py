"""A run over videos with every output: they agree, are the same each time, and complete or absent if it ends early."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.config import DataConfig, TimelineConfig
from pipeline.datasets.formats import read_annotations
from pipeline.decode import open_video
from pipeline.errors import DecodeError, UserError
from pipeline.files.stopping import StopRequest
from pipeline.found import find
from pipeline.inference import Model
from pipeline.options import PredictOptions
from pipeline.prediction import find_videos, passed_over, predict_files
from pipeline.report.writers import FILES, Writers
from pipeline.terminal import PlainConsole
from tests.overlapping import overlapping_model
from tests.small import small_model

OUTPUTS = {
    "json": "o.json",
    "csv": "o.csv",
    "jsonl": "o.jsonl",
    "srt": "s",
    "vtt": "v",
    "video": "annotated",
    "html": "pages",
}


@pytest.fixture(scope="module")
def model_path(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model, moved and stretched so that its answers differ from window to window and make segments."""
    file = small_model()
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    with open_video(video) as reader, torch.no_grad():
        scores = np.array([window.probabilities for window in Model(file).score_windows(reader)])
        file.recognizer.classifier.bias -= torch.from_numpy(np.log(scores).mean(axis=0))
        for parameter in file.recognizer.classifier.parameters():
            parameter.mul_(20)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, file)
    return path


@pytest.fixture
def videos(motion_root: Path, tmp_path: Path) -> Path:
    """A folder with a long video, two short ones and one that is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (long,) = (motion_root / "untrimmed").glob("*.mp4")
    (folder / "a.mp4").symlink_to(long)
    for name, clip in zip("bd", sorted((motion_root / "test" / "grows").iterdir()), strict=True):
        (folder / f"{name}.mp4").symlink_to(clip)  # whatever it is: the content tells the format
    (folder / "c.mp4").write_bytes(long.read_bytes()[:300])
    return folder


def predict(model_path: Path, videos: Path, out: Path, *more: str, names: dict[str, str] = OUTPUTS) -> int:
    options = [part for name, target in names.items() for part in (f"--{name}", str(out / target))]
    return main(["predict", str(model_path), str(videos), *options, "--quiet", "--timeline.min_seconds", "0.2", *more])


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def words_and_numbers(content: bytes) -> tuple[list[str], list[float]]:
    numbers = r"\b\d+\.\d+\b"
    text = content.decode()
    return re.split(numbers, text), [float(number) for number in re.findall(numbers, text)]


def test_labels_that_overlap_are_whole_in_every_output(motion_root: Path, tmp_path: Path) -> None:
    """Every segment of the model, in order of time, whatever kind of file it stands in."""
    parquet = pytest.importorskip("pyarrow.parquet")
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    model = overlapping_model()
    targets = {name: str(tmp_path / target) for name, target in (OUTPUTS | {"parquet": "o.parquet"}).items()}
    options = PredictOptions(**targets, timeline=TimelineConfig(min_seconds=0.4), quiet=True)
    assert predict_files(model, [video], options, PlainConsole()) == 0
    expected = sorted(
        (round(s.start_seconds, 3), round(s.end_seconds, 3), s.label)
        for s in model.segments(video, timeline=TimelineConfig(min_seconds=0.4))
    )
    assert any(one[1] > other[0] for one, other in pairwise(expected))
    assert expected[:2] == [(0.0, 2.0, "class 0"), (1.0, 2.2, "class 2")]

    said = json.loads((tmp_path / "o.json").read_text())
    assert said["may_overlap"]
    keys = ("start_seconds", "end_seconds", "label")
    assert [tuple(s[key] for key in keys) for s in said["videos"][0]["segments"]] == expected
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert sorted(tuple(e[key] for key in keys) for e in lines if e["event"] == "segment") == expected
    rows = [row for row in csv.DictReader((tmp_path / "o.csv").read_text().splitlines()) if row["kind"] == "segment"]
    assert sorted((float(r[keys[0]]), float(r[keys[1]]), r["label"]) for r in rows) == expected
    typed = [row for row in parquet.read_table(tmp_path / "o.parquet").to_pylist() if row["kind"] == "segment"]
    assert sorted(tuple(row[key] for key in keys) for row in typed) == expected
    for folder, mark in (("s", ","), ("v", ".")):
        (path,) = (tmp_path / folder).iterdir()
        cues = re.findall(r"(\S+) --> (\S+)\n(.*) \(\d+%\)", path.read_text().replace(mark, "."))
        assert [(seconds_of(start), seconds_of(end), label) for start, end, label in cues] == expected


def seconds_of(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 3)


def with_status(path: Path) -> dict[str, str]:
    return {Path(video["path"]).name: video["status"] for video in json.loads(path.read_text())["videos"]}


def test_all_outputs_say_the_same_and_are_the_same_each_time(model_path: Path, videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    names = OUTPUTS | {"parquet": "o.parquet"}
    for run, more in (("1", []), ("2", []), ("3", ["--inference.batch_size", "5"])):
        assert predict(model_path, videos, tmp_path / run, *more, names=names) == 1  # c.mp4 is no video
    first = written(tmp_path / "1")
    assert written(tmp_path / "2") == first
    words, numbers = words_and_numbers(first["o.json"])
    other_words, other_numbers = words_and_numbers(written(tmp_path / "3")["o.json"])
    assert other_words == words
    assert other_numbers == pytest.approx(numbers, abs=0.00101)  # a last bit may cross a rounding's edge
    stems = ("a", "b", "d")
    assert set(first) == {"o.json", "o.csv", "o.jsonl", "o.parquet"} | {
        name for stem in stems for name in (f"s/{stem}.srt", f"v/{stem}.vtt", f"annotated/{stem}.annotated.mp4")
    } | {f"pages/{stem}.html" for stem in stems}
    assert with_status(tmp_path / "1" / "o.json") == {"a.mp4": "ok", "b.mp4": "ok", "c.mp4": "error", "d.mp4": "ok"}
    (long, *_) = json.loads(first["o.json"])["videos"]
    assert len(long["windows"]) == 197
    assert len(long["segments"]) > 3
    rows = list(csv.DictReader(first["o.csv"].decode().splitlines()))
    assert sum(row["kind"] == "window" and row["path"].endswith("a.mp4") for row in rows) == 197
    assert first["s/a.srt"].decode().count("-->") == len(long["segments"])
    with open_video(tmp_path / "1" / "annotated" / "a.annotated.mp4") as ours, open_video(videos / "a.mp4") as theirs:
        assert ours.info.num_frames == theirs.info.num_frames
        assert ours.pts_seconds.tolist() == pytest.approx(theirs.pts_seconds.tolist(), abs=1e-4)


def test_the_model_runs_once_for_all_outputs(
    model_path: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    score = Model.score_windows
    monkeypatch.setattr(Model, "score_windows", lambda *args, **more: calls.append(1) or score(*args, **more))
    predict(model_path, videos / "b.mp4", tmp_path / "out")
    assert len(calls) == 1


def test_the_lines_come_while_the_video_runs(
    model_path: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    score = Model.score_windows

    def watched(*args: Any, **more: Any) -> Iterator[Any]:
        for scores in score(*args, **more):
            seen.append(len((tmp_path / "o.jsonl").read_text().splitlines()))
            yield scores

    monkeypatch.setattr(Model, "score_windows", watched)
    predict(model_path, videos / "a.mp4", tmp_path, names={"jsonl": "o.jsonl"})
    assert seen[:3] == [2, 3, 4]  # run, video, then a line a window
    assert len(seen) == 197


def test_lines_to_standard_output_are_all_there_is(
    model_path: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model_path), str(videos / "b.mp4"), "--jsonl", "-"]) == 0
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert (events[0], events[-1]) == ("run", "end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_complete_files(
    model_path: Path,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It comes at the sixth window of the first video; nothing of the second is begun."""
    prediction, calls = Model.prediction, []

    def interrupting(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), number)
        return prediction(*args)

    monkeypatch.setattr(Model, "prediction", interrupting)
    before = signal.getsignal(number)
    assert predict(model_path, videos, tmp_path / "out") == 128 + number
    assert signal.getsignal(number) is before
    assert "interrupted: 0 of 4 videos done" in capsys.readouterr().err
    run = json.loads((tmp_path / "out" / "o.json").read_text())
    assert run["status"] == "interrupted"
    assert with_status(tmp_path / "out" / "o.json") == {"a.mp4": "interrupted"}
    (video,) = run["videos"]
    assert len(video["windows"]) == 6
    assert video["segments"][-1]["end_seconds"] == video["windows"][-1]["end_seconds"]
    assert set(written(tmp_path / "out")) == {"o.json", "o.csv", "o.jsonl", "s/a.srt", "v/a.vtt", "pages/a.html"}
    assert json.loads((tmp_path / "out" / "o.jsonl").read_text().splitlines()[-1])["status"] == "interrupted"
    assert "interrupted" in (tmp_path / "out" / "pages" / "a.html").read_text()


def test_a_signal_while_the_picture_is_drawn_completes_the_video_so_far(
    model_path: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, calls = Writers.frame, []

    def interrupting(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        frame(*args)

    monkeypatch.setattr(Writers, "frame", interrupting)
    assert predict(model_path, videos, tmp_path / "out") == 143
    assert with_status(tmp_path / "out" / "o.json") == {"a.mp4": "interrupted"}
    with open_video(tmp_path / "out" / "annotated" / "a.annotated.mp4") as reader:
        assert reader.info.num_frames == 30
        assert len(list(reader)) == 30


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with StopRequest().listening() as stop:
        assert not stop
        assert stop.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert stop.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_video_that_breaks_off_keeps_what_was_seen(
    model_path: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Model.score_windows

    def breaking(self: Model, reader: Any, config: Any) -> Iterator[Any]:
        for count, scores in enumerate(score(self, reader, config)):
            if count == 5 and reader.info.path.name == "a.mp4":
                raise DecodeError(reader.info.path, "decode", "nothing but noise")
            yield scores

    monkeypatch.setattr(Model, "score_windows", breaking)
    assert predict(model_path, videos, tmp_path / "out") == 1
    long, short, *_ = json.loads((tmp_path / "out" / "o.json").read_text())["videos"]
    assert (long["status"], len(long["windows"])) == ("error", 5)
    assert long["segments"][-1]["end_seconds"] == long["windows"][-1]["end_seconds"]
    assert "nothing but noise" in long["error"]
    assert short["status"] == "ok"
    assert "nothing but noise" in (tmp_path / "out" / "pages" / "a.html").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("name", [name for name in FILES if name != "parquet"])
def test_a_full_disk_is_one_error_with_exit_code_2(
    model_path: Path, videos: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file being written is the device that is always full."""
    out = tmp_path / "out"
    out.mkdir()
    target = OUTPUTS[name]
    (out / target).symlink_to("/dev/full")
    assert predict(model_path, videos, out, names={name: target, "video": "annotated"}) == 2
    errors = capsys.readouterr().err
    assert f"{out / target}: cannot be written: the disk is full" in errors
    assert "Traceback" not in errors
    assert set(written(out)) <= {target, "annotated/a.annotated.mp4"}
    assert (out / target).is_symlink()


def test_a_bad_place_is_told_before_the_model_runs(
    model_path: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(Model, "score_windows", run)
    (tmp_path / "file").touch()
    for name in (*OUTPUTS, "stats"):
        assert predict(model_path, videos, tmp_path / "file", names={"csv": "../o.csv"} | {name: "below"}) == 2
        assert "a part of the path is a file" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"file", "videos"}


def test_thresholds_come_from_the_command_line(model_path: Path, videos: Path, tmp_path: Path) -> None:
    for name, more in (("all", []), ("sure", ["--timeline.enter_threshold", "1.0"])):
        out = tmp_path / name
        predict(model_path, videos / "a.mp4", out, *more, names={"json": "o.json"})
    counts = [len(json.loads((tmp_path / n / "o.json").read_text())["videos"][0]["segments"]) for n in ("all", "sure")]
    assert counts[0] > counts[1]
    more = ["--timeline.enter_threshold", "1.0", "--timeline.report_unknown", "true"]
    predict(model_path, videos / "a.mp4", tmp_path / "told", *more, names={"json": "o.json"})
    segments = json.loads((tmp_path / "told" / "o.json").read_text())["videos"][0]["segments"]
    assert "unknown" in {segment["label"] for segment in segments}


def test_two_videos_of_one_name_do_not_overwrite_each_other(model_path: Path, videos: Path, tmp_path: Path) -> None:
    (videos / "more").mkdir()
    (videos / "more" / "b.mp4").symlink_to((videos / "b.mp4").resolve())
    predict(model_path, videos, tmp_path / "out", names={"srt": "s"})
    names = {path.name for path in (tmp_path / "out" / "s").iterdir()}
    assert names == {"videos_a.mp4.srt", "videos_b.mp4.srt", "more_b.mp4.srt", "videos_d.mp4.srt"}


def test_a_name_that_is_no_text_is_written_all_the_same(model_path: Path, videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, source in ((b"caf\xe9.mp4", "b.mp4"), (b"bad\xff.mp4", "c.mp4")):
        (folder / os.fsdecode(name)).write_bytes((videos / source).read_bytes())
    assert predict(model_path, folder, tmp_path / "out", "--html_embed_mb", "0") == 1
    assert with_status(tmp_path / "out" / "o.json") == {"caf\ufffd.mp4": "ok", "bad\ufffd.mp4": "error"}
    (page,) = (tmp_path / "out" / "pages").glob("*.html")
    assert "caf%E9.mp4" in page.read_text() or "preview.mp4" in page.read_text()


def test_a_stream_has_a_score_a_frame_and_the_same_kind_of_segments(
    model_path: Path, videos: Path, tmp_path: Path
) -> None:
    for name, more in (("a", []), ("b", ["--inference.reset_seconds", "0.4"])):
        predict(
            model_path, videos / "a.mp4", tmp_path / name, "--inference.mode", "stream", *more, names={"json": "o.json"}
        )
    never, often = (json.loads((tmp_path / name / "o.json").read_text())["videos"][0] for name in "ab")
    assert [w["start_seconds"] for w in never["windows"]] == pytest.approx([k / 5 for k in range(200)])
    assert all(w["end_seconds"] - w["start_seconds"] == pytest.approx(0.2) for w in never["windows"])
    assert never["windows"] != often["windows"]
    edges = [edge for s in never["segments"] for edge in (s["start_seconds"], s["end_seconds"])]
    assert edges == sorted(edges)
    assert never["segments"]


def test_one_rule_says_which_files_of_a_folder_are_videos(tmp_path: Path) -> None:
    """``predict``, ``check`` and a training find the same."""
    for name in (
        "a/1.mp4",
        "a/._1.mp4",
        "a/.2.mp4",
        "a/3.QT",
        "a/4.txt",
        "a/.hidden/5.mp4",
        "a/deep/6.divx",
        "b/7.gif",
    ):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "videos" / "a" / "linked").symlink_to(tmp_path / "videos" / "b")
    (tmp_path / "videos" / "b" / "8.flc").write_bytes(b"x")
    folder = str(tmp_path / "videos")
    found = find_videos([folder])
    assert [path.name for path in map(Path, found)] == ["1.mp4", "3.QT", "6.divx", "7.gif"]
    assert list(find([folder]).files) == found
    data = DataConfig(root=str(tmp_path / "videos"))
    assert [row.path for row in read_annotations(data).splits["all"]] == found
    assert passed_over([folder]) == [
        f"in {folder} linked folders are not entered. 1: a/linked. Name them as well, if they are meant",
        f"in {folder} files are of kinds that are not read. 1: b/8.flc. Convert them, or take them out",
    ]


def test_a_list_names_sources_seen_from_its_folder(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/2.avi", "b/3.mp4", "b/notes.md"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    videos = tmp_path / "videos"
    listed = videos / "list.txt"
    listed.write_text("# ours\n\nb/3.mp4\na\nb/*.mp4\nmissing.mp4\n", encoding="utf-8-sig")
    found = find_videos([str(listed), str(videos / "a" / "1.mp4")])
    assert found == [videos / "b/3.mp4", videos / "a/1.mp4", videos / "a/2.avi", videos / "missing.mp4"]
    listed.write_text("http://example.org/v.mp4\n")
    with pytest.raises(UserError, match="only local files are read"):
        find_videos([str(listed)])
    assert find_videos([str(listed)], allow_url=True) == ["http://example.org/v.mp4"]
    listed.write_text("# nothing\n")
    with pytest.raises(UserError, match=r"list\.txt: no video there"):
        find_videos([str(listed)])
    listed.write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(UserError, match="cannot be read as a list"):
        find_videos([str(listed)])
