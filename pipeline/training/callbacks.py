"""Callbacks of a training: speed and waiting, signals, unreadable videos, checkpoints that are never half."""

from __future__ import annotations

import io
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

from pipeline.datasets.videos import BadVideo
from pipeline.errors import UserError
from pipeline.files.stopping import Interrupted, StopRequest
from pipeline.files.writing import write_atomically
from pipeline.ranks import ALONE, Ranks
from pipeline.report.tables import csv_text
from pipeline.terminal import PlainConsole
from pipeline.training.module import BadRows, ClipClassifier, add_bad_videos


class StopOnSignal(Callback):
    """Stops the run on a signal: finishes the batch, or a validation that has begun, then raises ``Interrupted`` with
    ``last.ckpt`` written. A second signal does not wait. A signal to one rank stops all.

    Args:
        checkpoint: None for a short training that keeps none.
        stop: listens around the whole fit, because Lightning too sets handlers when it begins and puts back what it
            found when it ends.
    """

    def __init__(self, checkpoint: Path | None, stop: StopRequest, ranks: Ranks = ALONE) -> None:
        self._checkpoint, self._stop, self._ranks = checkpoint, stop, ranks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes SIGTERM back: by now Lightning's handler stands before ours, and would talk to the other ranks while
        they are busy with something else."""
        self._stop.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between two batches everything is consistent: the place to stop. After the last batch of an epoch its
        validation comes first, so that the best epoch is the same as in a run that was never stopped."""
        number = self._ranks.largest(self._stop.signal_number or 0)
        if number and not trainer.is_last_batch:
            if self._checkpoint is not None:
                trainer.save_checkpoint(self._checkpoint)
            self._end(number)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if asked to: the epoch before is complete, and its end was written to ``last.ckpt``."""
        number = self._ranks.largest(self._stop.signal_number or 0)
        if number and (self._checkpoint is None or self._checkpoint.exists()):
            self._end(number)

    on_train_end = on_train_epoch_start  # resuming has nothing left to train then

    def _end(self, number: int) -> NoReturn:
        again = f"continue with --resume ({self._checkpoint})" if self._checkpoint else "the same command begins again"
        raise Interrupted(number, again, self._checkpoint)


class KeptCheckpoints(ModelCheckpoint):
    """Lightning's, but in a run folder that was moved it finds its checkpoints, and knows how good the best one is."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state with all checkpoints in this folder."""
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: self._here(state_dict[name]) for name in names}
        best = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | moved | {"dirpath": self.dirpath, "best_k_models": best})

    def _here(self, path: str) -> str:
        return str(Path(self.dirpath or "", Path(path).name)) if path else path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that a kill at any moment leaves whole: a new file replaces the old one in one step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Serialise in memory, then replace the file."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())


class Throughput(Callback):
    """Shows clips/s of all ranks and the share of time spent waiting for data, per step on the bar and per epoch in the
    logs."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks; a run resumed in the middle of an epoch has no other beginning."""
        self._epoch_start = self._batch_end = time.perf_counter()
        self._waited_seconds, self._clips = 0.0, 0

    on_train_epoch_start = on_train_start  # figures are of one epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, _: int) -> None:
        """Count the time since the last batch ended as waiting."""
        self._waited_seconds += time.perf_counter() - self._batch_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the figures."""
        self._clips += len(batch) * self._ranks.count
        self._batch_end = time.perf_counter()
        elapsed = self._batch_end - self._epoch_start
        pl_module.log("clips_per_second", self._clips / elapsed, prog_bar=True, batch_size=1)
        pl_module.log("waiting_share", self._waited_seconds / elapsed, prog_bar=True, batch_size=1)


class BadVideoReport(Callback):
    """Names every unreadable row in ``bad_videos.csv`` and fails the run if there are too many."""

    def __init__(self, path: Path, num_videos: int, max_bad_fraction: float, ranks: Ranks = ALONE) -> None:
        self._path, self._num_videos, self._max_bad_fraction, self._ranks = path, num_videos, max_bad_fraction, ranks

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every video has been met once an epoch, by one rank or another."""
        assert isinstance(pl_module, ClipClassifier)
        bad: BadRows = {}
        for part in self._ranks.gather(pl_module.bad_videos):
            add_bad_videos(bad, part.values())
        with self._ranks.agreement():
            if self._ranks.is_first:
                _check_bad_videos(list(bad.values()), self._num_videos, self._max_bad_fraction, self._path)


def _check_bad_videos(bad: list[BadVideo], num_videos: int, max_bad_fraction: float, report: Path) -> None:
    """Writes the report if there is anything to report.

    Raises:
        UserError: more than ``max_bad_fraction`` of the videos are bad.
    """
    if not bad:
        return
    rows = [asdict(video) for video in sorted(bad, key=lambda video: (video.path, video.stretch[0]))]
    write_atomically(report, csv_text(rows, ("path", "stage", "cause", "times")))
    if len(bad) > max_bad_fraction * num_videos:
        raise UserError(
            f"{len(bad)} of {num_videos} videos cannot be read, more than data.max_bad_fraction {max_bad_fraction}; "
            f"the first: {bad[0].path}: {bad[0].cause}. All are in {report}"
        )


# What the bar shows: name in the logs, short name, format.
_SHOWN = (
    ("train_loss_step", "loss", ".3f"),
    ("train_accuracy", "accuracy", ".1%"),
    ("val_accuracy", "val", ".1%"),
    ("clips_per_second", "clips/s", ".0f"),
    ("waiting_share", "waiting", ".0%"),
)


class ProgressBar(RichProgressBar):
    """Lightning's rich bar, with the figures that matter and no version number."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The figures in the order and with the names of ``_SHOWN``."""
        metrics = super().get_metrics(trainer, pl_module)
        return {short: format(metrics[name], form) for name, short, form in _SHOWN if name in metrics}


def figures_of_epoch(trainer: Trainer) -> dict[str, float]:
    """Return the figures of the epoch that ends, by name: those of train_loss, train_accuracy, val_accuracy, val_loss,
    clips_per_second and waiting_share that there are."""
    wanted = ("train_loss_epoch", "train_accuracy", "val_accuracy", "val_loss", "clips_per_second", "waiting_share")
    figures = trainer.callback_metrics
    return {name.removesuffix("_epoch"): float(figures[name]) for name in wanted if name in figures}


class EpochLines(Callback):
    """One line an epoch, for logs and pipes where a bar would be noise."""

    def __init__(self, console: PlainConsole) -> None:
        self._console = console

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        figures = "  ".join(f"{name} {value:.3f}" for name, value in figures_of_epoch(trainer).items())
        self._console.print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {figures}")
