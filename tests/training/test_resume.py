"""A run that was cut off, by a signal or without warning, ends as if it had never been: with workers, with or without
validation."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import Experiment
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import Splits, make_splits
from pipeline.errors import UserError
from pipeline.files.stopping import Interrupted
from pipeline.known_videos import KnownVideos
from pipeline.training.fit import train
from pipeline.training.resuming import refuse_other_run
from tests.small import small_experiment
from tests.stopping import crash_in_batch, signal_in_batch
from tests.training.test_training import assert_same, weights_of


def experiment_and_splits(root: Path, folder: Path, num_workers: int, *, validates: bool) -> tuple[Experiment, Splits]:
    """Three epochs of five steps on ten videos, everything that involves chance switched on."""
    experiment = small_experiment(root, folder, epochs=3)
    experiment = replace(experiment, data=replace(experiment.data, batch_size=2, num_workers=num_workers))
    splits = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed)
    splits = replace(splits, train=splits.train[::4][:10], val=splits.val[::4])
    return experiment, splits if validates else replace(splits, val=())


@pytest.fixture(scope="module")
def never_stopped(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, torch.Tensor]]:
    """Weights of the run with validation and of the one without."""
    weights = {}
    for validates in (True, False):
        experiment, splits = experiment_and_splits(
            motion_root, tmp_path_factory.mktemp("whole"), 0, validates=validates
        )
        weights[validates] = weights_of(experiment, splits)
    return weights


MOMENTS = [(7, "signal"), (5, "signal"), (10, "signal"), (8, "crash"), (6, "crash"), (12, "crash")]
# Every pair of a moment with workers, and with validation; both of these in all ways at two moments.
WAYS = [(*moment, *way) for moment in MOMENTS for way in ((0, True), (2, False))]
WAYS += [(*moment, *way) for moment in (MOMENTS[0], MOMENTS[3]) for way in ((2, True), (0, False))]


@pytest.mark.parametrize(("step", "how", "num_workers", "validates"), WAYS)
def test_it_ends_as_if_never_stopped(
    motion_root: Path,
    tmp_path: Path,
    never_stopped: dict[bool, dict[str, torch.Tensor]],
    step: int,
    how: str,
    num_workers: int,
    validates: bool,
) -> None:
    experiment, splits = experiment_and_splits(motion_root, tmp_path, num_workers, validates=validates)
    with pytest.MonkeyPatch.context() as patch:
        if how == "signal":
            signal_in_batch(patch, step, signal.SIGINT)
        else:
            crash_in_batch(patch, step)
        with pytest.raises(Interrupted if how == "signal" else MemoryError):
            train(experiment, splits, quiet=True)
    assert_same(weights_of(experiment, splits, resume=True), never_stopped[validates])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "data: " + 5000 * "["),
        ("config.yaml", "a: &a [x]\nb: [*a, *a]"),
        ("data.json", 100_000 * "["),
        ("data.json", '{"rows_sha256": NaN}'),
        ("data.json", "[]"),
    ],
)
def test_a_run_whose_own_files_make_no_sense_is_one_error(tmp_path: Path, name: str, text: str) -> None:
    experiment = small_experiment(tmp_path, tmp_path)
    experiment.run_dir.mkdir(parents=True)
    for file, content in {"config.yaml": "name: small", "data.json": "{}", name: text}.items():
        (experiment.run_dir / file).write_text(content)
    with pytest.raises(UserError, match=rf"{name}: .* so this run cannot be resumed"):
        refuse_other_run(experiment, Splits((), (), (), ()), KnownVideos(()), 1)
