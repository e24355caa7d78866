"""Image networks of timm and torchvision as backbones, against the publishers' own code."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.models.hiera import Hiera
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from pipeline.checkpoint import load_model_file, save_model
from pipeline.config import ModelConfig
from pipeline.datasets.features import FrozenBackbone
from pipeline.errors import UserError
from pipeline.export.assembly import assemble
from pipeline.export.parity import check_parity
from pipeline.export.pieces import BATCH, _to_onnx, make_pieces
from pipeline.files.cache import digest
from pipeline.inference.folding import fold_batch_norm
from pipeline.inference.onnx_runtime import open_session
from pipeline.models.backbones import build_backbone
from pipeline.models.layouts import _TokenMaps
from pipeline.models.recognizer import Recognizer
from pipeline.training.module import ClipClassifier
from pipeline.transforms.augmentation import TrainTransform
from tests.small import NoDraws, small_experiment, small_model, without_repeats
from tests.test_checkpoint import rewrite

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
    with NoDraws():
        theirs: Any = without_repeats(timm.create_model(name, num_classes=0, **sized)).eval()
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
    without_repeats(recognizer.backbone)
    clips = torch.randn(1, 2, 3, size_px, size_px)
    maps = check_maps(recognizer.backbone, clips[0], shape, name)
    check_streams_as_it_scores(recognizer, clips, maps)
    check_learns(recognizer, clips, everywhere=timm.get_pretrained_cfg(name).fixed_input_size)
    check_folds(recognizer.backbone.eval(), clips[0])


def check_maps(backbone: nn.Module, frames: Tensor, shape: Shape, name: str) -> Tensor:
    with torch.no_grad():
        maps: Tensor = backbone(frames)
        assert maps.shape == (2, *shape)
        expected = timms_maps(same_network(name, frames.shape[3], backbone), frames, shape)
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    return maps


def check_streams_as_it_scores(recognizer: Recognizer, clips: Tensor, maps: Tensor) -> None:
    with torch.no_grad():
        state, steps = None, []
        for frame in clips.unbind(1):
            scores, state = recognizer.score(recognizer.embed(frame).unsqueeze(1), state)
            steps.append(scores)
        whole, _ = recognizer.score(maps.unsqueeze(0))
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)


def check_learns(recognizer: Recognizer, clips: Tensor, *, everywhere: bool) -> None:
    recognizer.train()
    weights = dict(recognizer.backbone.named_parameters())
    first = next(weight for weight in weights.values() if weight.ndim == 4)  # the first convolution
    recognizer(clips.expand(2, -1, -1, -1, -1))[:, 0].sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in weights.values())
    without = [name for name, weight in weights.items() if weight.grad is None]
    assert not (everywhere and without)
    assert first.grad is not None
    assert first.grad.any()
    torch.optim.SGD(recognizer.parameters(), lr=1e-3).step()


def check_folds(backbone: nn.Module, frames: Tensor) -> None:
    with torch.no_grad():
        maps = backbone(frames)
        folded = fold_batch_norm(backbone)(frames)
    torch.testing.assert_close(folded, maps, atol=1e-4 * float(maps.abs().max()), rtol=1e-4)


def test_torchvisions_vit_gives_its_class_token_or_its_places() -> None:
    """Against torchvision's own forward pass; without the class token's part in it, the mean over all."""
    torch.manual_seed(0)
    ours = build_backbone("vit_b_32", "none", size_px=64, frame_vector="class_token").eval()
    theirs = torchvision.models.vit_b_32(image_size=64).eval()
    (inner,) = (module for module in ours.modules() if isinstance(module, VisionTransformer))
    theirs.load_state_dict(inner.state_dict(), strict=False)
    theirs.heads = nn.Identity()
    frames = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(frames).flatten(1), theirs(frames), atol=1e-5, rtol=1e-5)
        tokens = ours.stages[0].network(frames)  # type: ignore[operator,union-attr]
        maps = _TokenMaps(ours.stages[0].network, 1)(frames)  # type: ignore[arg-type]
    torch.testing.assert_close(maps.flatten(2), tokens[:, 1:].transpose(1, 2))
    assert maps.shape == (2, 768, 2, 2)


def test_torchvisions_swin_can_be_cut_into_stages() -> None:
    torch.manual_seed(0)
    ours = build_backbone("swin_t", "none", size_px=64).eval()
    theirs = torchvision.models.swin_t().eval()
    kept = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=False))
    theirs.load_state_dict(kept, strict=False)
    frames = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.permute(theirs.norm(theirs.features(frames)))
        torch.testing.assert_close(ours(frames), expected, atol=1e-5, rtol=1e-5)
        cut = ours.first_stages(3).eval()
        torch.testing.assert_close(cut(frames), theirs.features[:3](frames).permute(0, 3, 1, 2))
    assert cut.num_features == 192


@pytest.mark.parametrize("vector", ["mean", "class_token"])
def test_heads_of_vectors_read_the_mean_or_the_class_token(vector: Any) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="test_vit", weights="none", heads=("gru",), frame_vector=vector)
    recognizer = Recognizer(config, 2, input_size_px=64).eval()
    without_repeats(recognizer.backbone)
    frames = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        tokens = same_network("test_vit", 64, recognizer.backbone).forward_features(frames)
        expected = tokens[:, 0] if vector == "class_token" else tokens[:, 1:].mean(dim=1)
        torch.testing.assert_close(recognizer.embed(frames), expected, atol=1e-5, rtol=1e-5)


def test_weights_of_a_file_are_resampled_to_the_size_as_timm_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = timm.create_model("test_vit")
    nn.init.normal_(published.pos_embed)
    path = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(published.state_dict(), path)
    overlay = {"file": str(path)}
    theirs = timm.create_model("test_vit", True, pretrained_cfg_overlay=overlay, img_size=96).eval()
    ours = build_backbone("test_vit", str(path), size_px=96).eval()
    frames = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs.forward_features(frames)[:, 1:].transpose(1, 2).unflatten(2, (6, 6))
        torch.testing.assert_close(ours(frames), expected)
    torch.save(timm.create_model("test_vit3").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="another architecture"):
        build_backbone("test_vit", str(tmp_path / "other.pth"), size_px=96)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("vti_tiny_patch16_224", {}, "unknown backbone 'vti_tiny_patch16_224'. Did you mean vit_tiny_patch16_224"),
        ("coat_tiny", {}, r"it gives list, not a feature map \[N, D, H, W\]; choose another, such as convit_tiny"),
        ("pit_ti_distilled_224", {}, "its 2 tokens are no map and a class token; choose another, such as deit"),
        ("halonet26t", {}, "pictures of 64x64: .* set transform.input_size_px 256, which it was trained with"),
        ("maxvit_t", {}, "is not divisible by partition size 7"),
        ("test_vit2", {"frame_vector": "class_token"}, "it has no class token; set model.frame_vector mean"),
        ("resnet18", {"frame_vector": "class_token"}, "model.backbone resnet18 and model.frame_vector class_token"),
        ("tiny", {"frame_vector": "class_token"}, "it has no class token"),
        ("test_vit", {"num_stages": 3}, "model.num_stages 3: test_vit is one piece, .* leave it unset"),
        ("test_vit", {"num_stages": 1}, "model.num_stages 1: test_vit is one piece"),
    ],
)
def test_what_cannot_be_used_says_why(name: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build_backbone(name, "none", **{"size_px": 64, **asked})
    if "such as " in (said := str(raised.value)):
        assert build_backbone(said.rpartition("such as ")[2], "none", size_px=64).num_features > 0


def test_frozen_stages_are_those_that_there_are(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path, tmp_path, num_frozen_stages=1, backbone_lr_scale=0.1)
    experiment = replace(experiment, model=replace(experiment.model, backbone="test_vit"))
    with pytest.raises(UserError, match="num_frozen_stages 1: test_vit has 1 stages, and none would learn"):
        ClipClassifier(experiment, 3)


# coat_lite has one tensor under several names; swin and test_vit_relpos make tables that no file holds; regnetx reckons
# its widths with tensors.
@pytest.mark.parametrize("name", ["test_vit", "test_vit_relpos", "test_vit3", "coat_lite_tiny", "regnetx_002"])
def test_a_model_file_holds_any_of_them(name: str, tmp_path: Path) -> None:
    model = small_model(backbone=name, input_size_px=64)
    save_model(tmp_path / "m.safetensors", model)
    back = load_model_file(tmp_path / "m.safetensors")
    clip = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(back.recognizer(clip), model.recognizer(clip))


@pytest.mark.parametrize(
    ("name", "lies", "message"),
    [
        ("test_vit", {"model": {"backbone": "vit_giant_patch14_224"}}, "do not fit together"),
        ("test_vit", {"transform": {"input_size_px": 2048, "fit_size_px": 2048}}, "do not fit together"),
        ("test_vit_relpos", {"transform": {"input_size_px": 2048, "fit_size_px": 2048}}, "GB beside its weights"),
    ],
)
def test_a_lie_of_size_costs_no_memory(name: str, lies: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, small_model(backbone=name))
    rewrite(path, lambda said: said | {block: said[block] | values for block, values in lies.items()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message):
        load_model_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_the_cache_tells_networks_of_the_same_weights_apart() -> None:
    """CLIP's ViT with the activation that it was trained with, and with another; the class token and the mean."""
    facts = []
    for name, vector in (("test_vit", "mean"), ("test_vit", "class_token"), ("test_vit.r160_in1k", "mean")):
        model = small_model(backbone=name, heads=("gru",), frame_vector=vector)
        transform = TrainTransform(model.transform, model.normalization)
        facts.append(FrozenBackbone(model.recognizer, transform).facts())
    assert len({fact["weights"] for fact in facts}) == 1
    assert len({digest(fact) for fact in facts}) == 3


def with_one_block(network: nn.Module) -> nn.Module:
    """Of several alike the first: to export all of them takes long and shows nothing more."""
    for module in list(network.modules()):
        if isinstance(blocks := getattr(module, "blocks", None), nn.Sequential):
            module.blocks = blocks[:1]
    return network


def test_a_vit_streams_from_onnx_files(one_torchlib: None) -> None:
    file = small_model(backbone="test_vit", heads=("mingru",), frame_vector="class_token")
    with_one_block(file.recognizer.backbone)
    pieces = make_pieces(file)
    assert max(check_parity(file, assemble(file, pieces), pieces.slots).values()) < 1e-5


class _AttentionInWindows(nn.Module):
    """As Hiera's: windows between pictures and heads."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x.flip(3), x)


# Windows and grids; rotary positions; channels last; windows before the heads.
@pytest.mark.parametrize("name", ["test_maxvit", "test_vit4", "test_mambaout", "hiera"])
def test_onnx_runtime_sees_the_same(name: str, one_torchlib: None) -> None:
    torch.manual_seed(0)
    network: Any = _AttentionInWindows()
    if name != "hiera":
        network = with_one_block(build_backbone(name, "none", size_px=64).eval())
    if name == "test_maxvit":  # its stages are alike too
        maxvit = network.stages[0].network
        network = nn.Sequential(maxvit.stem, maxvit.stages[0])
    given = torch.randn(2, 3, 2, 5, 8) if name == "hiera" else torch.randn(2, 3, 64, 64)
    graph = _to_onnx(network, (given,), ({0: BATCH},), ["x"], ["y"])
    with torch.no_grad():
        expected = network(given[:1])
    (got,) = open_session(graph)(["y"], {"x": given[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-4, rtol=1e-4)
