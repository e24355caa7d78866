"""Going on with an interrupted run: only with the settings and the videos that it began with.

What it began with stands in its folder: ``config.yaml``, and ``data.json`` with the videos that it knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from pipeline.config import Experiment, read_yaml, to_dict
from pipeline.config.text import flat, shown
from pipeline.datasets.annotations import name_some
from pipeline.datasets.datamodule import VideoDataModule
from pipeline.datasets.settled import Splits
from pipeline.errors import UserError
from pipeline.known_videos import KnownVideo, KnownVideos
from pipeline.schema import read_json

_MAY_DIFFER = (
    "name", "output_dir",  # the folder may have been moved
    "data.root", "data.annotations", "data.allow_links",  # so may the videos, which are compared
    "data.num_workers", "data.timeout_seconds", "data.cache_dir", "data.cache_max_gb", "data.max_bad_fraction",
    "decode.isolate", "decode.timeout_seconds", "decode.max_memory_mb", "decode.max_pixels", "decode.max_frames",
    "decode.max_seconds", "decode.allow_url", "decode.max_download_mb", "decode.index_cache",
    "training.epochs",  # to train for longer
    "machine.accelerator", "machine.timeout_seconds", "machine.logger",
)  # fmt: skip
"""Settings of where, how fast and for how long a run goes, not of what it learns."""


def described_videos(splits: Splits, known: KnownVideos) -> dict[str, Any]:
    """Return what ``data.json`` keeps of the rows, for ``refuse_other_run``."""
    return {"videos": known.to_json(), "rows_sha256": _digest_of(splits)}


def _digest_of(splits: Splits) -> str:
    """Of labels, rows and their order, which are more than the videos."""
    rows = [
        [row.name, row.label, row.start_seconds, row.end_seconds, *([] if row.looked_at else [False])]
        for row in (*splits.train, *splits.val)
    ]
    return hashlib.sha256(json.dumps([splits.labels, rows]).encode()).hexdigest()


def refuse_other_run(
    experiment: Experiment, splits: Splits, known: KnownVideos, num_ranks: int
) -> tuple[KnownVideos, list[str]]:
    """Refuses to go on with a run that was begun otherwise. Nothing is written.

    Args:
        experiment: the settings to go on with.
        splits: the rows to go on with.
        known: their videos.
        num_ranks: processes that would train.

    Returns:
        The videos that the run knows, those of earlier models too; and what to say.

    Raises:
        UserError: settings or videos differ, and which; or the run's own files are damaged.
    """
    config, data = experiment.run_dir / "config.yaml", experiment.run_dir / "data.json"
    before = _read(config, read_yaml)
    began = _read(data, read_json)
    settings = list(_settings_that_differ(before, experiment))
    differences = [f"settings, {name_some(settings)}"] if settings else []
    ranks, epochs_done = _progress_of(experiment.run_dir / "checkpoints" / "last.ckpt")
    if ranks != num_ranks:
        differences.append(f"processes were {ranks}, are {num_ranks} (machine.devices and machine.num_nodes)")
    if experiment.training.epochs < epochs_done:
        differences.append(f"{epochs_done} epochs are done, and training.epochs is {experiment.training.epochs}")
    epochs, epochs_before = experiment.training.epochs, dict(flat(before)).get("training.epochs")
    notes = []
    if epochs != epochs_before:
        notes.append(
            f"training.epochs was {epochs_before}, is {epochs}: the learning rate follows the new plan from here"
        )
    if "videos" in began:
        videos = KnownVideos.from_json(began["videos"], str(data))
        differences += _videos_that_differ(videos, known) or (
            ["labels, or the order of videos"] if began.get("rows_sha256") != _digest_of(splits) else []
        )
        known = replace(known, earlier=videos.earlier)
    else:
        notes.append(f"{data} does not say which videos the run was begun with; they are taken for the same")
    if differences:
        raise UserError(
            f"{experiment.run_dir} was begun with other settings or videos, and is left as it is: "
            f"{'; '.join(differences)}. Go on with those of {config}, or begin a new run with another --name"
        )
    return known, notes


def _read(path: Path, parse: Callable[[str, str], Any]) -> dict[str, Any]:
    try:
        found = parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path}: cannot be read, so this run cannot be resumed ({error}); begin a new one") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not as clipgru writes it, so this run cannot be resumed; begin a new one")
    return found


def _progress_of(checkpoint: Path) -> tuple[int, int]:
    """Numbers of processes that trained, and of epochs that they finished."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        epochs = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        data = state.get(VideoDataModule.__qualname__) or state["SequenceDataModule"]
        return int(data.get("ranks", 1)), int(epochs)
    except (
        OSError,
        RuntimeError,
        UnpicklingError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
    ) as error:
        raise UserError(f"{checkpoint}: a damaged checkpoint ({error}); begin a new run with another --name") from error


def _settings_that_differ(before: dict[str, Any], experiment: Experiment) -> Iterator[str]:
    ours = dict(flat(to_dict(experiment)))
    theirs = dict(flat(to_dict(Experiment()))) | dict(flat(before))  # a setting that is new since has its default
    for name, value in ours.items():
        if theirs.get(name) != value and name not in _MAY_DIFFER:
            yield f"{name} was {shown(theirs.get(name))}, is {shown(value)}"


def _videos_that_differ(before: KnownVideos, now: KnownVideos) -> list[str]:
    """Descriptions of the videos that differ, by part."""
    differences = []
    for part, words in (("train", "training"), ("val", "validation")):
        old, new = (_by_stretch(getattr(known, part)) for known in (before, now))
        kinds = {
            "new": new.keys() - old.keys(),
            "gone": old.keys() - new.keys(),
            "changed": {key for key in new.keys() & old.keys() if new[key] != old[key]},
        }
        for kind, keys in kinds.items():
            if keys:
                differences.append(f"{kind} in the {words} videos, {name_some(sorted({name for name, *_ in keys}))}")
    return differences


def _by_stretch(videos: Sequence[KnownVideo]) -> dict[tuple[str, float, float | None], KnownVideo]:
    return {(video.name, video.start_seconds, video.end_seconds): video for video in videos}
