"""Backbones of torchvision and timm, by their names there: any classification CNN."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.config import Normalization
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.weights import load_file

_IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def published_backbone(name: str, weights: str, own_names: Sequence[str] = ()) -> Backbone:
    """The network of that name, looked up in torchvision, then in timm.

    Args:
        name: as torchvision or timm has it.
        weights: ``default`` (the publisher's, downloaded once to the cache of torch or of the hub), ``none`` (random),
            or a path to a state dict.
        own_names: other names, for a guess at what was meant.

    Raises:
        UserError: unknown name, unfitting weights, no network, or a network without a feature map.
    """
    is_name = re.fullmatch(r"\w[\w.]{0,99}", name) is not None  # timm would take more for an address
    in_torchvision = name in torchvision.models.list_models(module=torchvision.models)
    if not in_torchvision and not (is_name and timm.is_model(name)):
        known = [*own_names, *torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
        close = get_close_matches(name[:100], dict.fromkeys(known), n=3)
        guess = f" Did you mean {', '.join(close)}?" if close else ""
        raise UserError(
            f"unknown backbone {name[:100]!r}.{guess} Any torchvision or timm CNN will do, for example resnet18"
        )
    try:
        return _torchvision(name, weights) if in_torchvision else _timm(name, weights)
    except (AssertionError, RuntimeError) as error:  # no network without its pooling; no weights of that tag
        raise UserError(
            f"backbone {name!r} cannot be used ({error}); choose another CNN, for example resnet18"
        ) from error
    except OSError as error:  # urllib's and the hub's errors for a missing network are OSErrors
        raise UserError(
            f"cannot download the weights of {name!r} ({error}); go online, or use weights: none, bundled or a file"
        ) from error


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
    # RegNet computes its widths with tensors, which need values where others are made without (device meta).
    with torch.device("cpu") if name.startswith("regnet") else nullcontext():
        network = torchvision.models.get_model(name, weights=published)
    network.to(torch.get_default_device())
    if weights not in ("default", "none"):
        load_file(network, Path(weights))
    normalization = _IMAGENET
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
    if weights not in ("default", "none"):
        load_file(network, Path(weights))
    settings: dict[str, Any] = network.pretrained_cfg
    return Backbone(_timm_stages(network), Normalization(tuple(settings["mean"]), tuple(settings["std"])))
