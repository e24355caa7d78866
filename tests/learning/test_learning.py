"""Few examples: a model that works, folds that keep sources together, an expectation that is not flattered."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cli import main
from pipeline.confidence import wilson_interval
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.folders import read_folder
from pipeline.datasets.motion_files import write_video
from pipeline.datasets.videos import whole_grid
from pipeline.errors import UserError
from pipeline.inference import load_model
from pipeline.learning import candidates, trials
from pipeline.learning.candidates import CANDIDATES, shared_experiment
from pipeline.learning.choice import Choice, HeldOut, cross_validate, num_folds_for
from pipeline.learning.features import VideoFeatures, embed_videos
from pipeline.learning.heads import loss_and_right
from pipeline.learning.trials import Trial, run_trials
from pipeline.models.recognizer import Recognizer
from pipeline.options import LearnOptions
from pipeline.training.module import ClipClassifier
from pipeline.transforms.frames import ClipTransform
from pipeline.unseen import rows_to_judge

COLOURS = {"blue": (40, 60, 200), "red": (200, 50, 40)}


def make_video(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.clip(rng.normal(colour, 30, (10, 48, 48, 3)), 0, 255).astype(np.uint8)
    write_video(path, frames, 8, intra=True)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("colours")
    for place, (label, colour) in enumerate(COLOURS.items()):
        for number in range(5):
            make_video(root / label / f"{number}.mp4", colour, 10 * place + number)
    return root


def test_a_model_is_learnt_from_five_videos_a_class(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every candidate is tried, a broken file is named, and the model knows new videos."""
    monkeypatch.setattr(candidates, "_NUM_STEPS", 15)
    (colours / "red" / "broken.mp4").write_bytes(b"not a video")
    output = tmp_path / "m.safetensors"
    options = ["--output", str(output), "--num_folds", "2", "--num_seeds", "1"]
    assert main(["learn", str(colours), *options]) == 1  # one was left out
    (colours / "red" / "broken.mp4").unlink()
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert [Path(name).name for name in answer["left_out"]] == ["broken.mp4"]
    assert all(name in printed.err for name in (*CANDIDATES, "broken.mp4", f"written: {output}"))
    assert answer["expected_accuracy"] > 0.9
    assert answer["classes_of_one_source"] == []
    model = load_model(output, "cpu")
    assert model.labels == tuple(COLOURS)
    for place, (label, colour) in enumerate(COLOURS.items()):
        make_video(tmp_path / "new.mp4", colour, 100 + place)
        (prediction,) = model.predict(tmp_path / "new.mp4")
        assert prediction.label == label
        assert prediction.score > 0.7
    assert model.file.calibration.unknown_threshold is not None
    assert model.file.videos is not None
    assert {video.name for video in model.file.videos.train} == {
        f"{label}/{k}.mp4" for label in COLOURS for k in range(5)
    }
    for part, message in [
        ("test", "data.test_fraction 0 "),
        ("all", "nothing to judge the model by: left out 10 of 10"),
    ]:
        assert main(["evaluate", str(output), "--split", part]) == 2
        assert message in capsys.readouterr().err
    assert len(rows_to_judge(model.file, {}, "train").rows) == 10


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_learns_from_what_its_own_network_makes_of_a_video(colours: Path, name: str) -> None:
    shared = shared_experiment(str(colours), LearnOptions(), 8, 4)
    experiment = CANDIDATES[name](shared)
    annotations = read_folder(colours)
    rows = annotations.splits["all"][:1]
    ((video,), bad) = embed_videos(shared, rows, annotations.labels, lambda: None)
    assert not bad
    (batch,) = make_loader(rows, annotations.labels, experiment.clips, whole_grid)
    network = Recognizer(experiment.model, 2).eval()
    pictures = ClipTransform(experiment.transform, network.backbone.normalization).evaluate(batch.frames)[0]
    with torch.inference_mode():
        expected = network.embed(pictures)
    given = video.of(experiment)
    assert len(given) == len(expected)
    torch.testing.assert_close(given.float(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.usefixtures("quick_learn")
def test_a_class_of_one_recording_is_learnt_but_nothing_is_promised(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five clips of one recording of red: there is nothing to hold out, and a user with no more wants a model too."""
    for number, path in enumerate(sorted((colours / "red").glob("?.mp4"))):
        (tmp_path / "videos" / "red").mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / "red" / f"v_red_g01_c{number:02}.mp4").write_bytes(path.read_bytes())
    (tmp_path / "videos" / "blue").symlink_to(colours / "blue")
    output = tmp_path / "m.safetensors"
    options = ["--output", str(output), "--num_folds", "2", "--num_seeds", "1"]
    assert main(["learn", str(tmp_path / "videos"), *options]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["classes_of_one_source"] == ["red"]
    assert not [name for name in answer if name.startswith("expected_accuracy")]
    assert "all videos of red are cut from one recording a class" in printed.err
    assert "how often it is right on new recordings is not known" in printed.err
    assert not [name for name in load_model(output, "cpu").file.metrics if name.startswith("expected_accuracy")]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"only": 3}, "one class only, only"),
        ({"a": 3, "b": 1}, r"too few of b \(1\)"),
        ({}, "no video found"),
    ],
    ids=str,
)
def test_what_cannot_be_learnt_is_told(
    tmp_path: Path, tree: dict[str, int], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, count in tree.items():
        for number in range(count):
            make_video(tmp_path / label / f"{number}.mp4", (90, 90, 90), number)
    assert main(["learn", str(tmp_path), "--output", str(tmp_path / "m.safetensors")]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "m.safetensors").exists()


def videos_of(groups: dict[str, list[str]]) -> list[VideoFeatures]:
    return [
        VideoFeatures(VideoRow(Path(f"{label}{number}.mp4"), label, group), {})
        for label, named in groups.items()
        for number, group in enumerate(named)
    ]


def test_folds_keep_the_clips_of_a_source_together(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = videos_of({"a": ["s1", "s1", "s2", "s2", "s3"], "b": ["t1", "t2", "t2", "t3", "t3"]})
    assert num_folds_for(videos, 5) == 3
    trained: list[set[str]] = []

    def fit_head(experiment: object, labels: object, some: list[VideoFeatures]) -> set[str]:
        trained.append({video.row.group for video in some})
        return trained[-1]

    def scores_of(known: set[str], labels: list[str], some: list[VideoFeatures]) -> tuple[torch.Tensor, ...]:
        assert not known & {video.row.group for video in some}
        truth = torch.tensor([labels.index(video.row.label) for video in some])
        return torch.nn.functional.one_hot(truth, 2) * 9.0, truth, torch.arange(len(some))

    monkeypatch.setattr(trials, "fit_head", fit_head)
    monkeypatch.setattr(trials, "scores_of", scores_of)
    experiments = {"x": shared_experiment("", LearnOptions(), 8, 8)}
    found = cross_validate(experiments, ["a", "b"], videos, 3, 2, lambda: None)
    assert len(trained) == 6
    assert found.held_out["x"].right.tolist() == [1.0] * 10
    assert len(found.held_out["x"].truth) == 20


def test_the_best_of_many_guessers_is_not_expected_to_do_better_than_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    guesses = {str(number): (torch.rand(40, generator=generator) < 0.5).float() for number in range(30)}
    empty = torch.zeros(0)
    found = Choice(
        {name: HeldOut(1 - right, right, empty, empty) for name, right in guesses.items()},
        tuple(str(place) for place in range(40)),
    )
    assert float(found.held_out[found.best].right.mean()) > 0.62  # looks like skill
    accuracy, low, high = found.expected_accuracy()
    assert accuracy == pytest.approx(0.5, abs=0.08)
    assert low < 0.5 < high
    sure = Choice({"x": HeldOut(torch.zeros(40), torch.ones(40), empty, empty)}, found.groups)
    assert sure.expected_accuracy() == (1.0, pytest.approx(wilson_interval(40, 40)[0]), 1.0)  # no promise of 100 %


def test_clips_of_a_video_are_averaged() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    loss, right = loss_and_right(logits, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), 2)
    shares = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    assert right.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(loss, [-np.log(shares[:2, 0].mean()), -np.log(shares[2, 1])], rtol=1e-5)


def some_trials(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Trial], Sequence[str], list[VideoFeatures]]:
    monkeypatch.setattr(candidates, "_NUM_STEPS", 3)
    shared = shared_experiment(str(root), LearnOptions(), 8, 4)
    annotations = read_folder(root)
    rows = [row for row in annotations.splits["all"] if row.path.stem in "01"]
    videos, _ = embed_videos(shared, rows, annotations.labels, lambda: None)
    experiments = [CANDIDATES[name](shared) for name in ("mean", "gru", "convgru")]
    return [Trial(one, [0, 2], [1, 3]) for one in experiments], annotations.labels, videos


def test_trials_beside_each_other_find_what_one_after_the_other_finds(
    colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = some_trials(colours, monkeypatch)
    alone, beside = list(run_trials(*given)), list(run_trials(*given, num_processes=2))
    assert len(alone) == len(beside) == 3
    for own, other in zip(alone, beside, strict=True):
        assert all(map(torch.equal, own, other))


def test_a_process_that_is_killed_is_told(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, labels, videos = some_trials(colours, monkeypatch)
    found = run_trials(100 * trials, labels, videos, num_processes=2)
    next(found)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(UserError, match=r"killed.*--num_processes 1"):
        list(found)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_learn_in_order(
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    which: signal.Signals,
) -> None:
    """Its trainings have one batch an epoch: there is none but the last of an epoch to stop after."""
    step, output = ClipClassifier.training_step, tmp_path / "m.safetensors"

    def signalled(self: ClipClassifier, *args: Any) -> Any:
        os.kill(os.getpid(), which)
        return step(self, *args)

    monkeypatch.setattr(ClipClassifier, "training_step", signalled)
    assert main(["learn", str(colours), "--output", str(output), "--num_processes", "1"]) == 128 + which
    assert capsys.readouterr().err.endswith(f"clipgru learn: stopped by {which.name}; the same command begins again\n")
    assert not output.exists()
