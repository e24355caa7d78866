"""``clipgru check``: files, annotations, duplicates, and the exit code."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import av
import pytest
import videos

from pipeline.cli import main
from pipeline.config import DecodeConfig
from pipeline.duplicates import same_bytes
from pipeline.options import CheckOptions

HERE = DecodeConfig(timeout_seconds=30)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four different clips, and the second of them again in another size and encoding."""
    folder = tmp_path_factory.mktemp("clips")
    made = {}
    for first, name in enumerate(["one", "two", "three", "four"]):
        made[name] = write_clip(folder / f"{name}.mp4", range(60 * first, 60 * first + 60), 128, 96, "mpeg4")
    made["two again"] = write_clip(folder / "two again.mkv", range(60, 120), 160, 120, "libx264")
    return made


def write_clip(path: Path, numbers: range, width: int, height: int, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24")
            container.mux(stream.encode(frame.reformat(width, height, "yuv420p")))
        container.mux(stream.encode())
    return path


def check(folder: Path, *args: str) -> tuple[int, dict[str, list[object]]]:
    report = folder / "report.json"
    code = main(["check", "--quiet", "--workers", "2", "--json", str(report), *args])
    return code, json.loads(report.read_text())


def test_a_good_folder(tmp_path: Path, clips: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(clips["one"], tmp_path / "a.mp4")
    assert main(["check", str(tmp_path), "--all"]) == 0
    shown = capsys.readouterr().err
    assert "1 files: 1 usable, 0 degraded, 0 unusable" in shown
    assert "60 of 60" in shown


def test_bad_files_are_told_and_counted(tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_data / "odd_videos"
    names = ["two_frames.mp4", "trunc.avi", "zero.mp4", "bomb_30000x30000.png"]
    table = tmp_path / "report.csv"
    assert main(["check", *[str(folder / name) for name in names], "--csv", str(table)]) == 1
    assert "4 files: 1 usable, 1 degraded, 2 unusable" in capsys.readouterr().err
    with table.open() as stream:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(stream)}
    assert [rows[name]["verdict"] for name in names] == ["usable", "degraded", "unusable", "unusable"]
    assert rows["trunc.avi"]["reasons"].startswith("cut off: the header announces 250 frames")
    assert rows["two_frames.mp4"]["num_frames"] == "2"


def test_a_manifest(tmp_path: Path, clips: dict[str, Path]) -> None:
    for name in ("one", "two", "three", "two again"):
        shutil.copy(clips[name], tmp_path / clips[name].name)
    shutil.copy(clips["one"], tmp_path / "copy.mp4")
    (tmp_path / "manifest.csv").write_text(
        "path,label,group,split\none.mp4,jump,a,train\ntwo.mp4,run,b,train\ntwo again.mkv,run,c,test\n"
        "copy.mp4,run,a,test\ngone.mp4,jump,d,train\n"
    )
    code, report = check(tmp_path, str(tmp_path / "manifest.csv"))
    assert code == 1
    assert [Path(str(path)).name for path in report["labels_without_file"]] == ["gone.mp4"]
    assert [Path(str(path)).name for path in report["files_without_label"]] == ["three.mp4"]
    assert names_of(report["same_bytes"]) == [{"one.mp4", "copy.mp4"}]
    assert names_of(report["same_pictures"]) == [{"two.mp4", "two again.mkv"}]
    assert names_of(report["leaks"]) == [{"one.mp4", "copy.mp4"}, {"two.mp4", "two again.mkv"}]
    assert report["shared_groups"] == ["a"]
    assert report["class_counts"] == {"train": {"jump": 2, "run": 1}, "test": {"run": 2}}
    assert report["counts"] == {"usable": 5, "degraded": 0, "unusable": 0}


def names_of(groups: list[object]) -> list[set[str]]:
    return [{Path(path).name for path in group} for group in groups]  # type: ignore[attr-defined]


def test_a_config(tmp_path: Path, clips: dict[str, Path]) -> None:
    for number, name in enumerate(("one", "two", "three", "four")):
        path = tmp_path / "videos" / f"class{number % 2}" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips[name], path)
    config = tmp_path / "experiment.yaml"
    config.write_text(f"name: x\ndata:\n  format: folder\n  root: {tmp_path / 'videos'}\n  val_fraction: 0\n")
    code, report = check(tmp_path, str(config))
    assert code == 0
    assert report["class_counts"] == {"all": {"class0": 2, "class1": 2}}
    assert not report["files_without_label"]
    config.write_text(f"data:\n  format: ucf101\n  root: {tmp_path / 'videos'}\n")
    code, report = check(tmp_path, str(config))
    assert code == 1
    assert len(report["problems"]) == 1
    assert report["counts"] == {"usable": 4, "degraded": 0, "unusable": 0}  # the files are checked all the same


def test_wrong_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.yaml").write_text("- 1\n")
    for path, message in [
        ("missing.mp4", "does not exist"),
        ("", "no video found"),
        ("no.yaml", "no experiment config"),
    ]:
        assert main(["check", str(tmp_path / path)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(Exception, match="workers must be at least 1"):
        CheckOptions(workers=0)


def test_files_of_equal_size_need_not_be_equal(tmp_path: Path) -> None:
    for name, content in [("a", b"xyz"), ("b", b"xyy"), ("c", b"xyz"), ("d", b""), ("e", b"")]:
        (tmp_path / name).write_bytes(content)
    groups = same_bytes([tmp_path / name for name in "abcde"])
    assert names_of(list(groups)) == [{"a", "c"}]


def test_different_clips_of_one_camera_are_no_duplicates(tmp_path: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "ut_interaction" / "set1").glob("*_1_*.avi"))
    assert len(paths) == 6
    code, report = check(tmp_path, *map(str, paths))
    assert code == 0
    assert report["same_pictures"] == report["same_bytes"] == []
