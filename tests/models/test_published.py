"""Image networks of timm and torchvision as backbones, against the publishers' own code."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.hiera import Hiera
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.inference.folding import fold_batch_norm
from pipeline.models.recognizer import Recognizer

Shape = tuple[int, int, int]

# Of each family of timm small ones, with the side of a picture and its map; families are modules there.
TIMM: dict[str, tuple[int, Shape]] = {
    # Rows of tokens, after others that stand for the whole picture or for nothing.
    "vit_tiny_patch16_224": (64, (192, 4, 4)),
    "test_vit": (64, (64, 4, 4)),
    "test_vit2": (64, (64, 4, 4)),
    "test_vit3": (64, (96, 4, 4)),
    "test_vit4": (64, (96, 4, 4)),
    "test_vit_relpos": (64, (96, 4, 4)),
    "vit_tiny_r_s16_p8_224": (64, (192, 2, 2)),
    "vit_small_patch14_reg4_dinov2": (56, (384, 4, 4)),
    "vit_small_patch16_dinov3": (48, (384, 3, 3)),
    "deit_tiny_patch16_224": (64, (192, 4, 4)),
    "deit_tiny_distilled_patch16_224": (64, (192, 4, 4)),
    "eva02_tiny_patch14_224": (56, (192, 4, 4)),
    "cait_xxs24_224": (64, (192, 4, 4)),
    "xcit_nano_12_p16_224": (64, (128, 4, 4)),
    "convit_tiny": (64, (192, 4, 4)),
    "tnt_s_legacy_patch16_224": (48, (384, 3, 3)),
    "coat_lite_tiny": (64, (320, 2, 2)),
    "volo_d1_224": (64, (384, 4, 4)),
    "pit_ti_224": (64, (256, 1, 1)),
    # Rows of tokens alone.
    "levit_128s": (128, (384, 2, 2)),
    "mvitv2_tiny": (64, (768, 2, 2)),
    "hiera_tiny_224": (96, (768, 3, 3)),
    "twins_svt_small": (64, (512, 2, 2)),
    "gmlp_ti16_224": (64, (128, 4, 4)),
    "resmlp_12_224": (64, (384, 4, 4)),
    "vitamin_small_224": (64, (384, 4, 4)),
    # Maps with channels last.
    "swin_tiny_patch4_window7_224": (96, (768, 3, 3)),
    "swinv2_tiny_window8_256": (64, (768, 2, 2)),
    "test_mambaout": (64, (64, 2, 2)),
    "sequencer2d_s": (32, (384, 2, 2)),
    # Maps.
    "swinv2_cr_tiny_ns_224": (64, (768, 2, 2)),
    "gcvit_xxtiny": (64, (512, 2, 2)),
    "test_coatnet": (64, (128, 2, 2)),
    "test_maxvit": (64, (128, 2, 2)),
    "mobilevit_xxs": (64, (320, 2, 2)),
    "mobilevitv2_050": (64, (256, 2, 2)),
    "edgenext_xx_small": (64, (168, 2, 2)),
    "efficientformerv2_s0": (64, (176, 2, 2)),
    "efficientvit_b0": (64, (128, 2, 2)),
    "efficientvit_m0": (128, (192, 2, 2)),
    "fastvit_t8": (64, (768, 2, 2)),
    "pvt_v2_b0": (64, (256, 2, 2)),
    "poolformer_s12": (64, (512, 2, 2)),
    "visformer_tiny": (64, (384, 2, 2)),
    "tiny_vit_5m_224": (64, (320, 2, 2)),
    "test_convnext": (64, (64, 2, 2)),
    "convnextv2_atto": (64, (320, 2, 2)),
    "inception_next_atto": (64, (320, 2, 2)),
    "swiftformer_xs": (64, (220, 2, 2)),
    "botnet26t_256": (64, (2048, 2, 2)),
    "test_resnet": (64, (96, 2, 2)),
    "regnetx_002": (64, (368, 2, 2)),
    "repvit_m0_9": (64, (384, 2, 2)),
    "starnet_s1": (64, (192, 2, 2)),
}


def same_network(name: str, size_px: int, ours: nn.Module) -> Any:
    """timm's, with our weights."""
    sized: dict[str, Any] = {"img_size": size_px} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    theirs = timm.create_model(name, num_classes=0, **sized).eval()
    (inner,) = (module for module in ours.modules() if hasattr(module, "forward_features"))
    found = theirs.load_state_dict(inner.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert not [key for key in found.missing_keys if not key.startswith(("head", "fc_norm", "attn_pool"))]
    return theirs


def timms_maps(theirs: Any, frames: Tensor, shape: Shape) -> Tensor:
    """timm's features of the whole network, brought to their places by timm itself where it can."""
    features = theirs.forward_features(frames)
    if features.ndim == 4 and getattr(theirs, "output_fmt", "NCHW") == "NCHW":
        return features
    if shape[1:] == (1, 1):
        return features.transpose(1, 2)[..., None]
    if not hasattr(theirs, "forward_intermediates"):
        assert features.shape[1] == shape[1] * shape[2]
        return features.transpose(1, 2).reshape(len(frames), *shape)
    has_norm = not isinstance(theirs, Hiera)  # which normalises behind its features
    (maps,) = theirs.forward_intermediates(frames, indices=1, norm=has_norm, intermediates_only=True)
    return maps


def test_there_are_many_families() -> None:
    families = {timm.model_entrypoint(name).__module__ for name in TIMM}
    assert len(TIMM) >= 40
    assert len(families) >= 15


@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_a_backbone(name: str) -> None:
    """Its maps are timm's, a step of training reaches all of it, and a stream says what whole clips say."""
    torch.manual_seed(0)
    size_px, shape = TIMM[name]
    config = ModelConfig(backbone=name, weights="none", heads=("convgru",), hidden_channels=4, dropout=0)
    recognizer = Recognizer(config, 2, input_size_px=size_px).eval()
    clips = torch.randn(1, 3, 3, size_px, size_px)
    check_maps(recognizer.backbone, clips[0], shape, name)
    check_streams_as_it_scores(recognizer, clips)
    check_learns(recognizer, clips, everywhere=timm.get_pretrained_cfg(name).fixed_input_size)
    check_folds(recognizer.backbone.eval(), clips[0])


def check_maps(backbone: nn.Module, frames: Tensor, shape: Shape, name: str) -> None:
    with torch.no_grad():
        maps = backbone(frames)
        assert maps.shape == (3, *shape)
        expected = timms_maps(same_network(name, frames.shape[3], backbone), frames, shape)
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)


def check_streams_as_it_scores(recognizer: Recognizer, clips: Tensor) -> None:
    with torch.no_grad():
        state, steps = None, []
        for frame in clips.unbind(1):
            scores, state = recognizer.score(recognizer.embed(frame).unsqueeze(1), state)
            steps.append(scores)
        whole, _ = recognizer.score(recognizer.embed(clips[0]).unsqueeze(0))
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)


def check_learns(recognizer: Recognizer, clips: Tensor, *, everywhere: bool) -> None:
    recognizer.train()
    weights = dict(recognizer.backbone.named_parameters())
    first = next(weight for weight in weights.values() if weight.ndim == 4)  # the first convolution
    before = first.detach().clone()
    recognizer(clips.expand(2, -1, -1, -1, -1))[:, 0].sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in weights.values())
    without = [name for name, weight in weights.items() if weight.grad is None]
    assert not (everywhere and without)
    torch.optim.SGD(recognizer.parameters(), lr=0.01).step()
    assert not torch.equal(first, before)


def check_folds(backbone: nn.Module, frames: Tensor) -> None:
    with torch.no_grad():
        maps = backbone(frames)
        folded = fold_batch_norm(backbone)(frames)
    torch.testing.assert_close(folded, maps, atol=1e-4 * float(maps.abs().max()), rtol=1e-4)
