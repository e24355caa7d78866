"""Backbones of timm, by their names there: every image network with ``forward_features`` that gives maps or tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from pipeline.config import Normalization
from pipeline.models.backbone import Backbone
from pipeline.models.layouts import ChannelsFirst, as_maps
from pipeline.models.weights import load_file

# What follows the features in networks whose published pooling is built with them.
_HEADS = ("head", "head_dist", "head_drop", "fc_norm", "attn_pool")


def timm_backbone(name: str, weights: str, size_px: int, frame_vector: str) -> Backbone:
    """The network of that name in timm, with weights as ``published_backbone`` has them, for pictures of that side.

    A network of a fixed size is built for this one; its position embedding is resampled to it.
    """
    known = timm.get_pretrained_cfg(name)
    is_sized = known is not None and known.fixed_input_size
    network: Any = _sized(name, weights, size_px) if is_sized else _of_any_size(name, weights)
    settings: dict[str, Any] = network.pretrained_cfg
    normalization = Normalization(tuple(settings["mean"]), tuple(settings["std"]))
    return Backbone(_stages(network, size_px, frame_vector), normalization, size_px)


def _of_any_size(name: str, weights: str) -> nn.Module:
    asked: dict[str, Any] = {"pretrained": weights == "default", "num_classes": 0}
    try:
        network: nn.Module = timm.create_model(name, **asked, global_pool="")
    except AssertionError:  # its head cannot do without
        network = _headless(timm.create_model(name, **asked))
    if weights not in ("default", "none"):
        load_file(network, Path(weights))
    return network


def _sized(name: str, weights: str, size_px: int) -> nn.Module:
    """With the published pooling, which decides what normalises the features, then without all that follows them."""
    asked: dict[str, Any] = {"num_classes": 0, "img_size": (size_px, size_px)}
    if weights in ("default", "none"):
        return _headless(timm.create_model(name, pretrained=weights == "default", **asked))
    return _headless(_from_file(name, Path(weights), asked))


def _headless(network: nn.Module) -> nn.Module:
    for part in _HEADS:
        if isinstance(getattr(network, part, None), nn.Module):
            setattr(network, part, nn.Identity())
    return network


def _from_file(name: str, path: Path, asked: dict[str, Any]) -> nn.Module:
    """Weights of a file are of the published size; timm resamples them to another as it does its own."""
    published: nn.Module = timm.create_model(name, num_classes=0)
    load_file(published, path)
    given = {"state_dict": published.state_dict(), "num_classes": 0}
    network: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **asked)
    network.pretrained_cfg.pop("state_dict")  # type: ignore[operator,union-attr]
    return network


class _TimmFeatures(nn.Module):
    """A timm network up to its features, as one stage, for those that are not a plain chain of blocks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(frames)  # type: ignore[operator]
        return features


def _stages(network: nn.Module, size_px: int, frame_vector: str) -> list[nn.Module]:
    parts = dict(network.named_children())
    is_chain = {"conv_stem", "bn1", "blocks", "conv_head", "bn2"} <= parts.keys()
    if is_chain and frame_vector == "mean":  # the EfficientNet and MobileNet families
        stem = nn.Sequential(parts["conv_stem"], parts["bn1"])
        return [stem, *parts["blocks"].children(), nn.Sequential(parts["conv_head"], parts["bn2"])]
    features: nn.Module = _TimmFeatures(network)
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        features = ChannelsFirst(features)
    num_others = getattr(network, "num_prefix_tokens", None)
    has_class_token = isinstance(getattr(network, "cls_token", None), Tensor)
    return [as_maps(features, size_px, frame_vector, num_others=num_others, has_class_token=has_class_token)]
