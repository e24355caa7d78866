"""A network with its batch norms folded away gives what it gave, and has fewer of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.config import Normalization
from pipeline.inference import Model
from pipeline.inference.folding import fold_batch_norm
from pipeline.models.backbone import Backbone
from pipeline.models.backbones import build_backbone
from tests.small import small_model


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "num_left"),
    [("tiny", 0), ("resnet18", 0), ("mobilenet_v3_small", 0), ("mobilenetv3_small_100", 0), ("squeezenet1_1", 0)],
)
def test_the_same_features_with_random_statistics(name: str, num_left: int) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, "none").eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.1)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    folded = fold_batch_norm(backbone)
    assert num_norms(folded) == num_left
    frames = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        expected = backbone(frames)
        torch.testing.assert_close(folded(frames), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_the_bundled_weights() -> None:
    backbone = build_backbone("tf_efficientnet_lite0", "bundled", 6).eval()
    folded = fold_batch_norm(backbone)
    assert num_norms(folded) == 0
    with torch.inference_mode():
        frames = torch.randn(2, 3, 112, 112)
        expected = backbone(frames)
        torch.testing.assert_close(folded(frames), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


class Shared(nn.Module):
    """One convolution feeds two batch norms, another is used twice: neither may be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.first, self.second, self.third = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        maps = self.conv(frames)
        both = self.first(maps) + self.second(maps)
        return self.third(self.again(self.again(both)))


class Deciding(nn.Module):
    """Code that looks at the values cannot be followed."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.abs() if frames.mean() > 0 else -frames


def test_what_cannot_be_folded_stays() -> None:
    backbone = Backbone([Shared(), Deciding()], Normalization((0.5,) * 3, (0.5,) * 3)).eval()
    folded = fold_batch_norm(backbone)
    assert num_norms(folded) == 3
    frames = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(folded(frames), backbone(frames))


def test_the_model_file_keeps_its_weights() -> None:
    file = small_model()
    names = list(file.recognizer.state_dict())
    model = Model(file)
    assert list(model.file.recognizer.state_dict()) == names
    assert num_norms(model.embed.backbone) == 0
    assert num_norms(file.recognizer.backbone) == 4
