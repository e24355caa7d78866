"""The list of backbones: what stands in it is what timm and torchvision say, and what their networks are."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import torchvision

from pipeline.cli import main
from pipeline.config import VIDEO_BACKBONES
from pipeline.errors import UserError
from pipeline.models.backbones import BACKBONES, BUNDLED_BACKBONE, build_backbone
from pipeline.models.catalogue import find_backbones, measured


def test_every_name_is_listed_once() -> None:
    names = [facts.name for facts in find_backbones("")]
    assert len(names) == len(set(names))
    listed = set(names)
    assert {*VIDEO_BACKBONES} == {*torchvision.models.list_models(module=torchvision.models.video)} <= listed
    assert listed >= {*BACKBONES, BUNDLED_BACKBONE, *torchvision.models.list_models(module=torchvision.models)}
    assert listed >= set(timm.list_models(pretrained=True)) - {BUNDLED_BACKBONE}
    assert {name.partition(".")[0] for name in names} >= set(timm.list_models())


def test_licences_and_terms_are_the_publishers() -> None:
    (dinov3,) = find_backbones("vit_small_patch16_dinov3.lvd1689m")
    assert (dinov3.source, dinov3.licence, dinov3.is_gated) == ("timm", "dinov3-license", False)
    assert dinov3.trained_size_px == 256
    assert {facts.is_gated for facts in find_backbones("gemma4") if facts.licence == "gemma"} <= {True}
    assert find_backbones("tiny")[0].has_weights is False


@pytest.mark.parametrize(
    ("name", "size_px", "gflops"),
    # Two for each multiplication and addition: 197 tokens, 12 blocks of 192 channels; torchvision's own figure.
    [("resnet18", 224, 2 * 1.814), ("vit_b_32", 224, 2 * 4.409)],
)
def test_work_is_as_published(name: str, size_px: int, gflops: float) -> None:
    (facts,) = [facts for facts in find_backbones(name) if facts.name == name]
    found = measured(facts, size_px)
    assert found.gflops == pytest.approx(gflops, rel=0.01)
    network = torchvision.models.get_model_weights(name).DEFAULT.meta
    without_classifier = network["num_params"] - 1001 * (512 if name == "resnet18" else 1000)
    assert found.num_parameters == pytest.approx(without_classifier, rel=0.01)


@pytest.mark.parametrize("name", VIDEO_BACKBONES)
def test_work_of_a_video_network_is_that_of_a_clip_as_published(name: str) -> None:
    (facts,) = [facts for facts in find_backbones(name) if facts.name == name]
    assert (facts.source, facts.has_weights, facts.is_gated) == ("torchvision", True, False)
    assert facts.trained_size_px == (112 if name.endswith("_18") else 224)
    found = measured(facts, facts.trained_size_px or 0)
    weights = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert found.why_not is None
    assert found.features is not None
    classifier = 400 * (found.features[0] + 1)
    assert found.num_parameters == weights["num_params"] - classifier
    of_16_frames = 2 * weights["_ops"]  # as torchvision counts all of them
    assert found.gflops == pytest.approx(of_16_frames * VIDEO_BACKBONES[name] / 16, rel=0.01)


def test_what_is_measured_is_what_is_built() -> None:
    (facts,) = [facts for facts in find_backbones("test_vit.") if facts.name.startswith("test_vit.")]
    found, backbone = measured(facts, 64), build_backbone("test_vit", "none", size_px=64)
    assert found.num_parameters == sum(weight.numel() for weight in backbone.parameters())
    assert found.features == tuple(backbone(torch.zeros(1, 3, 64, 64)).shape[1:])
    (unusable,) = find_backbones("coat_tiny.")
    assert "not a feature map" in (measured(unusable, 224).why_not or "")


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "test_vit.", "--input_size_px", "64"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["name", "from"]
    assert any(line.startswith("test_vit.") and line.endswith("64x4x4") for line in lines)
    assert main(["backbones", "coat_tiny.", "--json", "--input_size_px", "224"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert {answer["name"].partition(".")[0] for answer in answers} == {"coat_tiny"}
    assert all("not a feature map" in answer["why_not"] for answer in answers)
    assert main(["backbones", "mc3_18", "--input_size_px", "112"]) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:5] == ["mc3_18", "torchvision", "16", "x", "112"]
    assert line[-1] == "512x7x7"
    assert main(["backbones"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) > 1000
    assert "parameters and GFLOPs are told of 40 at most" in said.err


def test_a_word_that_no_name_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no backbone has 'dinvo3' in its name. Did you mean 'dinov3'"):
        find_backbones("dinvo3")
    assert main(["backbones", "vti", "--input_size_px", "0"]) == 2
    assert "input_size_px must be between 1 and 2,048" in capsys.readouterr().err
