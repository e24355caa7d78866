"""Trainings on timelines that something is wrong or odd with: short videos, empty lanes, files that are broken."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.config import Experiment
from pipeline.datasets.sequence_data import SequenceDataModule
from pipeline.datasets.sequence_features import Sequences
from pipeline.datasets.sequences import timeline_labels
from pipeline.datasets.settled import read_splits
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer
from pipeline.training.fit import train
from pipeline.training.timelines import TimelineLearner
from tests.datasets.test_sequences import learner_of, row, targets_of, timeline_experiment


def few_epochs(experiment: Experiment, **data: Any) -> Experiment:
    training = replace(experiment.training, epochs=2)
    return replace(experiment, training=training, data=replace(experiment.data, **data))


def without_log(learner: TimelineLearner) -> TimelineLearner:
    learner.log = lambda *_, **__: None  # type: ignore[method-assign]
    return learner


def sequences(lengths: list[int], lanes: int, longest: int) -> Sequences:
    generator = torch.Generator().manual_seed(0)
    videos = [[(torch.randn(n, 4, generator=generator), torch.zeros(n, dtype=torch.int64))] for n in lengths]
    return Sequences(videos, lanes, longest, seed=0)


def test_a_stretch_within_another_overlaps_what_comes_after_it() -> None:
    """Only neighbours by start are not enough: the long one goes on."""
    with pytest.raises(UserError, match=r"jump until 10.0 s and run from 3.0 s overlap"):
        targets_of([row("jump", 0.0, 10.0), row("jump", 1.0, 2.0), row("run", 3.0, 4.0)])
    assert (
        targets_of([row("jump", 0.0, 3.0), row("jump", 1.0, 2.0), row("run", 3.0, 5.0)]).tolist() == [0] * 6 + [1] * 4
    )


def test_what_fills_a_batch_up_is_not_measured(tmp_path: Path) -> None:
    """Statistics, loss and gradient of lanes of unlike lengths are those of their frames alone."""
    learner = without_log(learner_of(timeline_experiment(tmp_path, smoothing_weight=0.0)))
    dataset = sequences([5, 2], lanes=2, longest=8)
    batch = dataset[0, 0]
    assert sorted(batch.is_frame.sum(dim=1).tolist()) == [2, 5]
    loss = learner.training_step(batch, 0)
    norm = learner.recognizer.feature_norm
    rows = batch.features[batch.is_frame]
    torch.testing.assert_close(norm.running_mean, 0.1 * rows.mean(dim=0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * rows.var(dim=0))
    normalized = F.batch_norm(rows, None, None, norm.weight, norm.bias, training=True)
    losses = []
    for lane in normalized.split(batch.is_frame.sum(dim=1).tolist()):
        outputs, _ = learner.recognizer.temporal(lane[None])
        losses.append(
            F.cross_entropy(learner.recognizer.classifier(outputs[0]), torch.zeros(len(lane)).long(), reduction="sum")
        )
    torch.testing.assert_close(loss, torch.stack(losses).sum() / 7)


def test_a_step_of_a_single_frame_is_one(tmp_path: Path) -> None:
    """Nine frames in sequences of eight, one lane."""
    learner = without_log(learner_of(timeline_experiment(tmp_path)))
    dataset = sequences([9], lanes=1, longest=8)
    for step in range(2):
        assert torch.isfinite(learner.training_step(dataset[0, step], step))


@pytest.mark.parametrize(
    ("settings", "sequence"),
    [
        ({"bidirectional": True, "refinement_stages": 1}, {"sequence_frames": 0, "delay_frames": 50}),
        ({"bidirectional": True}, {"sequence_frames": 8}),
        ({"heads": ("change", "mingru")}, {"sequence_frames": 2, "delay_frames": 50, "state_dropout": 1.0}),
    ],
)
def test_odd_settings_train(tmp_path: Path, settings: dict[str, Any], sequence: dict[str, Any]) -> None:
    """Whole videos, single frames, answers later than a video is long; in both directions with a state to carry on."""
    experiment = timeline_experiment(tmp_path, **sequence)
    experiment = few_epochs(replace(experiment, model=replace(experiment.model, **settings)), batch_size=4)
    experiment = replace(experiment, training=replace(experiment.training, epochs=1))
    assert np.isfinite(train(experiment, quiet=True).metrics["val_loss"])


@pytest.mark.parametrize(("labels", "num_classes"), [("one", 2), ("several", 1)])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_one_label_is_enough(tmp_path: Path, labels: Any, num_classes: int, loss: Any) -> None:
    experiment = timeline_experiment(tmp_path, labels=labels, loss=loss)
    model = replace(experiment.model, num_features=4, features_fps=2.0, refinement_stages=1)
    learner = without_log(TimelineLearner(replace(experiment, model=model), num_classes))
    targets = torch.arange(9) % 2
    videos = [[(torch.randn(9, 4), targets if labels == "one" else targets[:, None].float())]]
    dataset = Sequences(videos, 1, 6, seed=0)
    for step in range(2):
        loss = learner.training_step(dataset[0, step], step)
        loss.backward()
        assert torch.isfinite(loss)
    assert learner.recognizer.refinements[0].head.layer.weight_ih_l0.grad.abs().sum() > 0
    dataset = Sequences(videos, 1, 0, seed=0)
    learner.on_validation_epoch_start()
    found: dict[str, float] = {}
    learner.log = lambda name, value, **_: found.update({name: float(value)})  # type: ignore[method-assign]
    learner.log_dict = lambda values, **_: found.update(values)  # type: ignore[method-assign]
    learner.validation_step(dataset[0, 0], 0)
    learner.on_validation_epoch_end()
    assert np.isfinite([*found.values()]).all()


def test_videos_that_nobody_has_looked_at_are_walked_along_and_not_judged(tmp_path: Path) -> None:
    experiment = few_epochs(timeline_experiment(tmp_path))
    splits = read_splits(experiment.data, 0)
    unlabelled = {
        part: row("unlabelled", 0.0, 30.0, str(tmp_path / name))
        for part, name in (("train", "0.npy"), ("val", "7.npy"))
    }
    train_rows = [some for some in splits.train if some.path.name != "0.npy"] + [unlabelled["train"]]
    some = replace(splits, train=tuple(train_rows), val=(*splits.val, unlabelled["val"]), test=())
    assert np.isfinite(train(experiment, some, quiet=True).metrics["val_accuracy"])
    for part, words in (("train", "training"), ("val", "validation")):
        none = replace(some, **{part: (unlabelled[part],)})
        with pytest.raises(UserError, match=f"no grid frame of the {words} videos has a label"):
            train(replace(experiment, name=part), none, quiet=True)


def test_videos_count_against_the_bad_ones_and_not_their_stretches(tmp_path: Path) -> None:
    experiment = few_epochs(timeline_experiment(tmp_path), max_bad_fraction=0.1)
    (tmp_path / "2.npy").write_bytes(b"not numpy")
    with pytest.raises(UserError, match="1 of 7 videos cannot be read, more than data"):
        train(experiment, quiet=True)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"not numpy", "no feature file"),
        (np.full((38, 4), np.nan, np.float32), "a feature is not a finite number"),
        (np.zeros((38, 5), np.float32), "the model reads 4 numbers a step"),
    ],
)
def test_a_broken_feature_file_is_named_and_counted(tmp_path: Path, content: Any, cause: str) -> None:
    experiment = few_epochs(timeline_experiment(tmp_path), max_bad_fraction=1.0)
    experiment = replace(experiment, model=replace(experiment.model, num_features=4))
    if isinstance(content, bytes):
        experiment = replace(experiment, model=replace(experiment.model, num_features=None))
        (tmp_path / "2.npy").write_bytes(content)
    else:
        np.save(tmp_path / "2.npy", content)
    train(experiment, quiet=True)
    with (experiment.run_dir / "bad_videos.csv").open() as file:
        (bad,) = csv.DictReader(file)
    assert bad["path"].endswith("2.npy")
    assert cause in bad["cause"]
    broken = (tmp_path / "2.npy").read_bytes()
    for part in ("training", "validation"):
        videos = [n for n in range(7) if (n < 6) == (part == "training")]
        before = {n: (tmp_path / f"{n}.npy").read_bytes() for n in videos}
        for n in videos:
            (tmp_path / f"{n}.npy").write_bytes(broken)
        again = replace(experiment, name=part, model=replace(experiment.model, num_features=4))
        with pytest.raises(UserError, match=f"none of the {part} videos can be read: .*[0-6].npy: .*{cause}"):
            train(again, quiet=True)
        for n in videos:
            (tmp_path / f"{n}.npy").write_bytes(before[n])


@pytest.mark.parametrize("features_fps", [5.0, 3.3, 2.0])
def test_steps_of_any_rate_have_the_labels_of_their_times(tmp_path: Path, features_fps: float) -> None:
    """The number of each step is its feature; with another beginning the labels are those of other times."""
    experiment = timeline_experiment(tmp_path)
    num_steps = int(20 * features_fps)
    for number in range(8):
        np.save(tmp_path / f"{number}.npy", np.repeat(np.arange(num_steps, dtype=np.float32)[:, None], 4, axis=1))
    (tmp_path / "manifest.csv").write_text(
        "path,label,start_seconds,end_seconds,split\n"
        + "".join(f"{n}.npy,jump,1.3,7.9,train\n{n}.npy,run,7.9,20,train\n" for n in range(6))
        + "".join(f"{n}.npy,jump,1.3,7.9,{part}\n{n}.npy,run,7.9,20,{part}\n" for n, part in ((6, "val"), (7, "test")))
    )
    model = replace(experiment.model, num_features=4, features_fps=features_fps)
    experiment = replace(experiment, model=model, data=replace(experiment.data, features_fps=features_fps))
    splits = read_splits(experiment.data, 0)
    splits = replace(splits, labels=timeline_labels(splits.labels, experiment.sequence))
    data = SequenceDataModule(experiment, splits)
    data.cache_features(None, lambda: None)  # type: ignore[arg-type]
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            steps, targets = batch.features[..., 0][batch.is_frame], batch.targets[batch.is_frame]
            times = (steps + 1) / features_fps - 1e-6  # the step lasts until the next
            spoken = torch.where(times < 1.3, 2, torch.where(steps / features_fps >= 7.9, 1, 0))
            sure = (times < 1.3) | ((steps / features_fps >= 1.3) & (times < 7.9)) | (steps / features_fps >= 7.9)
            assert torch.equal(targets[sure], spoken[sure])


def test_a_refinement_reads_each_label_by_itself_where_labels_may_overlap(tmp_path: Path) -> None:
    experiment = timeline_experiment(tmp_path, labels="several")
    learner = learner_of(replace(experiment, model=replace(experiment.model, refinement_stages=1))).eval()
    recognizer = learner.recognizer
    assert isinstance(recognizer, Recognizer)
    stages, _ = recognizer.score_stages(recognizer.project(torch.randn(1, 5, 4)))
    (stage,) = recognizer.refinements
    expected = stage.classifier(stage.head(stages[0].sigmoid())[0])
    torch.testing.assert_close(stages[1], expected)
