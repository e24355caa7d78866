"""A model is judged by nothing that it has seen, and a run goes on with nothing but what it began with."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.checkpoint import load_model_file, save_model
from pipeline.cli import main
from pipeline.config import Experiment, to_yaml
from pipeline.datasets.settled import read_splits
from pipeline.errors import UserError
from pipeline.known_videos import KnownVideos
from pipeline.protocols.clips import run_protocol
from pipeline.training.fit import train
from pipeline.unseen import rows_to_judge
from tests.small import small_experiment


@pytest.fixture(scope="module")
def trained(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``videos/``, a class folder for each of 13 classes, and ``runs/small``, trained on them."""
    folder = tmp_path_factory.mktemp("unseen")
    shutil.copytree(motion_root / "train", folder / "videos")
    experiment = small_experiment(folder / "videos", folder / "runs", epochs=1)
    (folder / "config.yaml").write_text(to_yaml(experiment))
    assert main(["train", "--config", str(folder / "config.yaml"), "--quiet"]) == 0
    return folder


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be changed."""
    shutil.copytree(trained, tmp_path / "home")
    text = (tmp_path / "home" / "config.yaml").read_text().replace(str(trained), str(tmp_path / "home"))
    (tmp_path / "home" / "config.yaml").write_text(text)
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


MODEL = "runs/small/model.safetensors"


def add_ten(motion_root: Path, videos: Path) -> None:
    """Ten new videos in two classes: so many that the split of the rest changes."""
    for number, path in enumerate(sorted((motion_root / "test").rglob("*.mp4"))[:10]):
        shutil.copy(path, videos / ("background", "grows")[number % 2] / f"new {number // 2}.mp4")


def names_in(path: Path) -> set[str]:
    with path.open(newline="") as stream:
        return {row["name"] for row in csv.DictReader(stream)}


def known_names(model: Path) -> set[str]:
    videos = load_model_file(model).videos
    assert videos is not None
    return {video.name for video in (*videos.train, *videos.val)}


def test_after_the_folder_grew_nothing_is_judged_that_was_trained_on(
    home: Path, motion_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = known_names(home / MODEL)
    before = small_experiment(home / "videos", home)
    assert known == {row.name for part in ("train", "val") for row in getattr(read_splits(before.data, 0), part)}
    add_ten(motion_root, home / "videos")
    redrawn = {row.name for row in read_splits(before.data, 0).test}
    assert redrawn & known, "the split of the larger folder must differ, or this shows nothing"
    assert main(["evaluate", MODEL, "--data.root", "videos"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    judged, left_out = (names_in(home / f"runs/small/evaluation_test/{name}.csv") for name in ("videos", "left_out"))
    assert judged == redrawn - known
    assert left_out == redrawn & known
    assert summary["num_left_out"] == len(left_out)
    assert summary["num_videos"] == len(judged)
    assert f"left out {len(left_out)} of {len(redrawn)} videos: " in printed.err
    assert f"{len(left_out)} left out, which it had seen" in (home / "runs/small/report.html").read_text()


def test_renamed_and_copied_videos_are_known_elsewhere(
    home: Path, motion_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = load_model_file(home / MODEL).videos
    assert videos is not None
    copied = [home / "videos" / video.name for video in (videos.train[0], videos.val[0])]
    for number, path in enumerate(copied):
        (home / "other" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, home / "other" / path.parent.name / f"copy {number}.mp4")
    new = next((motion_root / "test" / "grows").iterdir())
    (home / "other" / "grows").mkdir()
    shutil.copy(new, home / "other" / "grows" / new.name)
    assert main(["evaluate", MODEL, "--data.root", "other", "--split", "all", "--output", "out"]) == 0
    assert json.loads(capsys.readouterr().out)["num_left_out"] == 2
    with (home / "out" / "left_out.csv").open(newline="") as stream:
        assert {row["why"] for row in csv.DictReader(stream)} == {"trained on", "validated on"}
    assert names_in(home / "out" / "videos.csv") == {f"grows/{new.name}"}
    shutil.rmtree(home / "other" / "grows")
    for command in ("evaluate", "diagnose"):
        assert main([command, MODEL, "--data.root", "other", "--split", "all", "--output", "none"]) == 2
        assert "there is nothing to judge the model by: left out 2 of 2 videos" in capsys.readouterr().err
    assert not (home / "none").exists()


def test_training_videos_are_looked_at_on_purpose_only(home: Path) -> None:
    model = load_model_file(home / MODEL)
    data = {"root": str(home / "videos")}
    on_purpose = rows_to_judge(model, data, "train")
    assert on_purpose.figures == {"num_trained_on": len(on_purpose.rows)}
    assert model.videos is not None
    assert len(on_purpose.rows) == len(model.videos.train)
    assert "were trained on" in on_purpose.notes[0]
    validation = rows_to_judge(model, data, "val")
    assert len(validation.rows) == len(model.videos.val)
    assert validation.left_out == ()
    every = rows_to_judge(model, data, "all")
    assert {row.name for row in every.rows} == {row.name for row in rows_to_judge(model, data, "test").rows}
    earlier_version = rows_to_judge(replace(model, videos=None), data, "test")
    assert earlier_version.left_out is None
    assert "does not say which videos it was trained on" in earlier_version.notes[0]


def test_a_model_that_starts_from_another_knows_its_videos_too(home: Path, motion_root: Path) -> None:
    others = small_experiment(motion_root / "test", home / "runs", epochs=1)
    others = replace(others, name="second", data=replace(others.data, val_fraction=0.0, test_fraction=0.4))
    others = replace(others, training=replace(others.training, initial_model=str(home / MODEL)))
    seen = known_names(home / MODEL)
    first = train(others, quiet=True)
    assert first.model.videos is not None
    assert {video.name for video in first.model.videos.earlier} == seen
    longer = replace(others, training=replace(others.training, epochs=2))
    resumed = train(longer, resume=True, quiet=True).model.videos
    assert resumed == first.model.videos
    for copied in sorted((home / "videos").rglob("*.mp4")):  # all of them, so that some are held out
        shutil.copytree(home / "videos", home / "moved", dirs_exist_ok=True)
        copied.unlink()
    leaking = replace(others, name="third", data=replace(others.data, root=str(home / "moved")))
    with pytest.raises(UserError, match="it has seen videos that are held out now: left out"):
        train(leaking, quiet=True)


def tree(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_resuming_with_other_settings_or_videos_is_refused_untouched(
    home: Path, motion_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--config", "config.yaml", "--resume"]
    before = tree(home / "runs")

    def refusal(*words: str) -> str:
        assert main([*command, *words]) == 2
        error = capsys.readouterr().err
        assert tree(home / "runs") == before
        assert "Traceback" not in error
        return error

    error = refusal("--seed", "7")
    assert "settings, 1: seed was 0, is 7" in error
    assert "gone in the training videos" in error
    error = refusal("--model.hidden_channels", "4", "--training.learning_rate", "0.5", "--data.batch_size", "4")
    assert all(
        words in error
        for words in ("model.hidden_channels was 8, is 4", "training.learning_rate was 0.001, is 0.5", "settings, 3: ")
    )
    assert "settings, 1: data.val_fraction was 0.15, is 0" in refusal("--data.val_fraction", "0")
    shutil.copytree(motion_root / "train", home / "elsewhere")
    next((home / "elsewhere" / "background").iterdir()).unlink()
    assert "gone in the training videos" in refusal("--data.root", "elsewhere")
    trained_on = sorted(video.name for video in load_model_file(home / MODEL).videos.train)[0]  # type: ignore[union-attr]
    content = (home / "videos" / trained_on).read_bytes()
    (home / "videos" / trained_on).write_bytes(content[:-1] + b"x")
    assert f"changed in the training videos, 1: {trained_on}" in refusal()
    (home / "videos" / trained_on).write_bytes(content)
    add_ten(motion_root, home / "videos")
    assert "new 0.mp4" in refusal()


@pytest.mark.parametrize(
    "change",
    [
        lambda e: replace(e, data=replace(e.data, num_workers=1, cache_max_gb=1.0, max_bad_fraction=0.5)),
        lambda e: replace(e, machine=replace(e.machine, accelerator="cpu", timeout_seconds=60.0)),
        lambda e: replace(e, decode=replace(e.decode, timeout_seconds=9.0)),
    ],
    ids=["data", "trainer", "decode"],
)
def test_where_and_how_fast_a_run_goes_may_change(
    home: Path, change: Callable[[Experiment], Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = small_experiment(home / "videos", home / "runs", epochs=1)
    before = (home / MODEL).read_bytes()
    train(change(experiment), resume=True)  # which has nothing left to train
    assert load_model_file(home / MODEL).recognizer.state_dict().keys()
    assert len((home / MODEL).read_bytes()) == pytest.approx(len(before), rel=0.01)
    assert "was" not in capsys.readouterr().err


def test_a_run_may_go_on_for_longer_with_videos_that_moved(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "videos").rename(home / "moved")
    words = ["--resume", "--training.epochs", "2", "--data.root", "moved"]
    assert main(["train", "--config", "config.yaml", *words]) == 0
    assert "training.epochs was 1, is 2" in capsys.readouterr().err
    assert "epochs: 2" in (home / "runs/small/config.yaml").read_text()
    assert (
        main(["train", "--config", "config.yaml", "--resume", "--data.root", "moved"]) == 2
    )  # for one epoch, as before
    assert "2 epochs are done, and training.epochs is 1" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "content"), [("config.yaml", "- 1"), ("config.yaml", "a: ["), ("data.json", "{")])
def test_a_run_whose_files_are_damaged_is_not_resumed(home: Path, file: str, content: str) -> None:
    (home / "runs/small" / file).write_text(content)
    with pytest.raises(UserError, match=rf"{file}: .*cannot be resumed"):
        train(small_experiment(home / "videos", home / "runs", epochs=1), resume=True, quiet=True)


def test_a_damaged_checkpoint_is_one_line(home: Path) -> None:
    checkpoint = home / "runs/small/checkpoints/last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match="a damaged checkpoint"):
        train(small_experiment(home / "videos", home / "runs", epochs=1), resume=True, quiet=True)


def test_other_labels_are_other_data(home: Path) -> None:
    experiment = small_experiment(home / "videos", home / "runs", epochs=1)
    splits = read_splits(experiment.data, experiment.seed)
    relabelled = replace(splits, train=(replace(splits.train[0], label=splits.labels[-1]), *splits.train[1:]))
    for other in (relabelled, replace(splits, train=splits.train[::-1])):
        with pytest.raises(UserError, match="labels, or the order of videos"):
            train(experiment, other, resume=True, quiet=True)


def test_folds_of_a_folder_that_grew_are_refused(home: Path, motion_root: Path) -> None:
    experiment = small_experiment(home / "videos", home / "runs", epochs=1)
    experiment = replace(experiment, name="folds", data=replace(experiment.data, val_fraction=0.0))
    first = next(run_protocol(experiment, "own_split", quiet=True))
    assert next(run_protocol(experiment, "own_split", quiet=True)) == first
    add_ten(motion_root, home / "videos")
    with pytest.raises(UserError, match="holds folds of other videos"):
        next(run_protocol(experiment, "own_split", quiet=True))


def test_copies_of_training_videos_are_left_out_of_a_fold(home: Path) -> None:
    experiment = small_experiment(home / "videos", home / "runs", epochs=1)
    splits = read_splits(experiment.data, experiment.seed)
    copied, replaced = splits.train[0], next(row for row in splits.test if row.label == splits.train[0].label)
    shutil.copy(copied.path, replaced.path)
    experiment = replace(experiment, name="folds")
    for _ in range(2):  # the second time from the disk
        (fold,) = run_protocol(experiment, "own_split", quiet=True)
        assert [left.name for left in fold.evaluation.left_out or ()] == [replaced.name]
        assert replaced.name not in {result.name for result in fold.evaluation.results}
        assert fold.evaluation.summary()["num_left_out"] == 1


def test_a_model_file_with_a_lie_about_its_videos_is_refused(home: Path) -> None:
    model = load_model_file(home / MODEL)
    path = home / "lie.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KnownVideos, "to_json", lambda _: {"train": "", "val": "eJw=", "earlier": ""})
        save_model(path, model)
    with pytest.raises(UserError, match="videos"):
        load_model_file(path)
