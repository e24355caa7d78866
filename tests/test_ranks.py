"""Two processes do what one does: the same gradients, every video judged once, one report; and none waits for ever."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint import load_model_file
from pipeline.config import Experiment, MachineConfig, ModelConfig, to_yaml
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import make_splits
from pipeline.datasets.videos import EpochSampler, RankBatches
from pipeline.errors import UserError
from pipeline.evaluation import evaluate_model
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal.stack import TEMPORAL_HEADS
from pipeline.ranks import Ranks, join
from pipeline.training.fit import train
from tests import forks, two_ranks
from tests.long_videos import frame_experiment, make_long_videos
from tests.ports import free_port
from tests.small import small_experiment

pytestmark = pytest.mark.timeout(900)  # pairs of processes, each of which loads torch: slow where the cores are busy
TWO = MachineConfig(accelerator="cpu", devices=2, timeout_seconds=120)
_SECONDS = 800.0  # where the cores are few and busy, two processes take their time


def batches_of(num_rows: int, batch_size: int, count: int, training: bool, epoch: int = 0, skip: int = 0) -> list[Any]:
    """Each rank's batches of row numbers."""
    found = []
    for index in range(count):
        order = EpochSampler(num_rows, seed=5, shuffle=training)
        order.skip(epoch, skip)
        order.set_epoch(epoch)
        batches = RankBatches(order, batch_size, Ranks(index, count), training=training)
        found.append([[key.row for key in batch] for batch in batches])
        assert len(found[-1]) == len(batches) - skip // (batch_size * count)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9, 31])
def test_evaluation_deals_out_the_batches_of_one_process(num_rows: int, count: int) -> None:
    (alone,) = batches_of(num_rows, 4, 1, training=False)
    ranks = batches_of(num_rows, 4, count, training=False)
    assert len({len(batches) for batches in ranks}) == 1
    assert [row for batch in alone for row in batch] == list(range(num_rows))
    dealt = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert dealt[: len(alone)] == alone
    assert not any(dealt[len(alone) :])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("num_rows", [1, 3, 11, 12, 40, 41])
def test_training_gives_each_rank_as_many_full_batches(num_rows: int, count: int) -> None:
    ranks = batches_of(num_rows, 4, count, training=True, epoch=2)
    (alone,) = batches_of(num_rows, 4 * count, 1, training=True, epoch=2)
    sizes = {len(batch) for batches in ranks for batch in batches}
    steps = [[row for batch in step for row in batch] for step in zip(*ranks, strict=True)]
    assert len(sizes) == 1
    if num_rows >= 4 * count:
        assert sizes == {4}
        assert steps == alone  # a step has the samples of one process with the larger batch
    else:
        assert len(steps) == 1
        assert set(steps[0]) == set(range(num_rows))


def test_ranks_go_on_where_they_stopped() -> None:
    whole = batches_of(41, 4, 2, training=True, epoch=1)
    rest = batches_of(41, 4, 2, training=True, epoch=1, skip=16)
    assert rest == [batches[2:] for batches in whole]


@pytest.mark.parametrize("head", TEMPORAL_HEADS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_weight_has_a_part_in_the_loss(head: str, bidirectional: bool) -> None:
    """Ranks wait for the gradient of each; one that never comes would have to be looked for in every step."""
    config = ModelConfig(backbone="tiny", weights="none", heads=(head,), hidden_channels=4, bidirectional=bidirectional)
    model = Recognizer(config, 3).train()
    model(torch.rand(2, 3, 3, 32, 32)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_what_others_started_must_be_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"torchrun started 3 processes, and the settings ask for 2"):
        join(TWO)


def run_ranks(config: Path, folder: Path, mode: str) -> list[int]:
    """Two forks that train as ``two_ranks.run`` says; their exit codes, the first one's first."""
    port, ranks = free_port(), []
    for index in range(2):
        environment = {"LOCAL_RANK": str(index), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        arguments, output = (config, folder, mode), folder / f"output_{index}"
        ranks.append(forks.start(two_ranks.rank_of, *arguments, output=output, environment=environment))
    for process in ranks:
        process.join(_SECONDS)
    return [process.exitcode if process.exitcode is not None else -1 for process in ranks]


def said(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("output_*")))


def plain_experiment(root: Path, folder: Path) -> Experiment:
    """Nothing left to chance, nothing measured over a batch; but classes weigh unequally, so that means do not add."""
    experiment = small_experiment(root, folder, optimizer="sgd", learning_rate=0.02, class_weights="balanced")
    still = {"min_crop_area": 1.0, "horizontal_flip": 0.0, "brightness": 0, "contrast": 0, "saturation": 0}
    model = ModelConfig(num_stages=2, feature_norm="none", heads=("convgru",), hidden_channels=8, dropout=0.0)
    return replace(
        experiment,
        model=model,
        training=replace(experiment.training, freeze_batch_norm=True, gradient_clip_norm=0.0),
        data=replace(experiment.data, batch_size=4, max_bad_fraction=0.5),
        transform=replace(experiment.transform, input_size_px=40, **still),
    )


@pytest.fixture(scope="module")
def root(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small motion set with an odd number of test videos, and videos that cannot be read on both sides."""
    folder = tmp_path_factory.mktemp("ranks") / "motion"
    shutil.copytree(motion_root, folder)
    for part, every in (("train", 3), ("test", 11)):
        for path in sorted((folder / part).rglob("*.*"))[::every]:
            path.write_bytes(path.read_bytes()[:200])
    sorted((folder / "test").rglob("*.*"))[-1].unlink()
    return folder


@pytest.fixture(scope="module")
def two(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The run folder of two processes with batches of 2, which were stopped after the fourth by a signal to one of them
    and then resumed; and what each has to say."""
    folder = tmp_path_factory.mktemp("two")
    experiment = plain_experiment(root, folder)
    experiment = replace(experiment, machine=TWO, data=replace(experiment.data, batch_size=2))
    (folder / "config.yaml").write_text(to_yaml(experiment))
    assert run_ranks(folder / "config.yaml", folder, "stop") == [100 + signal.SIGTERM, 0], said(folder)
    assert run_ranks(folder / "config.yaml", folder, "resume") == [0, 0], said(folder)
    return experiment.run_dir, [json.loads((folder / f"rank_{index}.json").read_text()) for index in range(2)]


def test_two_processes_train_what_one_does_with_twice_the_batch(
    two: tuple[Path, list[dict[str, Any]]], root: Path, tmp_path: Path
) -> None:
    run_dir, (first, second) = two
    assert first["digests"] == second["digests"]  # the weights after each step
    assert len(first["digests"]) == 22 - 4
    good = list(zip(first["num_good"], second["num_good"], strict=True))
    assert any(0 in counts and sum(counts) for counts in good)  # one had nothing to learn from while the other had
    assert not {row for rows in first["rows"][:7] for row in rows} & {
        row for rows in second["rows"][:7] for row in rows
    }
    alone = train(plain_experiment(root, tmp_path), quiet=True)
    theirs = load_model_file(run_dir / "model.safetensors").recognizer.state_dict()
    for name, value in alone.model.recognizer.state_dict().items():
        torch.testing.assert_close(theirs[name], value, atol=2e-4, rtol=2e-3, msg=lambda text, name=name: name + text)
    assert first["metrics"]["val_loss"] == pytest.approx(alone.metrics["val_loss"], rel=1e-3)
    assert first["metrics"]["val_accuracy"] == alone.metrics["val_accuracy"]
    reports = [(folder / "bad_videos.csv").read_text().splitlines() for folder in (run_dir, tmp_path / "small")]
    met = [[line.rpartition(",")[0] for line in report] for report in reports]  # how often counts from the resuming on
    assert met[0] == met[1]


def test_two_processes_judge_each_video_once_and_as_one_does(
    two: tuple[Path, list[dict[str, Any]]], root: Path
) -> None:
    run_dir, (first, second) = two
    experiment = plain_experiment(root, run_dir.parent)
    rows = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed).test
    assert len(rows) % 2 == 1
    data = replace(experiment.data, batch_size=2)
    alone = evaluate_model(load_model_file(run_dir / "model.safetensors"), rows, data)
    assert first["results"] == second["results"]
    facts = [(video["path"], video["label"], video["predicted"], video["error"]) for video in first["results"]]
    assert facts == [(video.path, video.label, video.predicted, video.error) for video in alone.results]
    for theirs, ours in zip(first["results"], alone.results, strict=True):
        np.testing.assert_allclose(theirs["probabilities"], ours.probabilities, atol=1e-6)
    assert alone.num_errors == 3


@pytest.fixture(scope="module")
def launched(
    two: tuple[Path, list[dict[str, Any]]], root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int | None]:
    """Two processes, the second one started by Lightning, which evaluate by the command and then train until the second
    one dies: the folder, and the exit code of the first one."""
    folder = tmp_path_factory.mktemp("launched")
    config = folder / "config.yaml"
    config.write_text(to_yaml(replace(plain_experiment(root, folder), machine=TWO)))
    model = two[0] / "model.safetensors"
    first = forks.start(two_ranks.launch, str(config), str(folder), str(model), output=folder / "output_0")
    first.join(_SECONDS)
    return folder, first.exitcode


def test_the_command_evaluates_with_two_processes_and_speaks_once(
    two: tuple[Path, list[dict[str, Any]]], launched: tuple[Path, int | None]
) -> None:
    (_, (first, _)), (folder, _) = two, launched
    assert (folder / "code_0.txt").read_text() == "1", said(folder)  # some videos cannot be read
    printed = said(folder)
    summary, end = json.JSONDecoder().raw_decode(printed[printed.index("{") :])
    assert summary["num_videos"] == len(first["results"])
    assert "{" not in printed[printed.index("{") + end :]
    table = list(csv.DictReader((folder / "videos.csv").read_text().splitlines()))
    assert [row["path"] for row in table] == [video["path"] for video in first["results"]]
    assert [row["predicted"] or None for row in table] == [video["predicted"] for video in first["results"]]


def test_a_process_that_dies_ends_the_run(launched: tuple[Path, int | None]) -> None:
    folder, code = launched
    assert code not in (0, None), said(folder)
    assert (folder / "small" / "config.yaml").exists()  # it had begun
    assert not (folder / "small" / "model.safetensors").exists()


def plain_timeline(root: Path, folder: Path, batch_size: int) -> Experiment:
    """Nothing left to chance but the frames that the backbone learns from, which do not depend on the ranks."""
    plain = plain_experiment(root, folder)
    experiment = frame_experiment(root, folder, epochs=2)
    return replace(
        experiment,
        model=replace(plain.model, heads=("gru",), refinement_stages=1),
        training=replace(
            plain.training, epochs=2, train_frames=3, label_smoothing=0.0, learning_rate=0.05, accumulate_batches=2
        ),
        data=replace(experiment.data, batch_size=batch_size, max_bad_fraction=0.5),
        sequence=replace(experiment.sequence, state_dropout=0.0),
        transform=plain.transform,
    )


def of_features(experiment: Experiment, cache: Path) -> Experiment:
    return replace(
        experiment,
        name="features",
        data=replace(experiment.data, cache="features", cache_dir=str(cache)),
        training=replace(experiment.training, backbone_lr_scale=0.0, train_frames=None),
        sequence=replace(experiment.sequence, loss="focal"),
    )


def test_two_processes_walk_along_timelines_as_one_does_with_twice_the_lanes(tmp_path: Path) -> None:
    """Lanes end before others, a video cannot be read; stopped and resumed; then once more of features."""
    root = make_long_videos(tmp_path)
    (root / "1.mp4").write_bytes((root / "1.mp4").read_bytes()[:200])
    experiment = replace(plain_timeline(root, tmp_path / "two", 2), machine=TWO)
    (tmp_path / "config.yaml").write_text(to_yaml(experiment))
    (tmp_path / "features.yaml").write_text(to_yaml(of_features(experiment, tmp_path / "cache")))
    for name, mode, codes in (
        ("config.yaml", "stop", [100 + signal.SIGTERM, 0]),
        ("config.yaml", "resume", [0, 0]),
        ("features.yaml", "", [0, 0]),
    ):
        assert run_ranks(tmp_path / name, tmp_path, mode) == codes, said(tmp_path)
    first, second = (json.loads((tmp_path / f"rank_{index}.json").read_text()) for index in range(2))
    assert first["digests"] == second["digests"]
    assert first["metrics"] == second["metrics"]
    alone = plain_timeline(root, tmp_path / "one", 4)
    for ours in (alone, of_features(alone, tmp_path / "cache_of_one")):
        expected = train(ours, quiet=True)
        theirs = load_model_file(tmp_path / "two" / ours.name / "model.safetensors")
        for name, value in expected.model.recognizer.state_dict().items():
            found = theirs.recognizer.state_dict()[name]
            torch.testing.assert_close(found, value, atol=2e-4, rtol=2e-3, msg=lambda text, name=name: name + text)
        assert theirs.metrics == pytest.approx(expected.metrics, rel=1e-3)
