"""Model files and configs of versions before 0.9, whose settings had other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from pipeline.checkpoint import load_model_file
from pipeline.cli import main
from pipeline.cli.parser import read_experiment
from pipeline.errors import UserError

OLD_FILE = Path(__file__).parents[1] / "samples" / "model_before_0_9.safetensors"


def test_a_model_file_scores_as_it_did() -> None:
    """Written and scored by version 0.1.0: rgb_and_difference, change_gain 2, output_norm batch, read frames."""
    file = load_model_file(OLD_FILE)
    assert (file.transform.input, file.recognizer.config.rgb_diff_scale, file.recognizer.config.scan) == (
        "rgb+rgb_diff",
        2.0,
        "none",
    )
    assert file.recognizer.config.classifier_batch_norm
    clip = torch.arange(4 * 6 * 16 * 16).reshape(1, 4, 6, 16, 16) % 7 / 7.0 - 0.5
    with torch.no_grad():
        scores = file.calibration.probabilities(file.recognizer(clip))[0]
    assert scores.tolist() == pytest.approx([0.29983866, 0.49984777, 0.20031361], abs=1e-6)
    assert file.provenance["experiment"] == {
        "name": "x",
        "transform": {"input": "rgb_diff"},
        "model": {"scan": "none"},
        "training": {"backbone_lr_scale": 0.5, "train_frames": 3},
        "machine": {"devices": 1},
    }


@pytest.mark.parametrize(
    ("block", "name", "value"),
    [
        ("model", "pooling", "motion"),
        ("model", "feature_norm", "power"),
        ("model", "heads", ["gru", "max"]),
        ("model", "heads", ["moments"]),
    ],
)
def test_a_file_that_needs_what_is_gone_is_refused_by_name(tmp_path: Path, block: str, name: str, value: Any) -> None:
    with safetensors.safe_open(OLD_FILE, "pt") as stored:  # type: ignore[no-untyped-call]
        said = json.loads(stored.metadata()["clipgru"])
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    said[block][name] = value
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(tensors, path, {"clipgru": json.dumps(said)})
    gone = value[-1] if isinstance(value, list) else value
    with pytest.raises(UserError, match=rf"m\.safetensors: {block}\.{name} {gone} went with version 0\.9"):
        load_model_file(path)


def test_a_config_is_read_and_fsdp_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(
        "transform:\n  representation: difference\nmodel:\n  read: rows\n  backbone: whitened\n  output_norm: batch\n"
        "  recompute_steps: 4\n  pooling: mean\ntraining:\n  frames_per_clip: 3\n"
        "trainer:\n  devices: 2\n  strategy: ddp\n"
    )
    experiment = read_experiment(path)
    assert (experiment.transform.input, experiment.model.scan) == ("rgb_diff", "rows")
    assert (experiment.model.backbone, experiment.model.checkpoint_steps) == ("resnet9_whitened", 4)
    assert experiment.model.classifier_batch_norm
    assert (experiment.training.train_frames, experiment.machine.devices) == (3, 2)
    for said, logger in (("true", "tensorboard"), ("false", "none")):
        path.write_text(f"machine:\n  tensorboard: {said}\n")
        assert read_experiment(path).machine.logger == logger
    path.write_text("trainer:\n  strategy: fsdp\n")
    with pytest.raises(UserError, match=r"old\.yaml: machine\.strategy fsdp went with version 0\.9"):
        read_experiment(path)


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["predict", "m", "v", "--isolate"], "--isolate is written --decode.isolate true"),
        (["predict", "m", "v", "--allow_url"], "--allow_url is written --decode.allow_url true"),
        (["predict", "m", "v", "--timeout_seconds=5"], "--timeout_seconds is written --decode.timeout_seconds"),
        (["train", "--model.read", "rows"], "--model.read is written --model.scan"),
        (["train", "--trainer.devices", "2"], "--trainer.devices is written --machine.devices"),
        (["train", "--machine.tensorboard", "true"], "--machine.tensorboard is written --machine.logger"),
        (["train", "--trainer.tensorboard", "true"], "--trainer.tensorboard is written --machine.logger"),
        (["evaluate", "m", "--trainer.devices", "2"], "--trainer.devices is written --machine.devices"),
    ],
)
def test_an_option_of_earlier_versions_is_refused_by_its_new_name(
    words: list[str], new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"clipgru: error: {new} in this version\n"
