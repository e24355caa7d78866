"""Starting from an earlier model: what is taken, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import load_model_file, provenance_of, save_model
from pipeline.config import Experiment
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer
from pipeline.protocols.clips import run_protocol
from pipeline.training.fit import train
from pipeline.training.initial import start_from
from tests.small import small_experiment, small_model


def saved(folder: Path, data_root: str = "elsewhere", **model: object) -> str:
    """The path of an untrained model's file that says it learned from that folder."""
    file = small_model(5, **model)
    experiment = small_experiment(Path(data_root), folder)
    path = folder / "before.safetensors"
    save_model(path, replace(file, provenance=provenance_of(experiment)))
    return str(path)


def starting_from(path: str, experiment: Experiment) -> Experiment:
    return replace(experiment, training=replace(experiment.training, initial_model=path))


def is_same(mine: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    pairs = zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("before", "heads_taken"),
    [
        ({}, True),
        ({"hidden_channels": 4}, False),
        ({"heads": ("gru",)}, False),
        ({"input": "rgb_diff"}, True),
    ],
)
def test_the_backbone_is_taken_and_the_heads_where_they_are_the_same(
    tmp_path: Path, before: dict[str, object], heads_taken: bool
) -> None:
    path, experiment = saved(tmp_path, **before), small_experiment(Path("here"), tmp_path)
    torch.manual_seed(9)
    new = Recognizer(experiment.model, 3)
    classifier = new.classifier.weight.clone()
    said, provenance = start_from(path, new, experiment)
    old = load_model_file(path).recognizer
    assert is_same(new.backbone, old.backbone)
    assert is_same(new.feature_norm, old.feature_norm)
    assert ("temporal heads" in said) == heads_taken
    if heads_taken:
        assert is_same(new.temporal, old.temporal)
    assert torch.equal(new.classifier.weight, classifier)
    assert provenance == load_model_file(path).provenance


def test_a_run_starts_there_and_learns_on(
    motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the learning rate next to nothing, the backbone is still the earlier one's; the random start is not."""
    path = saved(tmp_path)
    experiment = small_experiment(motion_root, tmp_path, epochs=1, learning_rate=1e-9, weight_decay=0.0)
    experiment = replace(experiment, seed=1)  # the earlier model's was 0
    started = train(starting_from(path, experiment)).model.recognizer.backbone
    assert "starts from" in capsys.readouterr().err
    random = train(replace(experiment, name="random"), quiet=True).model.recognizer.backbone
    before = load_model_file(path).recognizer.backbone
    distances = [
        max(float((a - b).detach().abs().max()) for a, b in zip(some.parameters(), before.parameters(), strict=True))
        for some in (started, random)
    ]
    assert distances[0] < 1e-6 < 1e-2 < distances[1]


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    path, experiment = saved(tmp_path), small_experiment(Path("here"), tmp_path)
    model = replace(experiment.model, backbone="pixels_4x4")
    with pytest.raises(UserError, match=r"its backbone is tiny, num_stages None; this run's is pixels_4x4"):
        start_from(path, Recognizer(model, 3), replace(experiment, model=model))


def test_a_model_of_the_same_data_is_refused(motion_root: Path, tmp_path: Path) -> None:
    experiment = starting_from(saved(tmp_path, str(motion_root)), small_experiment(motion_root, tmp_path, epochs=1))
    with pytest.raises(UserError, match="it may have seen videos that are held out now"):
        train(experiment, quiet=True)
    with pytest.raises(UserError, match="it may have seen videos that are held out now"):
        next(run_protocol(replace(experiment, name="folds"), "group_5_fold", quiet=True))


def test_so_is_one_whose_predecessor_was_trained_on_it(motion_root: Path, tmp_path: Path) -> None:
    """From other data to these: the file says so, also after an interruption; from there to the first data: refused."""
    path = saved(tmp_path)
    experiment = starting_from(path, small_experiment(motion_root, tmp_path, epochs=1))
    first = train(experiment, quiet=True)
    assert first.model.provenance["initial_model"] == load_model_file(path).provenance
    longer = replace(experiment, training=replace(experiment.training, epochs=2))
    resumed = train(longer, resume=True, quiet=True)
    assert resumed.model.provenance["initial_model"] == load_model_file(path).provenance
    back = starting_from(str(resumed.model_path), small_experiment(Path("elsewhere"), tmp_path))
    with pytest.raises(UserError, match="it, or a model that it started from, was trained on elsewhere"):
        start_from(str(resumed.model_path), Recognizer(back.model, 3), back)


def test_a_model_file_is_wanted(tmp_path: Path) -> None:
    experiment = small_experiment(Path("here"), tmp_path)
    with pytest.raises(UserError, match="no such model file"):
        start_from(str(tmp_path / "none.safetensors"), Recognizer(experiment.model, 3), experiment)
