"""A whole training run: splits, model, trainer, and the model file at the end."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console

from pipeline.checkpoint import ModelFile, provenance_of, save_model, write_atomically
from pipeline.config import Experiment, to_yaml
from pipeline.datasets.datamodule import Splits, VideoDataModule, make_splits, read_annotations
from pipeline.errors import UserError
from pipeline.training.callbacks import (
    AtomicCheckpointIO,
    BadVideoReport,
    EpochLines,
    ProgressBar,
    StopOnSignal,
    Throughput,
)
from pipeline.training.module import ClipClassifier, balanced_class_weights

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind."""

    model_path: Path
    model: ModelFile
    metrics: dict[str, float]
    """Figures of the epoch whose weights were kept."""


def train(
    experiment: Experiment, splits: Splits | None = None, *, resume: bool = False, quiet: bool = False
) -> TrainingResult:
    """Trains as ``experiment`` says and writes ``model.safetensors`` with the best epoch's weights to its run folder.

    Args:
        experiment: all settings.
        splits: the rows, if the caller has settled them; else read from ``experiment.data``.
        resume: continue an interrupted run exactly where it stopped.
        quiet: no progress on the terminal.

    Raises:
        UserError: anything wrong with settings or data, or a run folder in use.
        Interrupted: SIGINT or SIGTERM, after a checkpoint was written.
    """
    run_dir = experiment.run_dir
    _check_weights_can_learn(experiment)
    last = run_dir / "checkpoints" / "last.ckpt"
    _check_run_dir(run_dir, last, resume)
    splits = splits or make_splits(read_annotations(experiment.data), experiment.data, experiment.seed)
    seed_everything(experiment.seed, verbose=False)
    module = _build_module(experiment, splits)
    trainer = _build_trainer(experiment, splits, run_dir, quiet)
    write_atomically(run_dir / "config.yaml", to_yaml(experiment).encode())
    with _calm_lightning():
        trainer.fit(
            module,
            datamodule=VideoDataModule(experiment, splits),
            ckpt_path=str(last) if resume else None,
            weights_only=True,
        )
    return _finish(experiment, splits, module, trainer)


def _check_weights_can_learn(experiment: Experiment) -> None:
    training = experiment.training
    if experiment.model.weights == "none" and training.freeze_batch_norm:
        raise UserError(
            "model.weights none starts from random weights, whose batch-norm statistics must be learned: "
            "set training.freeze_batch_norm false"
        )


def _check_run_dir(run_dir: Path, last: Path, resume: bool) -> None:
    if resume and not last.exists():
        raise UserError(f"nothing to resume: {last} does not exist; leave --resume out to start")
    if not resume and last.exists():
        raise UserError(
            f"{run_dir} holds a run already; continue it with --resume, choose another --name, or remove the folder"
        )


def _build_module(experiment: Experiment, splits: Splits) -> ClipClassifier:
    weights = None
    if experiment.training.class_weights == "balanced":
        indices = [splits.labels.index(row.label) for row in splits.train]
        weights = balanced_class_weights(indices, len(splits.labels))
    return ClipClassifier(experiment, len(splits.labels), weights)


def _build_trainer(experiment: Experiment, splits: Splits, run_dir: Path, quiet: bool) -> Trainer:
    config = experiment.training
    loggers: list[Logger] = [CSVLogger(run_dir, name="", version="logs")]
    if experiment.trainer.tensorboard:
        loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    show_bar = not quiet and sys.stderr.isatty()
    return Trainer(
        accelerator=experiment.trainer.accelerator,
        devices=experiment.trainer.devices,
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate_batches,
        gradient_clip_val=config.gradient_clip_norm or None,
        callbacks=_callbacks(experiment, splits, run_dir, quiet, show_bar),
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=show_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def _callbacks(experiment: Experiment, splits: Splits, run_dir: Path, quiet: bool, show_bar: bool) -> list[Callback]:
    config, checkpoints = experiment.training, run_dir / "checkpoints"
    num_videos = len(splits.train) + len(splits.val)
    callbacks: list[Callback] = [
        Throughput(),
        BadVideoReport(run_dir / "bad_videos.csv", num_videos, experiment.data.max_bad_fraction),
        _keep_best(checkpoints, bool(splits.val)),
        StopOnSignal(checkpoints / "last.ckpt"),
    ]
    if config.ema_decay:
        callbacks.insert(0, EMAWeightAveraging(decay=config.ema_decay))
    if config.early_stopping_epochs:
        if not splits.val:
            raise UserError("training.early_stopping_epochs needs a validation split; set data.val_fraction above 0")
        callbacks.append(EarlyStopping("val_accuracy", mode="max", patience=config.early_stopping_epochs))
    if show_bar:
        callbacks.append(ProgressBar(leave=True, console_kwargs={"stderr": True}))
    elif not quiet:
        callbacks.append(EpochLines(Console(stderr=True)))
    return callbacks


def _keep_best(folder: Path, has_validation: bool) -> ModelCheckpoint:
    """``best.ckpt`` by validation accuracy, then loss; the last epoch's where nothing is validated."""
    return ModelCheckpoint(
        folder,
        filename="best",
        monitor="val_order" if has_validation else None,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )


def _finish(experiment: Experiment, splits: Splits, module: ClipClassifier, trainer: Trainer) -> TrainingResult:
    checkpoint: dict[str, Any] = torch.load(
        trainer.checkpoint_callback.best_model_path,  # type: ignore[union-attr]
        map_location="cpu",
        weights_only=True,
    )
    module.load_state_dict(checkpoint["state_dict"])
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    metrics["epoch"] = float(checkpoint["epoch"] + 1)
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if score is not None:
        metrics["best_val_order"] = float(score)
    model = ModelFile(
        module.recognizer.eval().cpu(),
        splits.labels,
        experiment.sampling,
        experiment.transform,
        experiment.decode,
        provenance_of(experiment) | {"num_training_videos": len(splits.train)},
        metrics,
    )
    path = experiment.run_dir / "model.safetensors"
    save_model(path, model)
    return TrainingResult(path, model, metrics)


class _calm_lightning(warnings.catch_warnings):  # noqa: N801 (a context manager, used like a function)
    """Silences Lightning's advertisements and its advice on worker counts, which are settled here."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*not resumable.*")  # the sampler and the datamodule are
        warnings.filterwarnings("ignore", ".*`training_step` returned `None`.*")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
