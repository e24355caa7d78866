"""From a frame's map to its vector: by motion, and of several pictures of each frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint import load_model_file, save_model
from pipeline.errors import UserError
from pipeline.export.assembly import assemble
from pipeline.export.parity import check_parity
from pipeline.export.pieces import make_pieces
from pipeline.models.recognizer import motion_weights
from pipeline.protocols import frame_average
from pipeline.training.fit import train
from tests.small import small_experiment, small_model

pytestmark = pytest.mark.usefixtures("one_torchlib")

BOTH: dict[str, Any] = {"heads": ("gru",), "representation": "rgb_and_difference", "pooling": "motion"}


def test_places_weigh_by_how_much_changes_there() -> None:
    changes = torch.zeros(3, 3, 32, 32)
    changes[0, :, 8:16, 16:24] = -0.85  # the place in row 1, column 2 of a map of 4x4, and no other
    changes[1, :, :16] = 0.03  # noise
    changes[2, :, :8, :8] = 0.25
    changes[2, :, 24:, 24:] = 0.65  # three times as much above the noise
    moving, still, two = motion_weights(changes, 4, 4)[:, 0]
    assert moving[1, 2] > 0.99
    np.testing.assert_allclose(still, 1 / 16, rtol=1e-6)
    assert float(two[3, 3] / two[0, 0]) == pytest.approx(3, rel=0.01)
    np.testing.assert_allclose(motion_weights(torch.randn(5, 3, 32, 32), 3, 5).sum((1, 2, 3)), 1, rtol=1e-5)


def test_a_frame_s_features_are_its_pictures_weighed_by_motion() -> None:
    """Against loops in numpy over places, of maps that the backbone gives for one picture at a time."""
    recognizer = small_model(**BOTH).recognizer
    torch.manual_seed(3)
    frames = torch.randn(2, 6, 32, 32)
    with torch.no_grad():
        got = recognizer.embed(frames).numpy()
        maps = [[recognizer.backbone(picture[None])[0].numpy() for picture in frame.split(3)] for frame in frames]
    for features, frame, pictures in zip(got, frames.numpy(), maps, strict=True):
        channels, height, width = pictures[0].shape
        moving = np.maximum(np.abs(frame[3:]).mean(0) - 0.05, 0)
        side = 32 // height
        amounts = np.array(
            [
                [
                    moving[side * row : side * (row + 1), side * column : side * (column + 1)].mean()
                    for column in range(width)
                ]
                for row in range(height)
            ]
        )
        weights = (amounts + 1e-4) / (amounts + 1e-4).sum()
        expected = np.concatenate([(picture * weights).sum((1, 2)) for picture in pictures])
        assert features.shape == (2 * channels,)
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("representation", ["difference", "rgb_and_difference"])
def test_the_backbone_sees_larger_changes_weighed_by_the_true_ones(representation: str) -> None:
    settings = BOTH | {"representation": representation}
    plain, larger = (small_model(**settings, change_gain=gain).recognizer for gain in (1.0, 4.0))
    larger.load_state_dict(plain.state_dict())
    torch.manual_seed(3)
    frames = torch.randn(2, plain.num_features // plain.backbone.num_features * 3, 32, 32) / 4
    pictures, changes = frames[:, :-3], frames[:, -3:]
    with torch.no_grad():
        maps = plain.backbone(4 * changes)
        expected = (maps * motion_weights(changes, *maps.shape[2:])).sum((2, 3))
        got = larger.embed(frames)
        assert not torch.allclose(got, plain.embed(frames))
    torch.testing.assert_close(got[:, -expected.shape[1] :], expected)
    if pictures.numel():
        weighed = plain.backbone(pictures) * motion_weights(changes, *maps.shape[2:])
        torch.testing.assert_close(got[:, : -expected.shape[1]], weighed.sum((2, 3)))


def test_outputs_are_normalised_by_what_the_clips_end_with() -> None:
    """By hand: the largest of each feature, its mean and deviation over the batch, the classifier."""
    settings: dict[str, Any] = {"heads": ("max",), "output_norm": "batch", "feature_norm": "none", "dropout": 0.0}
    recognizer = small_model(**settings).recognizer.train()
    torch.manual_seed(3)
    features = torch.randn(6, 5, recognizer.num_features)
    largest = features.max(1).values
    expected = (largest - largest.mean(0)) / torch.sqrt(largest.var(0, correction=0) + 1e-5)
    torch.testing.assert_close(recognizer.classify(features), recognizer.classifier(expected))
    torch.testing.assert_close(recognizer.output_norm.running_mean, 0.1 * largest.mean(0))
    alone = recognizer.classify(features[:1])  # a last batch may be of one
    recognizer.eval()
    torch.testing.assert_close(recognizer.classify(features), recognizer.score(features)[0][:, -1])
    torch.testing.assert_close(alone, recognizer.classify(features[:1]))


def test_power_normalisation_is_the_signed_root() -> None:
    recognizer = small_model(heads=("max",), feature_norm="power").recognizer
    features = torch.linspace(-9, 9, 2 * recognizer.num_features).reshape(1, 2, -1).requires_grad_()
    normal = recognizer.normalize(features)
    expected = np.sign(features.detach().numpy()) * np.sqrt(np.abs(features.detach().numpy()))
    np.testing.assert_allclose(normal.detach().numpy(), expected, atol=0.02)
    zeros = torch.zeros_like(features, requires_grad=True)
    recognizer.normalize(zeros).sum().backward()
    assert torch.isfinite(zeros.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "is_exported"),
    [
        (BOTH, False),
        (BOTH | {"heads": ("max",), "feature_norm": "power", "output_norm": "batch", "change_gain": 4.0}, True),
    ],
)
def test_such_a_model_comes_back_from_its_file_and_can_be_exported(
    tmp_path: Path, settings: dict[str, Any], is_exported: bool
) -> None:
    file = small_model(**settings)
    save_model(tmp_path / "m.safetensors", file)
    back = load_model_file(tmp_path / "m.safetensors")
    clips = torch.randn(2, 4, 6, 32, 32)
    with torch.no_grad():
        assert torch.equal(back.recognizer(clips), file.recognizer(clips))
    if is_exported:
        pieces = make_pieces(back)
        assert max(check_parity(back, assemble(back, pieces), pieces.slots).values()) < 1e-5


def test_it_trains_and_pictures_alone_have_no_motion(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path, epochs=1)
    model = replace(experiment.model, heads=("max",), change_gain=2.0)
    with pytest.raises(UserError, match=r"single pictures have none: set transform\.representation difference"):
        train(replace(experiment, model=model), quiet=True)
    model = replace(model, pooling="motion")
    experiment = replace(experiment, model=model)
    with pytest.raises(UserError, match=r"set transform\.representation difference or rgb_and_difference"):
        train(experiment, quiet=True)
    experiment = replace(experiment, transform=replace(experiment.transform, representation="rgb_and_difference"))
    assert np.isfinite(train(experiment, quiet=True).metrics["val_loss"])
    average = frame_average(experiment).model
    assert (average.pooling, average.change_gain) == ("mean", 1.0)
