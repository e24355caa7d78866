"""Several pictures of each frame, enlarged changes, outputs brought to one scale."""

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
from pipeline.protocols.clips import frame_average
from pipeline.training.fit import train
from tests.small import small_experiment, small_model

pytestmark = pytest.mark.usefixtures("one_torchlib")

BOTH: dict[str, Any] = {"heads": ("gru",), "input": "rgb+rgb_diff"}


@pytest.mark.parametrize("input", ["rgb_diff", "rgb+rgb_diff"])
def test_the_backbone_sees_larger_changes(input: str) -> None:
    settings = BOTH | {"input": input}
    plain, larger = (small_model(**settings, rgb_diff_scale=gain).recognizer for gain in (1.0, 4.0))
    larger.load_state_dict(plain.state_dict())
    torch.manual_seed(3)
    frames = torch.randn(2, plain.num_features // plain.backbone.num_features * 3, 32, 32) / 4
    pictures, changes = frames[:, :-3], frames[:, -3:]
    with torch.no_grad():
        expected = plain.backbone(4 * changes).mean((2, 3))
        got = larger.embed(frames)
        assert not torch.allclose(got, plain.embed(frames))
    torch.testing.assert_close(got[:, -expected.shape[1] :], expected)
    if pictures.numel():
        torch.testing.assert_close(got[:, : -expected.shape[1]], plain.backbone(pictures).mean((2, 3)))


def test_outputs_are_normalised_by_what_the_clips_end_with() -> None:
    """By hand: the average of each feature, its mean and deviation over the batch, the classifier."""
    settings: dict[str, Any] = {
        "heads": ("mean",),
        "classifier_batch_norm": True,
        "feature_norm": "none",
        "dropout": 0.0,
    }
    recognizer = small_model(**settings).recognizer.train()
    torch.manual_seed(3)
    features = torch.randn(6, 5, recognizer.num_features)
    average = features.mean(1)
    expected = (average - average.mean(0)) / torch.sqrt(average.var(0, correction=0) + 1e-5)
    torch.testing.assert_close(recognizer.classify(features), recognizer.classifier(expected))
    torch.testing.assert_close(recognizer.output_norm.running_mean, 0.1 * average.mean(0))
    alone = recognizer.classify(features[:1])  # a last batch may be of one
    recognizer.eval()
    torch.testing.assert_close(recognizer.classify(features), recognizer.score(features)[0][:, -1])
    torch.testing.assert_close(alone, recognizer.classify(features[:1]))


@pytest.mark.parametrize(
    ("settings", "is_exported"),
    [
        (BOTH, False),
        (BOTH | {"heads": ("mean",), "classifier_batch_norm": True, "rgb_diff_scale": 4.0}, True),
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
    model = replace(experiment.model, heads=("mean",), rgb_diff_scale=2.0)
    with pytest.raises(UserError, match=r"single pictures have none: set transform\.input rgb_diff"):
        train(replace(experiment, model=model), quiet=True)
    transform = replace(experiment.transform, input="rgb+rgb_diff")
    experiment = replace(experiment, model=model, transform=transform)
    assert np.isfinite(train(experiment, quiet=True).metrics["val_loss"])
    assert frame_average(experiment).model.rgb_diff_scale == 1.0
