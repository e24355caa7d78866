"""One file in ten is broken, each in its own way: the run ends as usual, and the report has each with its cause."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import videos
from small import small_experiment

from pipeline.config import DecodeConfig
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


@pytest.mark.parametrize("isolate", [False, True])
def test_training_on_a_folder_with_broken_files(tmp_path: Path, isolate: bool) -> None:
    source = videos.encode(tmp_path, "mpeg4.mp4")
    assert source is not None
    whole = source.read_bytes()
    for number in range(100):
        path = tmp_path / "videos" / f"class{number % 2}" / f"{number:03}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(list(BREAK)[number // 10](whole) if number % 10 == 0 else whole)
    experiment = small_experiment(tmp_path / "videos", tmp_path / "runs", epochs=1)
    data = replace(experiment.data, val_fraction=0.1, test_fraction=0.1, max_bad_fraction=0.2)
    experiment = replace(experiment, data=data, decode=DecodeConfig(isolate=isolate))
    result = train(experiment, quiet=True)
    assert result.model_path.is_file()
    with (experiment.run_dir / "bad_videos.csv").open() as stream:
        report = {Path(row["path"]).name: row for row in csv.DictReader(stream)}
    assert len(report) >= 5  # those not in the test part
    for name, row in report.items():
        assert int(name[:3]) % 10 == 0
        assert list(BREAK.values())[int(name[:3]) // 10] in f"{row['stage']}: {row['cause']}"
        assert int(row["times"]) >= 1
