"""The programs in examples/ do what they say, each run as its own docstring shows."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from pipeline import load_model, open_video
from pipeline.checkpoint import save_model
from pipeline.config import DataConfig, ModelConfig, TrainingConfig
from pipeline.inference import Model
from tests.small import small_model

FOLDER = Path(__file__).parents[2] / "examples"
Run = Callable[..., list[str]]


@pytest.fixture
def run(motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example in a folder with a model and a video; returns the lines it printed."""
    save_model(tmp_path / "model.safetensors", small_model())
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    (tmp_path / "video.mp4").symlink_to(video)
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *words])
        capsys.readouterr()
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def the_model() -> Model:
    return load_model("model.safetensors")


def test_frames_are_those_of_the_video(run: Run) -> None:
    first, *lines = run("read_frames.py", "video.mp4", "--at", "0", "0.5", "1", "--output", "frames")
    with open_video("video.mp4") as video:
        expected = video.at([0.0, 0.5, 1.0])
        assert first.startswith(f"{video.info.num_frames} frames of 48x48")
    shown = [float(line.split()[-2]) for line in lines]
    assert shown == pytest.approx(expected.pts_seconds.tolist(), abs=1e-6)
    with Image.open("frames/0.500.png") as picture:
        assert picture.tobytes() == expected.frames[1].permute(1, 2, 0).numpy().tobytes()


def test_a_model_is_trained(run: Run, motion_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny backbone in the place of the one that takes seconds."""
    monkeypatch.setattr("pipeline.config.ModelConfig", partial(ModelConfig, backbone="tiny", weights="none"))
    monkeypatch.setattr("pipeline.config.TrainingConfig", partial(TrainingConfig, freeze_batch_norm=False))
    monkeypatch.setattr("pipeline.config.DataConfig", partial(DataConfig, num_workers=0))
    for label in ("moves_right", "moves_left"):
        clips = sorted(motion_root.glob(f"*/{label}/*.mp4"))[:4]
        assert clips
        for clip in clips:
            copy = Path("my_videos", label, f"{clip.parent.parent.name}_{clip.name}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, copy)
    *figures, path = run("train.py", "my_videos", "--name", "mine", "--epochs", "1")
    assert path == "runs/mine/model.safetensors"
    assert any(line.startswith("val_accuracy: ") for line in figures), figures
    assert load_model(path).labels == ("moves_left", "moves_right")


def test_the_timeline_is_that_of_the_model(run: Run) -> None:
    labels, *lines, cost = run("predict.py", "model.safetensors", "video.mp4")
    expected = list(the_model().segments("video.mp4"))
    assert labels == "labels: class 0, class 1, class 2"
    assert [line.split()[0] for line in lines] == [f"{segment.start_seconds:.2f}" for segment in expected]
    assert re.fullmatch(r"\d+ windows, \d+ frames through the backbone", cost)


def test_a_replayed_file_gives_the_windows_of_predict(run: Run) -> None:
    lines = run("watch_camera.py", "model.safetensors", "video.mp4", "--replay", "--fast")
    windows = [line.split()[2] for line in lines if line.split()[1] == "prediction"]
    expected = [f"{prediction.start_seconds:.2f}" for prediction in the_model().predict("video.mp4")]
    assert windows == expected
    assert any(" segment " in line for line in lines)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_wrong_words_are_told_in_a_line(path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """predict_onnx.py itself is run by test_onnx_file.py, without torch."""
    with pytest.raises(SystemExit) as no_words:
        run(path.name)
    assert no_words.value.code == 2
    assert f"usage: {path.name}" in capsys.readouterr().err
    words = {"read_frames.py": ["none.mp4"], "train.py": ["none"]}.get(path.name, ["none.safetensors", "none.mp4"])
    with pytest.raises(SystemExit) as wrong_words:
        run(path.name, *words)
    assert wrong_words.value.code == 2 or str(wrong_words.value.code).startswith("error: ")


def test_they_are_short_and_say_how_they_are_run() -> None:
    for path in FOLDER.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert f"    python examples/{path.name} " in text
        assert len(text.splitlines()) <= (70 if path.name == "predict_onnx.py" else 40), path.name
