"""torchvision's video networks as backbones: against torchvision's own code, as streams, trained, exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video import MViT
from torchvision.models.video.resnet import BasicBlock

from pipeline.config import VIDEO_BACKBONES, TransformConfig, to_dict
from pipeline.datasets.features import FrozenBackbone
from pipeline.errors import UserError
from pipeline.export.assembly import assemble
from pipeline.export.parity import check_parity
from pipeline.export.pieces import BATCH, _to_onnx, make_pieces
from pipeline.files.cache import digest
from pipeline.inference import Model
from pipeline.inference.onnx_runtime import open_session
from pipeline.models.backbones import build_backbone
from pipeline.models.recognizer import Recognizer
from pipeline.models.video_networks import _resample_positions
from pipeline.transforms.augmentation import TrainTransform
from tests.small import NoDraws, small_model

Shape = tuple[int, int, int]

# Name -> frames, side of a picture, and the map that these give.
NETWORKS: dict[str, tuple[int, int, Shape]] = {
    "r3d_18": (3, 32, (512, 2, 2)),
    "mc3_18": (3, 32, (512, 2, 2)),
    "r2plus1d_18": (3, 32, (512, 2, 2)),
    "mvit_v1_b": (4, 32, (768, 1, 1)),
    "mvit_v2_s": (5, 64, (768, 2, 2)),
    "swin3d_t": (4, 64, (768, 2, 2)),
    "swin3d_s": (2, 32, (768, 1, 1)),
    "swin3d_b": (2, 32, (1024, 1, 1)),
    "s3d": (8, 64, (1024, 2, 2)),
}


def with_few_blocks(network: nn.Module) -> nn.Module:
    """Of several alike one or two: all of them take long and show nothing more. The widths stay."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Sequential) and isinstance(child[0], BasicBlock | SwinTransformerBlock):
                setattr(module, name, child[: 1 if isinstance(child[0], BasicBlock) else 2])  # in place, and shifted
        if isinstance(module, MViT):
            module.blocks = nn.ModuleList([block for block in module.blocks if changes_shape(block)])
    return network


def changes_shape(block: Any) -> bool:
    """Whether a block of MViT makes other channels, or a smaller map."""
    pool = block.attn.pool_q
    return block.project is not None or (pool is not None and max(pool.pool.stride) > 1)


def same_network(name: str, backbone: Any) -> Any:
    """torchvision's, with our weights."""
    with NoDraws():
        theirs: Any = with_few_blocks(torchvision.models.get_model(name)).eval()
    ours = backbone.stages[0].network
    if isinstance(theirs, MViT):
        theirs.pos_encoding = ours.pos_encoding
    own = theirs.state_dict()
    names = [key for key in own if not key.startswith(("fc.", "classifier.", "head."))]
    theirs.load_state_dict(own | dict(zip(names, ours.state_dict().values(), strict=True)))
    if name == "s3d":
        theirs.avgpool = nn.Identity()  # which wants larger pictures; the classifier averages all the same
    return theirs


def torchvisions_maps(theirs: Any, clips: Tensor, shape: Shape) -> Tensor:
    """What torchvision's network makes before it pools, averaged over time."""
    seen: list[Tensor] = []
    if isinstance(theirs, MViT):
        hook = theirs.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    else:
        hook = theirs.avgpool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    theirs(clips)
    hook.remove()
    if seen[0].ndim == 3:  # [N, 1 + t h w, D]
        return seen[0][:, 1:].reshape(len(clips), -1, *shape[1:], shape[0]).mean(dim=1).permute(0, 3, 1, 2)
    return seen[0].mean(dim=2)


def clips_of(frames: Tensor, name: str, num_frames: int) -> Tensor:
    """uint8 ``[n, 3, S, S]`` -> every clip as torchvision's own transform normalises it, ``[N, 3, T, S, S]``."""
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preset.mean, preset.std))
    pictures = (frames / 255 - mean) / std
    starts = range(len(frames) - num_frames + 1)
    return torch.stack([pictures[start : start + num_frames] for start in starts]).transpose(1, 2)


def side_by_side(clips: Tensor) -> Tensor:
    """``[N, 3, T, S, S]`` -> ``[N, 3 T, S, S]``, as the transform gives them."""
    return clips.transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("name", VIDEO_BACKBONES)
def test_a_video_network_is_a_backbone(name: str) -> None:
    """Its maps are torchvision's; a stream in portions gives those of all at once; a step of training reaches it."""
    torch.manual_seed(0)
    num_frames, size_px, shape = NETWORKS[name]
    sized: dict[str, Any] = {"input_size_px": size_px, "input_frames": num_frames}
    file = small_model(backbone=name, weights="none", heads=("convgru",), dropout=0.0, **sized)
    recognizer = file.recognizer
    with_few_blocks(recognizer.backbone)
    frames = torch.randint(0, 256, (num_frames + 2, 3, size_px, size_px), dtype=torch.uint8)
    clips = clips_of(frames, name, num_frames)
    theirs = same_network(name, recognizer.backbone)
    with torch.no_grad():
        maps = recognizer.embed(side_by_side(clips))
        expected = torchvisions_maps(theirs, clips, shape)
    assert maps.shape == (3, *shape)
    assert recognizer.backbone.num_features == shape[0]
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    if isinstance(theirs, MViT):
        check_class_token(theirs, recognizer.backbone, clips)
    check_streams(Model(file), frames, maps)
    check_learns(recognizer, side_by_side(clips)[None])


def check_class_token(theirs: Any, backbone: Any, clips: Tensor) -> None:
    """What torchvision's own classifier reads."""
    theirs.head = nn.Identity()
    backbone.stages[0].has_class_token_alone = True
    with torch.no_grad():
        torch.testing.assert_close(backbone(side_by_side(clips)).flatten(1), theirs(clips), atol=1e-5, rtol=1e-5)
    backbone.stages[0].has_class_token_alone = False


def check_streams(model: Model, frames: Tensor, maps: Tensor) -> None:
    """The scores of a stream, in portions, are those of all frames at once, of which the first have none."""
    embedder, state, found = model.embedder(), None, []
    for portion in frames.split([len(frames) - 2, 1, 1]):
        readings, state = model.heads.score_steps(embedder.push(portion), state)
        found.append(torch.from_numpy(readings.probabilities))
    recognizer = model.file.recognizer  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = recognizer.score(maps[None])[0][0].softmax(dim=-1)
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-5, rtol=1e-4)


def check_learns(recognizer: Recognizer, clips: Tensor) -> None:
    """A step of the heads on frozen features, and one of the whole network."""
    recognizer.train()
    recognizer.backbone.eval()
    first = next(weight for weight in recognizer.backbone.parameters() if weight.ndim == 5)
    with torch.no_grad():
        features = recognizer.embed(clips[0])[None]
    recognizer.classify(features)[:, 0].sum().backward()
    assert first.grad is None
    assert recognizer.classifier.weight.grad is not None
    recognizer(clips)[:, 0].sum().backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()
    assert first.grad.any()
    torch.optim.SGD(recognizer.parameters(), lr=1e-3).step()


def test_weights_of_a_file_come_with_the_published_normalisation(tmp_path: Path) -> None:
    theirs = torchvision.models.get_model("mc3_18")
    torch.save(theirs.state_dict(), tmp_path / "mc3.pth")
    ours = build_backbone("mc3_18", str(tmp_path / "mc3.pth"), size_px=32, num_frames=2)
    assert torch.equal(next(ours.parameters()), next(theirs.parameters()))
    assert ours.normalization.mean == (0.43216, 0.394666, 0.37645)
    assert ours.normalization.std == (0.22803, 0.22145, 0.216989)
    with pytest.raises(UserError, match=r"mc3\.pth: weights of another architecture"):
        build_backbone("r3d_18", str(tmp_path / "mc3.pth"), size_px=32, num_frames=2)


def test_positions_are_resampled_to_the_size_of_the_clips() -> None:
    network: Any = torchvision.models.get_model("mvit_v1_b")
    positions = network.pos_encoding
    published = {name: weight.clone() for name, weight in positions.state_dict().items()}
    _resample_positions(network, 224, 16)
    assert all(torch.equal(weight, published[name]) for name, weight in positions.state_dict().items())
    _resample_positions(network, 112, 7)
    assert (positions.spatial_size, positions.temporal_size) == ((28, 28), 4)
    rows = published["spatial_pos"].T.reshape(1, -1, 56, 56)
    expected = F.interpolate(rows, (28, 28), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(positions.spatial_pos, expected)
    expected = (published["temporal_pos"][::2] + published["temporal_pos"][1::2]) / 2
    torch.testing.assert_close(positions.temporal_pos, expected)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("s3d", {"num_frames": 4}, r"with 4 pictures of 64x64 at once: .* transform\.input_frames 128 and .*_px 224"),
        ("s3d", {"num_frames": 8, "frame_vector": "class_token"}, "model.backbone s3d and .*: it has no class token"),
        ("s3d", {"num_frames": 8, "num_stages": 1}, "model.num_stages 1: s3d is one piece"),
        ("r3d_19", {}, r"unknown backbone 'r3d_19'\. Did you mean r3d_18"),
    ],
)
def test_what_a_network_cannot_do_is_refused(name: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(name, "none", size_px=64, **asked)


def test_the_cache_tells_lengths_apart_and_knows_the_entries_of_before() -> None:
    model = small_model(input_frames=3)
    facts = []
    for num_frames in (1, 3, 4):
        transform = TrainTransform(replace(model.transform, input_frames=num_frames), model.normalization)
        facts.append(FrozenBackbone(model.recognizer, transform).facts())
    assert "input_frames" not in facts[0]
    assert "input_frames" not in to_dict(TransformConfig())
    assert len({digest(fact) for fact in facts}) == 3


# Those that have a block of every kind.
FIRST_BLOCKS = {"r2plus1d_18": 3, "mvit_v1_b": 2, "s3d": 6}


# Exporting Video Swin and the second MViT takes minutes: clipgru export compares what it writes, of any network.
@pytest.mark.parametrize("name", FIRST_BLOCKS)
def test_onnx_runtime_sees_the_same(name: str, one_torchlib: None) -> None:
    torch.manual_seed(0)
    num_frames, size_px, _ = NETWORKS[name]
    network = with_few_blocks(build_backbone(name, "none", size_px=size_px, num_frames=num_frames)).eval()
    inner: Any = network.stages[0].network  # type: ignore[union-attr]
    if name == "mvit_v1_b":
        inner.blocks, inner.norm = inner.blocks[: FIRST_BLOCKS[name]], nn.LayerNorm(192)
    else:
        network.stages[0].network = inner[: FIRST_BLOCKS[name]]  # type: ignore[union-attr]
    given = torch.randn(2, 3 * num_frames, size_px, size_px)
    graph = _to_onnx(network, (given,), ({0: BATCH},), ["x"], ["y"])
    with torch.no_grad():
        expected = network(given[:1])
    (got,) = open_session(graph)(["y"], {"x": given[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-4, rtol=1e-4)


def test_a_whole_model_is_exported(one_torchlib: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second half of its network, which is the first again, and wider."""
    get_model = torchvision.models.get_model

    def get_half(name: str, **options: Any) -> Any:
        network = get_model(name, **options)
        network.layer3 = network.layer4 = nn.Identity()
        return network

    monkeypatch.setattr(torchvision.models, "get_model", get_half)
    file = small_model(backbone="mc3_18", weights="none", heads=("mean",), input_size_px=32, input_frames=3)
    with_few_blocks(file.recognizer.backbone)
    pieces = make_pieces(file)
    differences = check_parity(file, assemble(file, pieces), pieces.slots)
    assert set(differences) == {"backbone", "clip", "step"}
    assert max(differences.values()) < 1e-5
