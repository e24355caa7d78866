"""The figures of a training sent to Weights & Biases or MLflow, by Lightning's loggers for them.

Each library is imported when ``machine.logger`` names it. It gets the settings, the figures of each epoch and the final
ones: no video, no picture, no name of this machine, and of an address what anybody may see. ``tracked_run.json`` in the
run folder keeps the run's id there, for a training that is resumed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from pipeline.checkpoint import ModelFile, provenance_of
from pipeline.config import Experiment
from pipeline.errors import UserError
from pipeline.files.stopping import Interrupted
from pipeline.files.writing import write_atomically
from pipeline.ranks import Ranks
from pipeline.schema import read_checked, read_json
from pipeline.sources import shown_text
from pipeline.terminal import PlainConsole
from pipeline.training.callbacks import figures_of_epoch

_TRACKED_RUN_FILE = "tracked_run.json"
_CURES = {
    "wandb": "log in with wandb login or WANDB_API_KEY, or set WANDB_MODE=offline and use wandb sync later",
    "mlflow": "see that the server at MLFLOW_TRACKING_URI runs and lets you in",
}
_MAX_END_SECONDS = 60.0  # for what W&B has not sent by the end, which stays on disk for wandb sync
_Outcome = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class _TrackedRun:
    """A run of a tracker, as the run folder keeps it."""

    logger: Literal["wandb", "mlflow"]
    run_id: str


class _Tracker(Callback):
    """Sends each epoch's figures to a tracker. Where it fails, that is said once and nothing more is sent: the training
    goes on, and its own files have all figures.

    Args:
        logger: Lightning's logger, with its run begun.
        name: ``wandb`` or ``mlflow``.
    """

    def __init__(self, logger: Logger, name: Literal["wandb", "mlflow"]) -> None:
        self._logger, self._name, self._is_lost = logger, name, False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the figures of the epoch, under its number from 1."""
        figures = figures_of_epoch(trainer)
        self._send(lambda: self._logger.log_metrics(figures, step=trainer.current_epoch + 1))

    def send_final(self, model: ModelFile) -> None:
        """Send the figures of the model file as ``final/...``, and what of its origin was not known at the start."""
        final = {f"final/{name}": value for name, value in model.metrics.items()}
        sent = provenance_of(Experiment())
        late = {name: value for name, value in model.provenance.items() if name not in sent}
        self._send(lambda: self._logger.log_metrics(final, step=int(model.metrics["epoch"])))
        self._send(lambda: self._logger.log_hyperparams(_shown(late)))

    def end(self, outcome: _Outcome) -> None:
        """End the run there, by MLflow's word for how the training ended."""
        if isinstance(self._logger, WandbLogger):
            run = self._logger.experiment
            self._send(lambda: run.finish(exit_code=int(outcome != "FINISHED")))
        else:
            self._send(lambda: self._logger.finalize(outcome))

    def _send(self, send: Callable[[], None]) -> None:
        if self._is_lost:
            return
        try:
            send()
        except _errors_of(self._name) as error:
            self._is_lost = True
            PlainConsole().print(
                f"note: machine.logger {self._name} takes no more figures ({_reason(error)}); the training goes on, "
                "and its run folder has them all"
            )


def check_tracker(logger: str) -> None:
    """Raise ``UserError`` if ``machine.logger`` needs a package that is not installed."""
    if logger in _CURES:
        try:
            _errors_of(logger)
        except ImportError as error:
            raise UserError(
                f"machine.logger {logger}: the package is not there ({error}); pip install 'clipgru[{logger}]', or set "
                "machine.logger none"
            ) from error


@contextmanager
def tracking(experiment: Experiment, ranks: Ranks, *, resume: bool) -> Iterator[_Tracker | None]:
    """Begin a run with the tracker that ``machine.logger`` names, or go on with the one that the run folder knows, and
    end it as the block ends. None where it names none of these, and in all ranks but the first.

    Raises:
        UserError: the tracker cannot begin: no login, no server, no such run.
    """
    name = experiment.machine.logger
    if name not in ("wandb", "mlflow"):
        yield None
        return
    with ranks.agreement():
        tracker = _begin(experiment, name, resume) if ranks.is_first else None
    if tracker is None:
        yield None
        return
    outcome: _Outcome = "FAILED"
    try:
        yield tracker
        outcome = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        outcome = "KILLED"
        raise
    finally:
        tracker.end(outcome)


def _begin(experiment: Experiment, name: Literal["wandb", "mlflow"], resume: bool) -> _Tracker:
    file = experiment.run_dir / _TRACKED_RUN_FILE
    known = _known_run(file, name) if resume else None
    try:
        logger = _LOGGERS[name](experiment, known)
        run_id = str(logger.version)
        if known is None:  # what a run was begun with stays: MLflow takes no second value
            logger.log_hyperparams(_shown(provenance_of(experiment)))
    except _errors_of(name) as error:
        gone = f", or remove {file} to begin a new run there" if known else ""
        cure = f"{_CURES[name]}, or set machine.logger none{gone}"
        raise UserError(f"machine.logger {name} cannot begin ({_reason(error)}): {cure}") from None
    write_atomically(file, json.dumps(asdict(_TrackedRun(name, run_id))) + "\n")
    return _Tracker(logger, name)


def _known_run(file: Path, name: str) -> str | None:
    """The id of the run that was begun with this tracker; None if there was none."""
    if not file.exists():
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it to begin a new run there") from error
    run = read_checked(_TrackedRun, read_json(text, str(file)), str(file))
    return run.run_id if run.logger == name else None


def _begin_wandb(experiment: Experiment, run_id: str | None) -> Logger:
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_git=True,
        save_code=False,
        silent=True,
        finish_timeout=_MAX_END_SECONDS,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "clipgru"),
        name=experiment.name,
        dir=experiment.run_dir,
        id=run_id,
        resume="allow",
        reinit="create_new",
        settings=settings,
    )
    return WandbLogger(experiment=run)


def _begin_mlflow(experiment: Experiment, run_id: str | None) -> Logger:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UserError("machine.logger mlflow needs a server: set MLFLOW_TRACKING_URI, or machine.logger none")
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", "clipgru")
    return MLFlowLogger(project, run_name=experiment.name, tracking_uri=uri, run_id=run_id)


_LOGGERS = {"wandb": _begin_wandb, "mlflow": _begin_mlflow}


def _errors_of(name: str) -> tuple[type[Exception], ...]:
    """All that a library raises where a server, a login or a disk is not as it should be."""
    if name == "wandb":
        import wandb

        return wandb.Error, OSError
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError


def _reason(error: Exception) -> str:
    """The kind of an error. The libraries' own words repeat addresses, with the login in them."""
    return getattr(error, "error_code", "") or type(error).__name__


def _shown(settings: Any) -> Any:
    """The same settings, their texts with what anybody may see of the addresses in them."""
    if isinstance(settings, dict):
        return {name: _shown(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_shown(value) for value in settings]
    return shown_text(settings) if isinstance(settings, str) else settings
