"""Numbers for segments: chosen on validation videos alone, the same by a training and by the command, kept in the file
and used by whatever makes segments."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoint import load_model_file, read_description, save_model
from pipeline.cli import main
from pipeline.config import TimelineNumbers
from pipeline.datasets.settled import read_splits
from pipeline.timeline.tuning import numbers_by_length
from pipeline.training.fit import train
from tests.small import small_model
from tests.timelines import timeline_experiment


@pytest.fixture(scope="module", params=["several", "one"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up features, and a model trained on them; its answers come one frame late."""
    folder = tmp_path_factory.mktemp(request.param)
    train(timeline_experiment(folder, labels=request.param, delay_frames=1), quiet=True)
    return folder


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy that may be changed. It remembers the data of the training, which stay where they are."""
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


MODEL = Path("runs") / "small" / "model.safetensors"


def tune(home: Path, *more: str) -> int:
    return main(["tune-timeline", str(home / MODEL), "--quiet", *more])


def test_the_command_chooses_what_the_training_chose_and_changes_nothing_else(home: Path, tmp_path: Path) -> None:
    before, description = load_model_file(home / MODEL), read_description(home / MODEL)
    assert before.timeline is not None
    assert before.timeline.num_videos == 1
    assert len(before.timeline.enter_thresholds) == (2 if before.may_overlap else 0)
    save_model(home / MODEL, replace(before, timeline=TimelineNumbers(min_seconds=77.0)))
    content = (home / MODEL).read_bytes()
    assert tune(home, "--output", str(tmp_path / "tuned.safetensors")) == 0
    assert (home / MODEL).read_bytes() == content
    assert tune(home) == 0
    assert (home / MODEL).read_bytes() == (tmp_path / "tuned.safetensors").read_bytes()
    after = load_model_file(home / MODEL)
    assert after.timeline == before.timeline
    assert read_description(home / MODEL) | {"sha256": ""} == description | {"sha256": ""}
    for ours, theirs in zip(
        after.recognizer.state_dict().values(), before.recognizer.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert not [path for path in (home / MODEL).parent.iterdir() if path.suffix == ".tmp"]


def other_data(home: Path, rows: dict[str, str], parts: dict[str, str] | None = None) -> list[str]:
    """A folder with copies of features under new names, each with one stretch."""
    folder = home / "other"
    folder.mkdir()
    columns = "path,label,start_seconds,end_seconds" + (",split" if parts else "")
    lines = [columns]
    for name, source in rows.items():
        shutil.copy(home / source, folder / name)
        lines.append(f"{name},jump,2,6" + (f",{parts[name]}" if parts else ""))
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return ["--data.root", str(folder)]


@pytest.mark.parametrize(
    ("rows", "parts", "message"),
    [
        ({"x.npy": "7.npy"}, None, "1 of these are test videos of"),
        ({"x.npy": "6.npy", "y.npy": "6.npy"}, {"x.npy": "train", "y.npy": "test"}, "names no validation videos"),
        ({"x.npy": "0.npy"}, None, "there is nothing to judge the model by"),
    ],
)
def test_test_videos_and_those_that_it_was_trained_on_choose_nothing(
    home: Path, rows: dict[str, str], parts: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (home / MODEL).read_bytes()
    assert tune(home, *other_data(home, rows, parts)) == 2
    assert message in capsys.readouterr().err
    assert (home / MODEL).read_bytes() == content


def test_those_that_it_was_trained_on_are_left_out_by_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = other_data(home, {"new.npy": "6.npy", "seen.npy": "0.npy"})
    assert main(["tune-timeline", str(home / MODEL), *data]) == 0
    said = capsys.readouterr()
    assert "left out 1 of 2 videos: trained on, 1: seen.npy" in said.err
    assert json.loads(said.out)["num_videos"] == 1


def test_only_models_of_timelines_have_such_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "clips.safetensors", small_model())
    assert main(["tune-timeline", str(tmp_path / "clips.safetensors"), "--quiet"]) == 2
    assert "answers for clips" in capsys.readouterr().err


def segments(home: Path, *more: str) -> list[tuple[str, float]]:
    """Label and length of each that predict finds."""
    output = home / "answer.json"
    assert main(["predict", str(home / MODEL), str(home / "7.npy"), "--json", str(output), "--quiet", *more]) == 0
    (video,) = json.loads(output.read_text())["videos"]
    starts = [segment["start_seconds"] for segment in video["segments"]]
    assert starts == sorted(starts)
    return [(s["label"], s["end_seconds"] - s["start_seconds"]) for s in video["segments"]]


def test_the_numbers_in_the_file_hold_unless_others_are_given(home: Path) -> None:
    file = load_model_file(home / MODEL)
    save_model(home / MODEL, replace(file, timeline=TimelineNumbers(min_seconds=0.0)))
    plain = segments(home)
    assert len(plain) > 2
    save_model(home / MODEL, replace(file, timeline=TimelineNumbers(min_seconds=60.0)))
    assert len(segments(home)) <= 2  # no more than one of each label in 20 s
    assert segments(home, "--timeline.min_seconds", "0") == plain
    if not file.may_overlap:
        return
    save_model(home / MODEL, replace(file, timeline=TimelineNumbers((1.0, 0.0), 0.0)))
    assert segments(home) == [("run", pytest.approx(20.0, abs=1.0))]
    assert segments(home, "--timeline.enter_threshold", "0.5") == plain


def test_without_validation_videos_the_labelled_stretches_say_how_short_a_segment_may_be(tmp_path: Path) -> None:
    assert numbers_by_length([]) is None
    assert numbers_by_length([*[4.0] * 19, 0.1]) == TimelineNumbers(min_seconds=3.0)
    experiment = timeline_experiment(tmp_path, labels="one")
    experiment = replace(experiment, data=replace(experiment.data, val_fraction=0.0))
    splits = read_splits(experiment.data, experiment.seed, experiment.sequence)
    train(experiment, replace(splits, train=(*splits.train, *splits.val), val=()), quiet=True)
    lengths = [row.end_seconds - row.start_seconds for row in (*splits.train, *splits.val) if row.end_seconds]
    numbers = load_model_file(tmp_path / MODEL).timeline
    assert numbers == numbers_by_length(lengths)
    assert numbers is not None
    assert min(lengths) * 0.75 <= numbers.min_seconds < max(lengths)
