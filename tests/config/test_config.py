"""Settings: every file in configs/ parses and builds, YAML goes round, misspelt keys are named."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import docstring_parser
import pytest
import torch
import yaml

from pipeline import config, options
from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment, ModelConfig, to_dict, to_yaml
from pipeline.datasets.formats import DATA_FORMATS
from pipeline.demo import motion_experiment
from pipeline.errors import UserError
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.frames import ClipTransform

CIFAR10 = {"cifar10_cnn_gru", "cifar10_small_gru", "cifar10_rows_gru"}
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
MEMBERS = [*vars(config).values(), *vars(options).values()]
DATACLASSES = [item for item in MEMBERS if isinstance(item, type) and is_dataclass(item)]


def test_the_promised_configs_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {"motion", "ucf101_gru", "ucf101_convgru", "hmdb51", "folder", "ut_interaction"} | CIFAR10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_is_complete_and_builds(path: Path) -> None:
    experiment = read_experiment(path)
    assert to_dict(experiment) == yaml.safe_load(path.read_text())  # every key is written out
    assert experiment.data.format in DATA_FORMATS
    size, num_pictures = experiment.transform.input_size_px, experiment.transform.num_pictures
    if experiment.model.backbone == "features":  # settled by the files
        model = Recognizer(replace(experiment.model, num_features=8), 5).eval()
        assert model.score(torch.zeros(1, 3, 8))[0].shape == (1, 3, 5)
        return
    model = Recognizer(experiment.model, 5, input_size_px=size, num_pictures=num_pictures).eval()
    transform = ClipTransform(experiment.transform, model.backbone.normalization)
    num_frames = experiment.sampling.num_frames + experiment.transform.lookback_frames
    size = experiment.transform.fit_size_px
    frames = torch.zeros(1, num_frames, 3, size, size, dtype=torch.uint8)
    with torch.inference_mode():
        assert model(transform.evaluate(frames)).shape == (1, 5)


def test_the_motion_config_is_the_demos() -> None:
    (path,) = [path for path in CONFIGS if path.stem == "motion"]
    assert read_experiment(path) == motion_experiment()


def test_yaml_goes_round(tmp_path: Path) -> None:
    experiment = replace(Experiment(), name="ünï", model=ModelConfig(heads=("convgru", "gru"), num_stages=3))
    path = tmp_path / "x.yaml"
    path.write_text(to_yaml(experiment), encoding="utf-8")
    assert read_experiment(path) == experiment


@pytest.mark.parametrize("settings", DATACLASSES, ids=lambda settings: settings.__name__)
def test_every_setting_is_explained(settings: type) -> None:
    """The explanations are the help."""
    explained = {text.arg_name for text in docstring_parser.parse_from_object(settings).params if text.description}
    if settings.__name__ != "Normalization":  # comes with weights, is no setting
        assert {field.name for field in fields(settings)} <= explained


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampling:\n  sample_fpss: 3\n", r"'sample_fpss'\. Did you mean 'sample_fps'"),
        ("sampling:\n  mode: dens\n", r"sampling\.mode"),
        ("samplings: {}\n", r"'samplings'\. Did you mean 'sampling'"),
        ("training:\n  epochs: 0\n", r"training\.epochs must be at least 1"),
        ("model:\n  kernel_size: 4\n", r"model\.kernel_size must be odd"),
        ("data:\n  batch_size: many\n", r"data\.batch_size"),
        ("data: [1, 2\n", "x.yaml"),
    ],
)
def test_what_is_wrong_in_a_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_experiment(path)
