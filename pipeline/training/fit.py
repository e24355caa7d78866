"""A whole training run: splits, model, trainer, and the model file at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from rich.progress import Progress

from pipeline.calibration import UNCALIBRATED
from pipeline.checkpoint import ModelFile, provenance_of, save_model
from pipeline.config import Experiment, MachineConfig, to_yaml
from pipeline.datasets.annotations import VideoRow, name_some
from pipeline.datasets.datamodule import VideoDataModule, uses_cuda
from pipeline.datasets.features import FrozenBackbone
from pipeline.datasets.identities import Contents, Unseen
from pipeline.datasets.loading import lost_workers
from pipeline.datasets.sequence_data import SequenceDataModule
from pipeline.datasets.sequences import timeline_labels, timeline_videos
from pipeline.datasets.settled import Splits, read_splits, require_classes
from pipeline.datasets.summary import summarize_splits
from pipeline.description import check_describable
from pipeline.errors import UserError
from pipeline.files.lock import locked_folder, remove_stale
from pipeline.files.outputs import check_outputs, files_in
from pipeline.files.stopping import StopRequest
from pipeline.files.writing import write_atomically
from pipeline.known_videos import KnownVideos
from pipeline.ranks import Ranks, join
from pipeline.schema import to_json
from pipeline.terminal import PlainConsole
from pipeline.training.calibrating import calibrate
from pipeline.training.callbacks import (
    AtomicCheckpointIO,
    BadVideoReport,
    EpochLines,
    KeptCheckpoints,
    ProgressBar,
    StopOnSignal,
    Throughput,
)
from pipeline.training.calm import calm_lightning
from pipeline.training.initial import start_from, videos_seen_by
from pipeline.training.log import CsvLog
from pipeline.training.memory import check_step_fits, gpu_memory_errors
from pipeline.training.module import ClipClassifier, balanced_class_weights
from pipeline.training.precision import settle_precision
from pipeline.training.resuming import described_videos, refuse_other_run
from pipeline.training.timelines import TimelineLearner, fewer_threads, settle_features
from pipeline.training.trackers import check_tracker, tracking
from pipeline.training.tuning import choose_for

RUN_FILES = ("config.yaml", "data.json", "bad_videos.csv", "model.safetensors")
"""Files that a training writes into its run folder, beside checkpoints and logs."""
_STOPPING = (
    "stopping after this step; a second signal ends at once, and what was learned since the last checkpoint is lost"
)
_DATA: dict[str, type[VideoDataModule]] = {"clip": VideoDataModule, "timeline": SequenceDataModule}
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def _strategy(config: MachineConfig, ranks: Ranks) -> Strategy | str:
    if ranks.count == 1:
        return "auto"
    return DDPStrategy(timeout=timedelta(seconds=config.timeout_seconds), gradient_as_bucket_view=True)


@dataclass(frozen=True)
class TrainingResult:
    """The model and metrics of a finished run."""

    model_path: Path
    model: ModelFile
    metrics: dict[str, float]
    """Training figures of the last epoch, validation figures of the epoch whose weights were kept, and its number."""


def train(
    experiment: Experiment, splits: Splits | None = None, *, resume: bool = False, quiet: bool = False
) -> TrainingResult:
    """Trains as ``experiment`` says and writes ``model.safetensors`` with the best epoch's weights to its run folder.

    With several devices this runs once in each rank (see ``ranks.join``); the first one writes.

    Args:
        experiment: all settings.
        splits: the rows, if the caller has settled them; else read from ``experiment.data``.
        resume: continue an interrupted run exactly where it stopped.
        quiet: no progress on the terminal.

    Raises:
        UserError: anything wrong with settings or data, a run folder in use, or one to resume that was begun with other
            settings or videos.
        Interrupted: SIGINT, SIGTERM or SIGHUP, after a checkpoint was written.
    """
    ranks = join(experiment.machine)
    with ExitStack() as held:
        with ranks.agreement():
            if ranks.is_first:
                given = experiment.training.initial_model, experiment.data.annotations
                check_outputs(files_in(experiment.run_dir, RUN_FILES), filter(None, given))
                held.enter_context(locked_folder(experiment.run_dir))
                remove_stale(experiment.run_dir / "checkpoints")
        return _train(experiment, splits, resume=resume, quiet=quiet)


def _train(experiment: Experiment, splits: Splits | None, *, resume: bool, quiet: bool) -> TrainingResult:
    run_dir = experiment.run_dir
    last = run_dir / "checkpoints" / "last.ckpt"
    ranks = join(experiment.machine)
    quiet = quiet or not ranks.is_first
    with ranks.agreement():
        _check_run_dir(run_dir, last, resume)
        check_tracker(experiment.machine.logger)
        with ranks.in_turn():
            splits = splits or read_splits(experiment.data, experiment.seed, experiment.timeline_targets)
        videos = {row.path for part in (splits.train, splits.val, splits.test) for row in part}
        check_outputs(files_in(run_dir, RUN_FILES), videos)
        if experiment.task == "timeline":
            splits = replace(splits, labels=timeline_labels(splits.labels, experiment.sequence))
            experiment = settle_features(experiment, splits)
        require_classes(splits.labels, experiment.data.root)
        check_describable(experiment, splits.labels)
        seed_everything(experiment.seed, verbose=False)
        module, data = _build_module(experiment, splits, ranks), _DATA[experiment.task](experiment, splits, ranks)
        device = torch.device("cuda" if uses_cuda(experiment.machine) else "cpu")
        experiment, settled = settle_precision(experiment, module.recognizer, device)
        if device.type == "cpu" and not experiment.learns_from_features:
            check_step_fits(module, experiment.training.precision)
        notes = [*splits.notes, settled]
        initial = None if resume else experiment.training.initial_model
        if initial:
            said, module.came_from = start_from(initial, module.recognizer, experiment)
            module.transform.normalization = module.recognizer.backbone.normalization
            notes.append(said)
    contents = _read_contents(experiment, splits, quiet, ranks)
    with ranks.agreement():
        known = KnownVideos(*(contents.known(_seen(experiment, rows)) for rows in (splits.train, splits.val)))
        notes += _note_on_copies(known, splits, contents)
        if resume:
            known, said_of_it = refuse_other_run(experiment, splits, known, ranks.count)
            notes += said_of_it
        if initial:
            known = replace(known, earlier=videos_seen_by(initial, splits, contents))
    _say((f"note: {note}" for note in notes if note), quiet)
    stop = StopRequest("" if quiet or not ranks.is_first else _STOPPING)
    with calm_lightning(), tracking(experiment, ranks, resume=resume) as tracker, lost_workers():
        # The stop comes last, when the others have done their part of the batch (the average of weights has its step).
        stopping = StopOnSignal(last, stop, ranks)
        callbacks = [*_callbacks(experiment, splits, quiet, ranks), *([tracker] if tracker else []), stopping]
        trainer = _build_trainer(experiment, callbacks, quiet, ranks)
        if ranks.is_first:
            write_atomically(run_dir / "config.yaml", to_yaml(experiment))
            if not resume:
                summary = summarize_splits(splits, experiment.decode) | described_videos(splits, known)
                write_atomically(run_dir / "data.json", to_json(summary, indent=1, ensure_ascii=False))
        if experiment.task == "timeline" or experiment.learns_from_features:
            _cache_features(data, module.to(trainer.strategy.root_device), quiet)
        with stop.listening(), gpu_memory_errors(experiment), fewer_threads(experiment):
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=True)
        result = _finish(experiment, data, module, trainer, known)
        if tracker:
            tracker.send_final(result.model)
        return result


def _read_contents(experiment: Experiment, splits: Splits, quiet: bool, ranks: Ranks) -> Contents:
    """Reads every video once; a training reads them in any case, and finds them in memory."""
    contents, rows = Contents(experiment.data), (*splits.train, *splits.val)
    with Progress(console=PlainConsole(), disable=not _shows_bar(quiet), transient=True) as progress:
        total = len({row.path for row in rows}) / ranks.count
        task = progress.add_task("noting the content of each video", total=total)
        contents.digest_all(rows, lambda: progress.advance(task), ranks)
    return contents


def _seen(experiment: Experiment, rows: Sequence[VideoRow]) -> Sequence[VideoRow]:
    """Rows of what a training looks at: of timelines the whole videos."""
    return [video.row for video in timeline_videos(rows)] if experiment.task == "timeline" else rows


def _note_on_copies(known: KnownVideos, splits: Splits, contents: Contents) -> list[str]:
    copies = Unseen(replace(known, val=()), splits.val, contents, may_share_groups=True).judgeable(splits.val).left_out
    names = name_some(left.name for left in copies)
    return [f"validation videos are copies of training videos, and flatter. {names}"] if copies else []


def _say(texts: Iterable[str], quiet: bool) -> None:
    for text in () if quiet else texts:
        PlainConsole().print(text)


def _cache_features(data: VideoDataModule, module: ClipClassifier, quiet: bool) -> None:
    num_videos = len(_seen(data.experiment, (*data.splits.train, *data.splits.val)))
    with Progress(console=PlainConsole(), disable=not _shows_bar(quiet), transient=True) as progress:
        said = "embedding each frame once" if data.experiment.learns_from_features else "opening each video"
        task = progress.add_task(said, total=num_videos)
        module.eval()
        data.cache_features(FrozenBackbone(module.recognizer, module.transform), lambda: progress.advance(task))
        module.train()
        if isinstance(data, SequenceDataModule) and isinstance(module, TimelineLearner):
            module.note(data)


def _check_run_dir(run_dir: Path, last: Path, resume: bool) -> None:
    if resume and not last.exists():
        raise UserError(f"nothing to resume: {last} does not exist; leave --resume out to start")
    if not resume and last.exists():
        raise UserError(
            f"{run_dir} holds a run already; continue it with --resume, choose another --name, or remove the folder"
        )


def _build_module(experiment: Experiment, splits: Splits, ranks: Ranks) -> ClipClassifier:
    if experiment.task == "timeline":
        return TimelineLearner(experiment, len(splits.labels), ranks=ranks)
    weights = None
    if experiment.training.class_weights == "balanced":
        indices = [splits.labels.index(row.label) for row in splits.train]
        weights = balanced_class_weights(indices, len(splits.labels))
    return ClipClassifier(experiment, len(splits.labels), weights, ranks)


def _build_trainer(experiment: Experiment, callbacks: list[Callback], quiet: bool, ranks: Ranks) -> Trainer:
    config, run_dir = experiment.training, experiment.run_dir
    part = 1 + len(list(run_dir.glob("logs_*")))  # a resumed run has a log of its own; the logger would erase the first
    loggers: list[Logger] = [CsvLog(run_dir / f"logs_{part}")]
    if experiment.machine.logger == "tensorboard":
        loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    return Trainer(
        accelerator=experiment.machine.accelerator,
        devices=experiment.machine.devices,
        num_nodes=experiment.machine.num_nodes,
        strategy=_strategy(experiment.machine, ranks),
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate_batches,
        gradient_clip_val=config.gradient_clip_norm or None,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=_shows_bar(quiet),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def _shows_bar(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _callbacks(experiment: Experiment, splits: Splits, quiet: bool, ranks: Ranks) -> list[Callback]:
    config, run_dir = experiment.training, experiment.run_dir
    num_videos = len(_seen(experiment, (*splits.train, *splits.val)))
    callbacks: list[Callback] = [
        Throughput(ranks),
        BadVideoReport(run_dir / "bad_videos.csv", num_videos, experiment.data.max_bad_fraction, ranks),
        _keep_best(run_dir / "checkpoints", bool(splits.val)),
    ]
    if config.ema_decay:
        callbacks.insert(0, EMAWeightAveraging(decay=config.ema_decay))
    if config.early_stopping_epochs:
        if not splits.val:
            raise UserError("training.early_stopping_epochs needs a validation split; set data.val_fraction above 0")
        callbacks.append(EarlyStopping("val_accuracy", mode="max", patience=config.early_stopping_epochs))
    if _shows_bar(quiet):
        callbacks.append(ProgressBar(leave=True, console_kwargs={"stderr": True}))
    elif not quiet:
        callbacks.append(EpochLines(PlainConsole()))
    return callbacks


def _keep_best(folder: Path, has_validation: bool) -> KeptCheckpoints:
    """``best.ckpt`` by validation accuracy, then loss; the last epoch's where nothing is validated."""
    return KeptCheckpoints(
        folder,
        filename="best",
        monitor="val_order" if has_validation else None,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )


def _finish(
    experiment: Experiment, data: VideoDataModule, module: ClipClassifier, trainer: Trainer, known: KnownVideos
) -> TrainingResult:
    splits, ranks = data.splits, data.ranks
    checkpoint: dict[str, Any] = torch.load(
        trainer.checkpoint_callback.best_model_path,  # type: ignore[union-attr]
        map_location="cpu",
        weights_only=True,
    )
    module.load_state_dict(checkpoint["state_dict"])
    names = {"train_loss_epoch": "train_loss", "train_accuracy": "train_accuracy"}
    figures = trainer.callback_metrics  # empty if a finished run was resumed
    metrics = {name: float(figures[key]) for key, name in names.items() if key in figures}
    metrics |= checkpoint["figures"] | {"epoch": checkpoint["epoch"] + 1}
    calibration = UNCALIBRATED if experiment.task == "timeline" else calibrate(module, data.val_dataloader(), ranks)
    numbers = None
    if isinstance(module, TimelineLearner):
        numbers = choose_for(module, data.val_dataloader(), splits.train)
    initial = {"initial_model": module.came_from} if module.came_from else {}
    model = ModelFile(
        module.recognizer.eval().cpu(),
        splits.labels,
        experiment.sampling,
        experiment.transform,
        experiment.decode,
        provenance_of(experiment) | {"num_training_videos": len(splits.train)} | initial,
        metrics,
        calibration,
        known,
        experiment.task,
        experiment.sequence,
        numbers,
    )
    path = experiment.run_dir / "model.safetensors"
    if ranks.is_first:
        save_model(path, model)
    ranks.wait()
    return TrainingResult(path, model, metrics)
