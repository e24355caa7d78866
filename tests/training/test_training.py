"""Training: exact resume, what is frozen stays frozen, the schedule, signals, and files that cannot be read."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from pipeline.checkpoint import load_model_file
from pipeline.cli import main
from pipeline.config import Experiment, TrainingConfig, to_yaml
from pipeline.datasets.settled import Splits
from pipeline.errors import UserError
from pipeline.files.stopping import Interrupted
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal import fast
from pipeline.training.fit import train
from pipeline.training.module import (
    ClipClassifier,
    average_by_video,
    balanced_class_weights,
    draw_frames,
    parameter_groups,
    warmup_cosine,
)
from tests import forks
from tests.small import small_experiment
from tests.stopping import signal_in_batch


def weights_of(
    experiment: Experiment, splits: Splits | None = None, *, resume: bool = False
) -> dict[str, torch.Tensor]:
    """Of the model and of the last epoch, as the model may be that of an earlier one."""
    model = train(experiment, splits, resume=resume, quiet=True).model
    last = torch.load(experiment.run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return model.recognizer.state_dict() | {f"last {name}": value for name, value in last.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


MIXED = {"epochs": 3, "mixup_alpha": 0.2, "cutmix_alpha": 0.5, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def never_stopped(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights_of(small_experiment(motion_root, tmp_path_factory.mktemp("whole"), **MIXED))


@pytest.mark.parametrize("batch", [2, 4, 7], ids=["mid-epoch", "end of epoch", "second epoch"])
def test_a_resumed_run_ends_as_if_never_stopped(
    motion_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    never_stopped: dict[str, torch.Tensor],
    batch: int,
) -> None:
    """Four steps an epoch, with dropout, augmentation, mixup, EMA and a schedule: everything that could differ."""
    cut = small_experiment(motion_root, tmp_path, **MIXED)
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        signal_in_batch(patch, batch, signal.SIGINT)
        with pytest.raises(Interrupted) as stopped:
            train(cut, quiet=True)
    assert stopped.value.signal_number == signal.SIGINT
    assert stopped.value.checkpoint is not None
    assert stopped.value.checkpoint.exists()
    assert signal.getsignal(signal.SIGINT) is before
    assert_same(weights_of(cut, resume=True), never_stopped)


def test_the_seed_decides_everything(motion_root: Path, tmp_path: Path) -> None:
    runs = [small_experiment(motion_root, tmp_path / name, epochs=1) for name in ("a", "b", "c")]
    first, again = weights_of(runs[0]), weights_of(replace(runs[1], data=replace(runs[1].data, num_workers=2)))
    other = weights_of(replace(runs[2], seed=1))
    assert_same(first, again)  # also with other workers
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_a_run_leaves_a_model_that_says_what_it_is(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    result = train(experiment, quiet=True)
    model = load_model_file(result.model_path)
    assert len(model.labels) == 13
    assert model.provenance["experiment"]["training"]["epochs"] == 2
    assert 0 <= model.metrics["val_accuracy"] <= 1
    log = (experiment.run_dir / "logs_1" / "metrics.csv").read_text()
    for figure in ("train_loss", "val_accuracy", "clips_per_second", "waiting_share"):
        assert figure in log
    with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
        train(experiment, quiet=True)
    with pytest.raises(UserError, match="nothing to resume"):
        train(replace(experiment, name="new"), resume=True, quiet=True)


@pytest.mark.parametrize("accumulated", [1, 4])
def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_learn_from_it(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulated: int
) -> None:
    loss, steps = ClipClassifier.loss, list[int]()

    def diverged(self: ClipClassifier, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        value, weight = loss(self, batch)
        return (value * math.nan if self.trainer.fit_loop.epoch_loop.total_batch_idx else value), weight

    monkeypatch.setattr(ClipClassifier, "loss", diverged)
    monkeypatch.setattr(ClipClassifier, "on_before_optimizer_step", lambda self, _: steps.append(self.global_step))
    experiment = small_experiment(motion_root, tmp_path, epochs=1, accumulate_batches=accumulated)
    with pytest.raises(UserError, match=r"the loss became nan in epoch 0; lower training\.learning_rate"):
        train(experiment, quiet=True)
    assert len(steps) == 1 // accumulated  # the first batch alone
    assert not (experiment.run_dir / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("input", "model", "num_frames"),
    [
        ("rgb", {"heads": ("convgru",)}, 4),
        ("rgb_diff", {"heads": ("gru",)}, 4),
        ("rgb+rgb_diff", {"heads": ("gru",)}, 40),  # longer than the videos
    ],
)
def test_a_frozen_backbone_does_not_change_and_cached_features_train_the_same(
    motion_root: Path, tmp_path: Path, input: Any, model: dict[str, Any], num_frames: int
) -> None:
    settings = {"backbone_lr_scale": 0.0, "optimizer": "sgd", "learning_rate": 0.05}
    experiment = small_experiment(motion_root, tmp_path, **settings)
    still = {"min_crop_area": 1.0, "horizontal_flip": 0.0, "brightness": 0, "contrast": 0, "saturation": 0}
    experiment = replace(
        experiment,
        sampling=replace(experiment.sampling, num_frames=num_frames),
        transform=replace(experiment.transform, input_size_px=40, input=input, **still),
        model=replace(experiment.model, dropout=0.0, **model),
    )
    torch.manual_seed(experiment.seed)
    plain = weights_of(replace(experiment, name="plain"))
    cached = weights_of(replace(experiment, name="cached", data=replace(experiment.data, cache="features")))
    for name in plain:
        if "backbone." in name:
            assert torch.equal(plain[name], cached[name])
        torch.testing.assert_close(plain[name], cached[name], atol=2e-3, rtol=2e-3)  # the cache is float16


def test_what_is_frozen_stays_in_evaluation_mode(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path, num_frozen_stages=2)
    module = ClipClassifier(experiment, 3).train()
    assert [stage.training for stage in module.recognizer.backbone.stages] == [False, False, True, True]
    training = replace(experiment.training, freeze_batch_norm=True, initial_model="which has statistics")
    frozen_norm = ClipClassifier(replace(experiment, training=training), 3).train()
    norms = [m for m in frozen_norm.recognizer.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert frozen_norm.recognizer.temporal.training


def test_learning_rates_and_decay(motion_root: Path, tmp_path: Path) -> None:
    module = ClipClassifier(small_experiment(motion_root, tmp_path), 3)
    config = TrainingConfig(learning_rate=1.0, backbone_lr_scale=0.1, weight_decay=0.5)
    groups = parameter_groups(module.recognizer, config)
    of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}  # type: ignore[attr-defined]
    named = dict(module.recognizer.named_parameters())
    assert len(of) == len(named)
    assert of[id(named["classifier.weight"])] == (1.0, 0.5)
    assert of[id(named["classifier.bias"])] == (1.0, 0.0)
    assert of[id(named["backbone.stages.0.0.weight"])] == (0.1, 0.5)
    assert of[id(named["backbone.stages.0.1.weight"])] == (0.1, 0.0)  # batch norm


def test_warmup_cosine_is_torchs_two_schedules_in_a_row() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[10])
    for step in range(100):
        assert warmup_cosine(step, 100, 0.1) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        schedule.step()


def test_small_sums() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    averaged = average_by_video(scores, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(averaged, torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_class_weights(labels.tolist(), 3).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("num_frames", "count"), [(28, 10), (7, 7), (9, 1)])
def test_frames_are_drawn_one_from_each_equal_part(num_frames: int, count: int) -> None:
    clips = torch.arange(num_frames).repeat(4000, 1)  # frames that say where they were
    places = draw_frames(clips, count).numpy()
    edges = [place * num_frames // count for place in range(count + 1)]
    for part in range(count):
        drawn, share = np.unique(places[:, part], return_counts=True)
        assert drawn.tolist() == list(range(edges[part], edges[part + 1])), "each of the part, and no other"
        assert share / 4000 == pytest.approx(1 / len(drawn), abs=0.05), "all equally often"


def test_a_clip_costs_as_many_frames_as_it_is_learnt_from(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path, epochs=1, train_frames=3)
    assert experiment.sampling.num_frames > 3
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    original = Recognizer.classify

    def classify(self: Recognizer, features: torch.Tensor) -> torch.Tensor:
        seen[self.training].add(features.shape[1])
        return original(self, features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recognizer, "classify", classify)
        train(experiment, quiet=True)
    assert seen == {True: {3}, False: {experiment.sampling.num_frames}}, "few in training, all in validation"


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16"},
        {"optimizer": "sgd", "learning_rate": 0.01, "accumulate_batches": 2},
        {"class_weights": "balanced", "label_smoothing": 0.0, "gradient_clip_norm": 0.0},
        {"mixup_alpha": 0.4, "early_stopping_epochs": 1},
        {"train_frames": 2, "mixup_alpha": 0.4},
    ],
)
def test_every_setting_trains(motion_root: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    result = train(small_experiment(motion_root, tmp_path, **settings), quiet=True)
    assert np.isfinite(result.metrics["val_loss"])


def test_tensorboard_logs(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path, epochs=1)
    train(replace(experiment, machine=replace(experiment.machine, logger="tensorboard")), quiet=True)
    assert list(experiment.run_dir.glob("tensorboard/events.out.tfevents.*"))


def test_without_fast_heads_the_equations_train_and_evaluate(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a form written by hand was taken")

    for name in ("convolve_frames", "run_convgru"):
        monkeypatch.setattr(fast, name, refuse)
    experiment = small_experiment(motion_root, tmp_path, epochs=1)
    result = train(replace(experiment, machine=replace(experiment.machine, fast_heads=False)), quiet=True)
    evaluate = ["evaluate", str(result.model_path), "--quiet", "--output", str(tmp_path / "evaluation")]
    assert main([*evaluate, "--machine.fast_heads", "false"]) == 0
    with pytest.raises(AssertionError, match="by hand"):
        main(evaluate)


def break_some(motion_root: Path, folder: Path, every: int) -> Path:
    """A copy of the training set in which one file in ``every`` is cut off in its header."""
    shutil.copytree(motion_root / "train", folder)
    for path in sorted(folder.rglob("*.*"))[::every]:
        path.write_bytes(path.read_bytes()[:100])
    return folder


def test_bad_videos_are_named_and_left_out_and_too_many_fail(motion_root: Path, tmp_path: Path) -> None:
    broken = break_some(motion_root, tmp_path / "videos", every=13)
    experiment = small_experiment(broken, tmp_path, epochs=1)
    data = replace(experiment.data, val_fraction=0.0, test_fraction=0.34, max_bad_fraction=0.3)
    result = train(replace(experiment, data=data), quiet=True)
    report = (experiment.run_dir / "bad_videos.csv").read_text().splitlines()
    assert report[0] == "path,stage,cause,times"
    assert 1 <= len(report) - 1 <= 3
    assert result.model_path.exists()
    with pytest.raises(UserError, match=r"videos cannot be read, more than data\.max_bad_fraction 0\.0"):
        train(replace(experiment, name="strict", data=replace(data, max_bad_fraction=0.0)), quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: replace(e, training=replace(e.training, freeze_batch_norm=True)), "freeze_batch_norm false"),
        (lambda e: replace(e, data=replace(e.data, cache="features")), "data.cache features keeps what a frozen"),
        (
            lambda e: replace(
                e,
                data=replace(e.data, cache="features"),
                sampling=replace(e.sampling, mode="uniform"),
                transform=replace(e.transform, input="rgb_diff"),
                training=replace(e.training, backbone_lr_scale=0.0),
            ),
            "set sampling.mode dense and sampling.short_video hold_last",
        ),
        (lambda e: replace(e, training=replace(e.training, train_frames=99)), "is more than a clip has"),
        (lambda e: replace(e, model=replace(e.model, rgb_diff_scale=2.0)), "set transform.input rgb_diff"),
        (
            lambda e: replace(
                e,
                data=replace(e.data, cache="features"),
                training=replace(e.training, backbone_lr_scale=0.0, cutmix_alpha=1.0),
            ),
            "set training.mixup_alpha and training.cutmix_alpha 0",
        ),
    ],
)
def test_settings_that_do_not_agree(change: Callable[[Experiment], Experiment], message: str) -> None:
    with pytest.raises(UserError, match=message):
        change(small_experiment(Path("videos"), Path("runs")))


def test_an_unknown_format_ends_a_training(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    with pytest.raises(UserError, match="unknown data format 'ucf'"):
        train(replace(experiment, data=replace(experiment.data, format="ucf")), quiet=True)


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_that_resumes(
    motion_root: Path, tmp_path: Path, which: signal.Signals, code: int
) -> None:
    experiment = small_experiment(motion_root, tmp_path, epochs=500)
    experiment = replace(experiment, data=replace(experiment.data, num_workers=1))
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(experiment))
    process = forks.start(forks.command, "train", "--config", str(config), output=tmp_path / "output")
    last = experiment.run_dir / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.1)
    assert process.pid is not None
    os.killpg(process.pid, which)  # its workers get it too, as from a terminal or a scheduler
    process.join(120)
    errors = (tmp_path / "output").read_text()
    assert process.exitcode == code, errors
    assert "stopping after this step" in errors
    assert "continue with --resume" in errors
    assert "Traceback" not in errors
    epoch = torch.load(last, weights_only=True)["epoch"]
    shorter = replace(experiment, training=replace(experiment.training, epochs=epoch + 2))
    result = train(shorter, resume=True, quiet=True)
    assert json.dumps(result.metrics)
