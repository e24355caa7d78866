"""Starting from a model that was trained before, on other data: what it has learned to see, and how it reads time."""

from __future__ import annotations

from pathlib import Path

from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.config import Experiment
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer

# What decides which videos are learned from.
_SPLIT_SETTINGS = ("format", "annotations", "split", "val_fraction", "test_fraction")


def start_from(path: str, recognizer: Recognizer, experiment: Experiment, *, has_own_split: bool) -> str:
    """Puts a model file's backbone into a recogniser, and its temporal heads if theirs are the same; the classifier
    stays new.

    Args:
        path: the model file.
        recognizer: the new one; changed in place.
        experiment: its settings.
        has_own_split: the split is that of ``experiment.data``, and not a fold of a protocol.

    Returns:
        What was taken, for people.

    Raises:
        UserError: the file is no model file, has another backbone, or has learned from videos that are held out now.
    """
    file = load_model_file(path)
    _check_backbone(path, file, experiment)
    _check_no_leak(path, file, experiment, has_own_split)
    recognizer.backbone.load_state_dict(file.recognizer.backbone.state_dict())
    recognizer.backbone.normalization = file.normalization
    taken = ["backbone"]
    for name in ("feature_norm", "temporal"):
        own, given = recognizer.get_submodule(name), file.recognizer.get_submodule(name).state_dict()
        shapes = {key: tensor.shape for key, tensor in own.state_dict().items()}
        if shapes and shapes == {key: tensor.shape for key, tensor in given.items()}:
            own.load_state_dict(given)
            taken.append({"feature_norm": "scales of the features", "temporal": "temporal heads"}[name])
    return f"starts from {path}: {', '.join(taken)}"


def _check_backbone(path: str, file: ModelFile, experiment: Experiment) -> None:
    given, wanted = file.recognizer.config, experiment.model
    if (given.backbone, given.num_stages) != (wanted.backbone, wanted.num_stages):
        raise UserError(
            f"{path}: its backbone is {given.backbone}, num_stages {given.num_stages}; this run's is "
            f"{wanted.backbone}, num_stages {wanted.num_stages}. Set model.backbone and model.num_stages as there, or "
            "leave training.initial_model out"
        )


def _check_no_leak(path: str, file: ModelFile, experiment: Experiment, has_own_split: bool) -> None:
    """A model that has seen what is now held out would make every figure meaningless."""
    before = file.provenance.get("experiment", {})
    data = before.get("data", {})
    root = data.get("root")
    if root is None or Path(root).resolve() != Path(experiment.data.root).resolve():
        return
    same = before.get("seed") == experiment.seed and all(
        data.get(name) == getattr(experiment.data, name) for name in _SPLIT_SETTINGS
    )
    if not (has_own_split and same):
        raise UserError(
            f"{path}: it was trained on {root} with another split, so it has seen videos that are held out now. Start "
            "from a model of other data, or use the same split: the same seed and data settings, and no folds"
        )
