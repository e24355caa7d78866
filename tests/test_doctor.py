"""``clipgru doctor``: what it measures and what it advises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from pipeline import doctor
from pipeline.cli import main
from pipeline.config import DecodeConfig
from pipeline.decode import DECODERS
from pipeline.doctor import Findings, diagnose_decoders
from pipeline.errors import UserError
from pipeline.options import DoctorOptions


def findings(decoder: str, seconds: float, refused: int = 0, wrong: int = 0) -> Findings:
    files = [f"{number}.mp4" for number in range(4)]
    return Findings(
        decoder,
        num_exact=4 - refused - wrong,
        num_wrong=wrong,
        refused=dict.fromkeys(files[:refused], "not proven"),
        seconds=dict.fromkeys(files[refused:], seconds),
    )


def test_on_real_files(tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_data / "odd_videos"
    names = ["xvid_bf2.avi", "h264_gop12.mp4", "mpeg2.mpg", "trunc_faststart.mp4"]
    out = tmp_path / "doctor.json"
    args = ["doctor", *[str(folder / name) for name in names], "--rounds", "1", "--json", str(out)]
    assert main(args) == 1  # one cannot be read
    shown = capsys.readouterr()
    snippet = yaml.safe_load(shown.out)
    assert snippet["decode"] == {"decoder": "pyav", "isolate": True}
    assert "opencv refuses" in shown.err
    report = json.loads(out.read_text())
    assert [Path(path).name for path in report["unreadable"]] == ["trunc_faststart.mp4"]
    for found in (found for found in report["findings"] if not found["missing"]):
        assert found["num_wrong"] == 0
        assert found["num_exact"] + len(found["refused"]) == 3
        assert 20 < found["peak_memory_mb"] < 1000  # torchcodec brings torch with it
    assert set(report["frames_per_second"]) == set(DECODERS)


def test_a_decoder_that_gives_another_frame_is_told(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._truth

    def shifted(*args: object) -> object:
        truth = real(*args)  # type: ignore[arg-type]
        assert not isinstance(truth, str)
        later = {number - 1: frame for number, frame in truth.frames.items()}  # off by one
        return doctor._Truth(truth.path, truth.uniform, truth.chosen, later)

    monkeypatch.setattr(doctor, "_truth", shifted)
    diagnosis = diagnose_decoders([shared_data / "odd_videos" / "h264_gop12.mp4"], DecodeConfig(), rounds=1)
    assert all(found.num_wrong == 1 for found in diagnosis.findings if not found.missing)


def test_the_advice() -> None:
    pyav = findings("pyav", 1.0)
    assert doctor._choose([pyav, findings("decord", 0.95)])[0] == "pyav"
    assert doctor._choose([pyav, findings("decord", 0.5), findings("opencv", 0.7)])[0] == "decord"
    assert doctor._choose([pyav, findings("decord", 0.5, refused=1), findings("opencv", 0.7)])[0] == "opencv"
    assert doctor._choose([pyav, findings("decord", 0.5, wrong=1)])[0] == "pyav"
    assert doctor._choose([pyav, Findings("decord", missing="not installed")])[0] == "pyav"
    assert doctor._choose([findings("pyav", 1.0, refused=4)])[0] == "pyav"


def test_a_frame_is_told_from_its_neighbours_and_colours_may_be_rounded() -> None:
    frames = {number: torch.full((3, 8, 8), 10 + 4 * number, dtype=torch.uint8) for number in range(3)}
    truth = doctor._Truth(Path("x"), [1], [1], frames)
    assert doctor._is_frame(truth, 1, frames[1])
    assert doctor._is_frame(truth, 1, frames[1] + 1)
    assert not doctor._is_frame(truth, 1, frames[2])
    assert not doctor._is_frame(truth, 1, frames[1] + 3)
    assert not doctor._is_frame(truth, 2, frames[2] + 9)
    assert not doctor._is_frame(truth, 1, torch.zeros(3, 9, 8, dtype=torch.uint8))


def test_every_odd_file(shared_data: Path) -> None:
    """None is wrong, whatever is measured, and a change of size is told."""
    folders = [shared_data / "odd_videos", shared_data / "odd_real"]
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.stat().st_size < 300_000]
    diagnosis = diagnose_decoders(files, DecodeConfig(), rounds=1)
    assert all(found.num_wrong == 0 for found in diagnosis.findings), diagnosis.findings
    assert "resolution changes" in diagnosis.unreadable[str(folders[0] / "size_change.ts")]


def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="rounds must be at least 1"):
        DoctorOptions(rounds=0)
    assert main(["doctor", str(tmp_path)]) == 2
    assert "no video found" in capsys.readouterr().err
