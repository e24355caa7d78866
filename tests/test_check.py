"""``clipgru check``: files, annotations, duplicates, and the exit code."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from PIL import Image

from pipeline.cli import main
from pipeline.config import DataConfig, DecodeConfig
from pipeline.datasets.settled import read_splits
from pipeline.duplicates import same_bytes
from pipeline.found import find
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


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("data: {root: [a]}", "data.root"),
        ("data: {root: 5}", "data.root"),
        ("data: {root: ., format: [x]}", "data.format"),
        ("data: {root: ., annotations: [x]}", "data.annotations"),
        ("seed: .inf\ndata: {root: .}", "seed"),
        ('data: {root: "a\\0b"}', "data.root is no path: it has a zero byte"),
        ('data: {root: ., annotations: "a\\0b"}', "data.annotations is no path: it has a zero byte"),
        ("data: " + 5000 * "[", "nested too deep"),
        ("data: " + 3000 * "{a: ", "nested too deep"),
        ("data: {root: &a [x], annotations: *a}", "aliases"),
        ("name: x", "it has no data section"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_line(
    tmp_path: Path, config: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(config)
    assert main(["check", str(tmp_path / "c.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "c.yaml" in line or "data." in line
    assert said in line


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
    data = config.read_text()
    config.write_text(f"{data}model:\n  backbone: r3d_18\ntransform:\n  input_frames: 16\n")
    code, report = check(tmp_path, str(config))
    assert code == 0
    assert "r3d_18 reads 16 frames for the features of each grid frame" in report["trainings"][0]["notes"][-1]  # type: ignore[index]
    config.write_text(f"data:\n  format: ucf101\n  root: {tmp_path / 'videos'}\n")
    code, report = check(tmp_path, str(config))
    assert code == 1
    assert len(report["problems"]) == 1
    assert report["counts"] == {"usable": 4, "degraded": 0, "unusable": 0}  # the files are checked all the same


def test_it_says_what_a_training_would_see(
    tmp_path: Path, clips: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows as ``train`` reads, of a folder, a manifest and a config with a seed."""
    for part, names in {"Training": ("one", "two"), "Valid": ("three", "four"), "extra": ("one",)}.items():
        for number, name in enumerate(names):
            path = tmp_path / "videos" / part / f"class{number}" / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clips[name], path)
    code, report = check(tmp_path, str(tmp_path / "videos"))
    (seen,) = report["trainings"]
    assert code == 0
    assert seen["labels"] == ["class0", "class1"]
    assert seen["class_counts"] == {part: {"class0": 1, "class1": 1} for part in ("train", "val")}
    assert seen["notes"] == ["folders beside Training, Valid are not read. 1: extra (1 file)"]
    assert main(["check", str(tmp_path / "videos")]) == 0
    shown = capsys.readouterr().err
    assert "a training would see 2 classes" in shown
    assert ["class0", "1", "1"] in [line.replace("│", " ").split() for line in shown.splitlines()]
    assert "unusable files are in these counts" not in shown
    (tmp_path / "videos" / "Valid" / "class1" / "cut.mp4").write_bytes(b"")
    assert main(["check", str(tmp_path / "videos")]) == 1
    assert "unusable files are in these counts, and left out" in capsys.readouterr().err
    (tmp_path / "videos" / "Valid" / "class1" / "cut.mp4").unlink()
    shutil.rmtree(tmp_path / "videos" / "Training" / "class1")
    config = tmp_path / "experiment.yaml"
    config.write_text(f"seed: 3\ndata:\n  root: {tmp_path / 'videos'}\n  val_fraction: 0\n")
    code, report = check(tmp_path, str(config))
    assert code == 1
    assert report["problems"] == [report["trainings"][0]["refused"]]
    assert "training side of the split has no video of some classes. 1: class1" in report["problems"][0]


def test_the_splits_are_those_of_a_training_with_that_seed(tmp_path: Path, clips: dict[str, Path]) -> None:
    for number in range(8):
        path = tmp_path / "videos" / f"class{number % 2}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips["one"], path)
    config = tmp_path / "experiment.yaml"
    config.write_text(f"seed: 5\ndata:\n  root: {tmp_path / 'videos'}\n  test_fraction: 0.3\n")
    found = find([str(config)]).trainings[0].class_counts
    splits = read_splits(DataConfig(root=str(tmp_path / "videos"), test_fraction=0.3), 5)
    for part in ("train", "val", "test"):
        assert sum(found[part].values()) == len(getattr(splits, part)) > 0


@pytest.mark.parametrize(
    ("unit", "cause"),
    [(25, "taken as frame numbers"), (1000, "taken as milliseconds"), (10_000, "films that these files")],
)
def test_rows_outside_their_file_are_named_with_the_likely_cause(
    tmp_path: Path, clips: dict[str, Path], unit: int, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of 2.4 s; of each four rows, one is outside, one too long, two are right."""
    shutil.copy(clips["one"], tmp_path / "a.mp4")
    shutil.copy(clips["two"], tmp_path / "b.mp4")
    lines = ["path,label,start_seconds,end_seconds"]
    for name in ("a.mp4", "b.mp4"):
        lines += [f"{name},x,{1.5 * unit},{2.2 * unit}", f"{name},y,0,{1.8 * unit}", f"{name},x,0,2.5", f"{name},y,1,"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    code, report = check(tmp_path, str(tmp_path / "manifest.csv"))
    assert code == 1
    assert [str(row).partition(":")[0] for row in report["rows_outside"]] == ["a.mp4", "b.mp4"]
    assert len(report["rows_cut_off"]) == 2
    assert cause in str(report["likely_cause"])
    assert report["problems"] == [
        "2 of 8 rows cannot be read, more than data.max_bad_fraction 0.05: a training would end"
    ]
    main(["check", str(tmp_path / "manifest.csv")])
    shown = capsys.readouterr().err
    assert all(words in shown for words in ("rows outside their file; ", cause))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder as CIFAR-10's: ten pictures, of which one is damaged and one is in both parts."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    for name in (f"{part}/{label}/{number}.png" for part in ("train", "test") for label in "ab" for number in range(3)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
    (folder / "train/b/0.png").write_bytes(b"no picture")
    shutil.copy(folder / "train/a/1.png", folder / "test/a/2.png")
    return folder


def archive_of(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder.with_suffix("")), "zip", folder))


@pytest.mark.parametrize("kind", ["folder", "archive", "config"])
def test_pictures_are_examined(tmp_path: Path, pictures: Path, kind: str) -> None:
    root = archive_of(pictures) if kind == "archive" else pictures
    config = tmp_path / "experiment.yaml"
    config.write_text(f"data:\n  format: images\n  root: {root}\n  max_bad_fraction: 0.2\n  val_fraction: 0\n")
    code, report = check(tmp_path, str(config) if kind == "config" else str(root))
    assert code == 1
    assert report["counts"] == {"usable": 11, "degraded": 0, "unusable": 1}
    (bad,) = (file for file in report["files"] if file["verdict"] == "unusable")  # type: ignore[index]
    assert bad["path"] == str(root / "train/b/0.png")  # type: ignore[index]
    assert "no picture of a known kind" in bad["reasons"][0]  # type: ignore[index]
    assert {(file["width"], file["height"], file["num_frames"]) for file in report["files"]} == {(32, 32, 1), (0, 0, 0)}  # type: ignore[index]
    twice = [str(root / "test/a/2.png"), str(root / "train/a/1.png")]
    assert [sorted(group) for group in report["same_bytes"]] == [twice]  # type: ignore[type-var]
    assert [sorted(pair) for pair in report["leaks"]] == [twice]  # type: ignore[type-var]
    assert not report["labels_without_file"]
    assert report["class_counts"] == {"test": {"a": 3, "b": 3}, "train": {"a": 3, "b": 3}}


def test_limits_hold_for_pictures(tmp_path: Path, pictures: Path) -> None:
    _, report = check(tmp_path, str(pictures), "--decode.max_pixels", "1000")
    assert report["counts"] == {"usable": 0, "degraded": 0, "unusable": 12}


def test_good_pictures_are_good(tmp_path: Path, pictures: Path) -> None:
    (pictures / "train/b/0.png").unlink()
    code, report = check(tmp_path, str(pictures))
    assert (code, report["problems"]) == (0, [])
    (training,) = report["trainings"]
    assert training["class_counts"]["test"] == {"a": 3, "b": 3}  # type: ignore[index]


def test_pictures_outside_a_class_are_a_problem(tmp_path: Path, pictures: Path) -> None:
    shutil.copy(pictures / "train/a/1.png", pictures / "train/1.png")
    code, report = check(tmp_path, str(pictures))
    assert code == 1
    assert "outside a class folder" in str(report["problems"])


def test_wrong_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.yaml").write_text("- 1\n")
    for path, message in [
        ("missing.mp4", "does not exist"),
        ("", "no video or picture found"),
        ("no.yaml", "no.yaml: must be a mapping"),
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
