"""Starting from a model that was trained before, on other data: what it has learned to see, and how it reads time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.checkpoint import ModelFile, load_model_file, read_description
from pipeline.config import Experiment
from pipeline.datasets.identities import Contents, Unseen
from pipeline.datasets.settled import Splits
from pipeline.errors import UserError
from pipeline.hub import local_model
from pipeline.known_videos import KnownVideo, KnownVideos
from pipeline.models.recognizer import Recognizer


def start_from(path: str, recognizer: Recognizer, experiment: Experiment) -> tuple[str, dict[str, Any]]:
    """Puts a model file's backbone into a recogniser, and its temporal heads if theirs are the same; the classifier
    stays new.

    Args:
        path: the model file.
        recognizer: the new one; changed in place.
        experiment: its settings.

    Returns:
        What was taken, for people; and where the earlier model came from, for the new one's file.

    Raises:
        UserError: the file is no model file, has another backbone, or was trained on the same data.
    """
    file = load_model_file(local_model(path))
    _check_backbone(path, file, experiment, recognizer.backbone)
    _check_no_leak(path, file, experiment)
    recognizer.backbone.load_state_dict(file.recognizer.backbone.state_dict())
    recognizer.backbone.normalization = file.normalization
    taken = ["backbone"]
    for name in ("feature_norm", "temporal"):
        own, given = recognizer.get_submodule(name), file.recognizer.get_submodule(name)
        if _shapes(own) and _shapes(own) == _shapes(given):
            own.load_state_dict(given.state_dict())
            taken.append({"feature_norm": "scales of the features", "temporal": "temporal heads"}[name])
    return f"starts from {path}: {', '.join(taken)}", file.provenance


def videos_seen_by(path: str, splits: Splits, contents: Contents) -> tuple[KnownVideo, ...]:
    """Return the videos that a model file has seen, which a model that starts from it has seen as well.

    Raises:
        UserError: some of them are held out by ``splits``: every figure would flatter.
    """
    described = read_description(Path(local_model(path)))
    if described["videos"] is None:
        return ()
    known = KnownVideos.from_json(described["videos"], path)
    held_out = (*splits.val, *splits.test)
    found = Unseen(known, held_out, contents).judgeable(held_out)
    if found.left_out:
        raise UserError(
            f"{path}: it has seen videos that are held out now: {'; '.join(found.notes())}. Start from a model of "
            "other videos, or leave training.initial_model out"
        )
    return known.train + known.val + known.earlier


def _check_backbone(path: str, file: ModelFile, experiment: Experiment, own: nn.Module) -> None:
    given, wanted = file.recognizer.config, experiment.model
    if (given.backbone, given.num_stages) != (wanted.backbone, wanted.num_stages):
        raise UserError(
            f"{path}: its backbone is {given.backbone}, num_stages {given.num_stages}; this run's is "
            f"{wanted.backbone}, num_stages {wanted.num_stages}. Set model.backbone and model.num_stages as there, or "
            "leave training.initial_model out"
        )
    theirs, ours = file.transform, experiment.transform
    if _shapes(file.recognizer.backbone) != _shapes(own):
        raise UserError(
            f"{path}: its {given.backbone} looks at pictures of {theirs.input_size_px}x{theirs.input_size_px}, "
            f"{theirs.input_frames} at once, and this run's at {ours.input_frames} of {ours.input_size_px}x"
            f"{ours.input_size_px}, each with positions of its own; set transform.input_size_px "
            f"{theirs.input_size_px} and transform.input_frames {theirs.input_frames}"
        )


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _check_no_leak(path: str, file: ModelFile, experiment: Experiment) -> None:
    """A model that has seen what is now held out would make every figure meaningless. Which videos it saw may not be in
    its file (``videos_seen_by``), so that all data of a root it has learned from is taken for seen."""
    here = Path(experiment.data.root).resolve()
    if here in {Path(root).resolve() for root in _roots(file.provenance)}:
        raise UserError(
            f"{path}: it, or a model that it started from, was trained on {experiment.data.root}, so it may have seen "
            "videos that are held out now. Start from a model of other data, or leave training.initial_model out"
        )


def _roots(provenance: Mapping[str, Any]) -> Iterator[str]:
    """The data that a model has learned from, its predecessors' too."""
    root = provenance.get("experiment", {}).get("data", {}).get("root")
    if root is not None:
        yield root
    if provenance.get("initial_model"):
        yield from _roots(provenance["initial_model"])
