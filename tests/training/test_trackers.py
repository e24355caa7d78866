"""Trainings that are followed from elsewhere: W&B offline, and MLflow against a server on the loopback."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config import Experiment
from pipeline.errors import UserError
from pipeline.files.stopping import Interrupted
from pipeline.training import callbacks
from pipeline.training.fit import train
from tests.mlflow_server import MlflowServer
from tests.ports import free_port
from tests.small import small_experiment
from tests.stopping import signal_in_batch


def tracked(root: Path, folder: Path, logger: Any, **training: Any) -> Experiment:
    experiment = small_experiment(root, folder, **training)
    return replace(experiment, machine=replace(experiment.machine, logger=logger))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sys, "argv", ["clipgru", "--anything=hidden-word"])
    with MlflowServer() as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.url)
        yield running


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setattr(sys, "argv", ["clipgru", "--anything=hidden-word"])


def test_mlflow_gets_settings_epochs_and_final_figures(motion_root: Path, tmp_path: Path, server: MlflowServer) -> None:
    result = train(tracked(motion_root, tmp_path, "mlflow"), quiet=True)
    (run,) = server.runs.values()
    assert run["tags"]["mlflow.runName"] == "small"
    assert run["status"] == "FINISHED"
    assert run["params"]["experiment/data/root"] == str(motion_root)[:250]
    assert run["params"]["experiment/training/epochs"] == "2"
    assert run["params"]["num_training_videos"] == str(result.model.provenance["num_training_videos"])
    metrics = run["metrics"]
    assert [step for step, _ in metrics["train_loss"]] == [1, 2]
    assert [step for step, _ in metrics["val_accuracy"]] == [1, 2]
    final = {name.removeprefix("final/"): values[0][1] for name, values in metrics.items() if "final/" in name}
    assert final == pytest.approx(result.metrics)
    best = int(result.metrics["epoch"])
    assert dict(metrics["val_accuracy"])[best] == pytest.approx(result.metrics["val_accuracy"])
    assert "hidden-word" not in json.dumps(server.runs)


def test_a_resumed_training_goes_on_in_the_same_mlflow_run(
    motion_root: Path, tmp_path: Path, server: MlflowServer
) -> None:
    experiment = tracked(motion_root, tmp_path, "mlflow")
    with pytest.MonkeyPatch.context() as patch:
        signal_in_batch(patch, 7, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(experiment, quiet=True)
    assert [run["status"] for run in server.runs.values()] == ["KILLED"]
    longer = replace(experiment, training=replace(experiment.training, epochs=3))  # a setting that MLflow has
    train(longer, resume=True, quiet=True)
    (run,) = server.runs.values()
    assert run["status"] == "FINISHED"
    assert [step for step, _ in run["metrics"]["train_loss"]] == [1, 2, 3]
    assert run["params"]["experiment/training/epochs"] == "2"


def test_a_server_that_goes_down_ends_no_training(
    motion_root: Path,
    tmp_path: Path,
    server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = callbacks.BadVideoReport.on_train_epoch_end

    def down_then(self: Any, trainer: Any, module: Any) -> None:
        original(self, trainer, module)
        if trainer.current_epoch == 1:
            server.stop()

    monkeypatch.setattr(callbacks.BadVideoReport, "on_train_epoch_end", down_then)
    result = train(tracked(motion_root, tmp_path, "mlflow", epochs=4), quiet=True)
    assert result.model_path.exists()
    assert capsys.readouterr().err.count("machine.logger mlflow takes no more figures") == 1
    (run,) = server.runs.values()
    assert [step for step, _ in run["metrics"]["train_loss"]] == [1]


def test_without_a_server_no_training_begins_and_no_login_is_shown(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hidden-word@127.0.0.1:{free_port()}")
    experiment = tracked(motion_root, tmp_path, "mlflow")
    with pytest.raises(UserError, match=r"machine\.logger mlflow cannot begin \(.*MLFLOW_TRACKING_URI runs") as caught:
        train(experiment, quiet=True)
    assert "hidden-word" not in str(caught.value)
    assert not list(experiment.run_dir.glob("*.json")), "nothing half-written"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="needs a server: set MLFLOW_TRACKING_URI"):
        train(experiment, quiet=True)


def test_a_run_that_the_server_lost_is_named(motion_root: Path, tmp_path: Path, server: MlflowServer) -> None:
    experiment = tracked(motion_root, tmp_path, "mlflow", epochs=1)
    train(experiment, quiet=True)
    server.runs.clear()
    with pytest.raises(UserError, match=r"RESOURCE_DOES_NOT_EXIST.* or remove .*tracked_run\.json to begin a new run"):
        train(replace(experiment, training=replace(experiment.training, epochs=2)), resume=True, quiet=True)


@pytest.mark.usefixtures("offline")
def test_wandb_offline_keeps_the_run_for_a_later_sync(motion_root: Path, tmp_path: Path) -> None:
    experiment = tracked(motion_root, tmp_path, "wandb", epochs=1)
    result = train(experiment, quiet=True)
    (file,) = experiment.run_dir.glob("wandb/offline-run-*/*.wandb")
    begun = json.loads((experiment.run_dir / "tracked_run.json").read_text())
    assert file.name == f"run-{begun['run_id']}.wandb"
    content = file.read_bytes()
    for word in ("val_accuracy", "final/val_accuracy", "num_training_videos", json.dumps(result.metrics["val_loss"])):
        assert word.encode() in content
    everything = b"".join(path.read_bytes() for path in (experiment.run_dir / "wandb").rglob("*") if path.is_file())
    for secret in ("hidden-word", "0123456789" * 2):
        assert secret.encode() not in everything
    longer = replace(experiment, training=replace(experiment.training, epochs=2))
    train(longer, resume=True, quiet=True)
    assert {path.name for path in experiment.run_dir.glob("wandb/offline-run-*/*.wandb")} == {file.name}


@pytest.mark.parametrize(("logger", "module"), [("wandb", "wandb"), ("mlflow", "mlflow.exceptions")])
def test_a_package_that_is_not_there_is_said_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logger: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    words = ["train", "--data.root", str(tmp_path / "none"), "--output_dir", str(tmp_path), "--machine.logger", logger]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f"pip install 'clipgru[{logger}]'" in message
    assert len(message.splitlines()) == 1


def test_a_damaged_note_of_the_run_is_named(motion_root: Path, tmp_path: Path, server: MlflowServer) -> None:
    experiment = tracked(motion_root, tmp_path, "mlflow", epochs=1)
    train(experiment, quiet=True)
    (experiment.run_dir / "tracked_run.json").write_text('{"logger": "mlflow"}')
    with pytest.raises(UserError, match=r"tracked_run\.json"):
        train(replace(experiment, training=replace(experiment.training, epochs=2)), resume=True, quiet=True)
    assert len(server.runs) == 1
