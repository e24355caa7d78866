"""A backbone that learns from long videos: frames are walked along as features are, and looked at as a stream does."""

from __future__ import annotations

import csv
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.config import Experiment, InferenceConfig
from pipeline.datasets.features import FrozenBackbone
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.sequence_data import SequenceDataModule
from pipeline.datasets.sequences import timeline_labels
from pipeline.datasets.settled import Splits, make_splits
from pipeline.datasets.videos import BadVideo
from pipeline.datasets.walks import LaneFrames, SequenceBatch
from pipeline.errors import DecodeError, UserError
from pipeline.files.stopping import Interrupted
from pipeline.inference import Model
from pipeline.timeline_evaluation import evaluate_timelines
from pipeline.training import memory
from pipeline.training.fit import train
from pipeline.training.lanes import embed_lanes
from pipeline.training.timelines import TimelineLearner
from tests.long_videos import frame_experiment, make_long_videos
from tests.stopping import signal_in_batch
from tests.training.test_training import assert_same, weights_of


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_long_videos(tmp_path_factory.mktemp("long"))


def splits_of(experiment: Experiment) -> Splits:
    splits = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed)
    return replace(splits, labels=timeline_labels(splits.labels, experiment.sequence))


def data_of(experiment: Experiment, learner: TimelineLearner) -> SequenceDataModule:
    data = SequenceDataModule(experiment, splits_of(experiment))
    data.cache_features(FrozenBackbone(learner.recognizer, learner.transform), lambda: None)
    return data


def learner_of(experiment: Experiment) -> TimelineLearner:
    torch.manual_seed(0)
    return TimelineLearner(experiment, 3)


def pieces_by_video(data: SequenceDataModule) -> Iterator[tuple[SequenceBatch, list[Any]]]:
    loader = data.train_dataloader()
    return zip(loader, loader.steps.walk.steps(0), strict=True)


@pytest.mark.parametrize("kind", ["rgb", "rgb_diff", "rgb+rgb_diff"])
def test_walked_features_are_those_of_the_stream_at_the_same_times(root: Path, tmp_path: Path, kind: Any) -> None:
    """Each features' target is the label at the time that the engine says these features are of."""
    experiment = frame_experiment(root, tmp_path)
    experiment = replace(experiment, transform=replace(experiment.transform, input=kind))
    learner = learner_of(experiment).eval()
    data, splits = data_of(experiment, learner), splits_of(experiment)
    rows = list(dict.fromkeys(row.path for row in splits.train))
    found: dict[int, list[Any]] = {}
    for batch, pieces in pieces_by_video(data):
        features = learner._features(batch)
        for lane, piece in enumerate(pieces):
            steps = slice(0, piece.stop - piece.start)
            found.setdefault(piece.video, []).append((features[lane, steps], batch.targets[lane, steps]))
    file = replace(model_of(experiment, learner, splits), task="timeline", sequence=experiment.sequence)
    model = Model(file)
    for video, parts in found.items():
        features, targets = (torch.cat(some) for some in zip(*[part for part in parts if len(part[0])], strict=True))
        with model.opener.open(rows[video]) as reader:
            scored = list(model.score_windows(reader))
        expected, _ = learner.recognizer.score(features[None])
        delay = experiment.sequence.delay_frames
        probabilities = file.calibration.probabilities(expected)[0, delay:].detach().numpy()
        np.testing.assert_allclose([s.probabilities for s in scored], probabilities, atol=1e-5)
        truth = {row.start_seconds: row.label for row in splits.train if row.path == rows[video]}
        for score, target in zip(scored, targets[delay:].tolist(), strict=True):
            second = score.window.start // 5  # five grid frames a second, and each label lasts one
            assert splits.labels[target] == truth.get(float(second), "background")


def model_of(experiment: Experiment, learner: TimelineLearner, splits: Splits) -> ModelFile:
    return ModelFile(
        learner.recognizer,
        splits.labels,
        experiment.sampling,
        experiment.transform,
        experiment.decode,
        {"clipgru": "0"},
    )


@pytest.mark.parametrize("kind", ["rgb", "rgb+rgb_diff"])
def test_features_from_the_cache_have_the_targets_of_their_frames(root: Path, tmp_path: Path, kind: Any) -> None:
    experiment = frame_experiment(root, tmp_path)
    experiment = replace(experiment, transform=replace(experiment.transform, input=kind))
    learner = learner_of(experiment).eval()
    frames = data_of(experiment, learner)
    frozen = replace(
        experiment,
        data=replace(experiment.data, cache="features", cache_dir=str(tmp_path)),
        training=replace(experiment.training, backbone_lr_scale=0.0, train_frames=None),
    )
    cached = data_of(frozen, learner)
    for ours, theirs in zip(cached.train_dataloader(), frames.train_dataloader(), strict=True):
        assert torch.equal(ours.targets, theirs.targets)
        assert torch.equal(ours.is_frame, theirs.is_frame)
        features = learner._features(theirs)
        torch.testing.assert_close(ours.features[ours.is_frame], features[theirs.is_frame], atol=2e-3, rtol=2e-3)


def test_the_backbone_learns_from_some_frames_and_the_heads_from_all(root: Path, tmp_path: Path) -> None:
    experiment = frame_experiment(root, tmp_path, freeze_batch_norm=True, initial_model="none.safetensors")
    learner = learner_of(experiment)
    batch = next(iter(data_of(experiment, learner).train_dataloader()))
    assert isinstance(batch.features, LaneFrames)
    state = torch.random.get_rng_state()
    features = embed_lanes(learner.recognizer, learner.transform, batch.features)
    assert torch.equal(state, torch.random.get_rng_state())
    again = replace(batch.features, learning=torch.arange(int(batch.features.places.max()) + 1))
    torch.testing.assert_close(features, embed_lanes(learner.recognizer, learner.transform, again))
    (gradient,) = torch.autograd.grad(features.sum(), features, retain_graph=True)
    assert gradient.abs().min() > 0
    weight = next(learner.recognizer.backbone.parameters())
    of_lanes = [
        torch.autograd.grad(features[lane].sum(), weight, retain_graph=True)[0] for lane in range(len(features))
    ]
    assert all(gradient.abs().sum() > 0 for gradient in of_lanes)
    steps = torch.stack(
        [
            torch.autograd.grad(features[lane, step].sum(), weight, retain_graph=True)[0].abs().sum()
            if batch.features.places[lane, step] in batch.features.learning
            else torch.zeros(())
            for lane in range(2)
            for step in range(6)
        ]
    )
    assert int((steps > 0).sum()) == len(batch.features.learning) == 6


def test_a_video_looks_the_same_through_an_epoch(root: Path, tmp_path: Path) -> None:
    experiment = frame_experiment(root, tmp_path)
    draws: dict[int, set[int]] = {}
    for batch, pieces in pieces_by_video(data_of(experiment, learner_of(experiment))):
        assert isinstance(batch.features, LaneFrames)
        shown = [piece for piece in pieces if piece.stop]
        for piece, draw in zip(shown, batch.features.draws, strict=True):
            draws.setdefault(piece.video, set()).add(draw)
    assert [len(some) for some in draws.values()] == [1] * 5
    assert len(set.union(*draws.values())) == 5


def test_a_backbone_that_learns_finds_what_is_shown(root: Path, tmp_path: Path) -> None:
    experiment = frame_experiment(root, tmp_path, epochs=10, label_smoothing=0.0)
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "min_crop_area": 1.0}
    experiment = replace(
        experiment,
        transform=replace(experiment.transform, **still),
        data=replace(experiment.data, batch_size=4),
        sequence=replace(experiment.sequence, sequence_frames=8, delay_frames=0, smoothing_weight=0.0),
    )
    before = learner_of(replace(experiment, seed=0)).recognizer.backbone.state_dict()
    result = train(experiment, quiet=True)
    after = result.model.recognizer.backbone.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    model = Model(load_model_file(result.model_path))
    assert model.mode(InferenceConfig()) == "stream"
    rows = make_splits(read_annotations(experiment.data), experiment.data, 0).test
    assert evaluate_timelines(model, rows).on_grid.figures["frame_accuracy"].value > 0.75
    losses = [float(row["train_loss_epoch"]) for row in log_of(experiment) if row.get("train_loss_epoch")]
    assert losses[-1] < 0.8 * losses[0]


def log_of(experiment: Experiment) -> list[dict[str, str]]:
    with next(experiment.run_dir.glob("logs_1/*.csv")).open() as file:
        return list(csv.DictReader(file))


def test_it_ends_as_if_never_stopped(root: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, while workers have decoded ahead."""
    weights = []
    for name, num_workers in (("whole", 0), ("stopped", 2)):
        experiment = frame_experiment(root, tmp_path / name, ema_decay=0.9)
        experiment = replace(experiment, data=replace(experiment.data, num_workers=num_workers))
        if name == "stopped":
            with pytest.MonkeyPatch.context() as patch:
                signal_in_batch(patch, 5, signal.SIGINT)
                with pytest.raises(Interrupted):
                    train(experiment, quiet=True)
        weights.append(weights_of(experiment, resume=name == "stopped"))
    assert_same(*weights)


def test_a_piece_that_cannot_be_read_is_told_and_teaches_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = frame_experiment(root, tmp_path)
    learner = learner_of(experiment)
    loader = data_of(experiment, learner).train_dataloader()
    source, tried = loader.dataset._source, []

    class Broken:
        def clips(self, row: Any, choose: Any) -> Any:
            tried.append(row.path)
            if len(tried) == 2:
                raise DecodeError(row.path, "decode", "broken")
            return source.clips(row, choose)

    monkeypatch.setattr(loader.dataset, "_source", Broken())
    first, second = [batch for batch, _ in zip(loader, range(2), strict=False)]
    assert first.bad == (BadVideo(str(tried[1]), "decode", "broken"),)
    assert first.is_frame.tolist() == [[True] * 6, [False] * 6]
    learner.log = lambda *_, **__: None  # type: ignore[method-assign]
    assert torch.isfinite(learner.training_step(first, 0))
    (state,) = learner._state[0]
    assert state[0].abs().sum() > 0
    assert state[1].abs().sum() == 0
    assert not second.begins.any()
    assert learner.bad_videos


def test_the_memory_of_a_sequence_is_that_of_the_frames_learned_from(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = frame_experiment(root, tmp_path)
    some = memory.step_memory(learner_of(experiment), "fp32")
    whole = replace(experiment, training=replace(experiment.training, train_frames=None))
    every = memory.step_memory(learner_of(whole), "fp32")
    assert every.clip_bytes == pytest.approx(2 * some.clip_bytes, rel=0.02)
    assert every.picture_bytes == some.picture_bytes > 6 * 3 * (40 * 40 + 2 * 4 * 32 * 32) - 1
    free = int((every.fixed_bytes + 2 * every.picture_bytes + every.clip_bytes * 1.1) / 0.9)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: free)
    with pytest.raises(UserError, match=r"a training step of 2 sequences .* set training.train_frames 3: "):
        memory.check_step_fits(learner_of(whole), "fp32")
    memory.check_step_fits(learner_of(experiment), "fp32")
