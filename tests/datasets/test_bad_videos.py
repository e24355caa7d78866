"""One file in ten is broken, each in its own way: the run ends as usual, and the report has each with its cause."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import videos
from small import small_experiment

from pipeline.config import DecodeConfig
from pipeline.errors import UserError
from pipeline.run_report.page import write_report
from pipeline.training.fit import train


def zeroed(whole: bytes, start: float, stop: float) -> bytes:
    a, b = int(len(whole) * start), int(len(whole) * stop)
    return whole[:a] + bytes(b - a) + whole[b:]


# How a file is broken -> what its report must say.
BREAK: dict[Callable[[bytes], bytes], str] = {
    lambda _: b"": "empty",
    lambda whole: whole[: len(whole) // 2]: "moov",
    lambda whole: bytes(len(whole)): "full of zeros",
    lambda whole: os.urandom(len(whole)): "no video at all",
    lambda _: b"<!DOCTYPE html><html><body>404 Not Found</body></html>": "web page",
    lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "git lfs pull",
    lambda _: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n": "playlist",
    lambda whole: whole[:40]: "moov",
    lambda whole: zeroed(whole, 0.1, 0.6): "decode: ",
    lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100): "single picture",
}


def write_videos(folder: Path) -> None:
    """100 videos of two classes and their manifest: 80 to train on with all ten broken ones, 10 to validate, 10 to
    test."""
    source = videos.encode(folder, "mpeg4.mp4")
    assert source is not None
    whole = source.read_bytes()
    lines = ["path,label,split"]
    for number in range(100):
        is_broken, tens = number % 10 == 0, number // 10
        path = folder / f"{number:03}.mp4"
        path.write_bytes(list(BREAK)[tens](whole) if is_broken else whole)
        split = {8: "val", 9: "test"}.get(number % 10, "train")
        lines.append(f"{path.name},class{tens % 2},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("isolate", [False, True])
def test_training_on_a_folder_with_broken_files(tmp_path: Path, isolate: bool) -> None:
    (tmp_path / "videos").mkdir()
    write_videos(tmp_path / "videos")
    experiment = small_experiment(tmp_path / "videos", tmp_path / "runs", epochs=1)
    data = replace(experiment.data, format="manifest", max_bad_fraction=0.2)
    experiment = replace(experiment, data=data, decode=DecodeConfig(isolate=isolate))
    result = train(experiment, quiet=True)
    assert result.model_path.is_file()
    with (experiment.run_dir / "bad_videos.csv").open() as stream:
        report = {Path(row["path"]).name: row for row in csv.DictReader(stream)}
    assert list(report) == [f"{10 * tens:03}.mp4" for tens in range(10)]
    for row, cause in zip(report.values(), BREAK.values(), strict=True):
        assert cause in f"{row['stage']}: {row['cause']}"
        assert int(row["times"]) >= 1


def test_rows_outside_their_file_count_as_rows(tmp_path: Path) -> None:
    """Of each file three rows are right and one begins after its end: a quarter cannot be read, of every file."""
    (tmp_path / "videos").mkdir()
    source = videos.encode(tmp_path, "mpeg4.mp4")
    assert source is not None
    lines = ["path,label,start_seconds,end_seconds,split"]
    for number in range(6):
        name, part = f"{number}.mp4", "train" if number < 4 else "val"
        shutil.copy(source, tmp_path / "videos" / name)
        rows = [("class0", 0, 0.8), ("class1", 0.8, 1.6), ("class0", 1.6, 2.0), ("class1", 500, 600)]
        lines += [f"{name},{label},{start},{end},{part}" for label, start, end in rows]
    (tmp_path / "videos" / "manifest.csv").write_text("\n".join(lines) + "\n")
    experiment = small_experiment(tmp_path / "videos", tmp_path / "runs", epochs=1)
    experiment = replace(experiment, data=replace(experiment.data, format="manifest", max_bad_fraction=0.3))
    train(experiment, quiet=True)
    report = (experiment.run_dir / "bad_videos.csv").read_text().splitlines()
    assert len(report) == 1 + 6
    assert all("starts at 500.0 s, after its end" in line and "are the times frames" in line for line in report[1:])
    assert "6 videos could not be read" in write_report(experiment.run_dir).read_text()
    strict = replace(experiment, name="strict", data=replace(experiment.data, max_bad_fraction=0.2))
    with pytest.raises(UserError, match="6 of 24 videos cannot be read"):
        train(strict, quiet=True)
