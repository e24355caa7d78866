"""Backbones of torchvision, by their names there: any classification network."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from pipeline.config import Normalization
from pipeline.models.backbone import Backbone, NoMapError
from pipeline.models.layouts import NO_CLASS_TOKEN, ChannelsFirst, as_maps
from pipeline.models.weights import load_file

_IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def torchvision_backbone(name: str, weights: str, size_px: int, frame_vector: str) -> Backbone:
    """The network of that name in torchvision, with weights as ``published_backbone`` has them, for pictures of that
    side."""
    published = torchvision.models.get_model_weights(name).DEFAULT if weights == "default" else None
    fixed: dict[str, Any] = {"input_size": (size_px, size_px)} if name == "maxvit_t" else {}
    # RegNet computes its widths with tensors, which need values where others are made without (device meta).
    with torch.device("cpu") if name.startswith("regnet") else nullcontext():
        network = torchvision.models.get_model(name, weights=published, **fixed)
    network.to(torch.get_default_device())
    if weights not in ("default", "none"):
        load_file(network, Path(weights))
    normalization = _IMAGENET
    if published is not None:
        preset = published.transforms()
        normalization = Normalization(tuple(preset.mean), tuple(preset.std))
    return Backbone(_stages(network, size_px, frame_vector), normalization, size_px)


def _stages(network: nn.Module, size_px: int, frame_vector: str) -> list[nn.Module]:
    if isinstance(network, VisionTransformer):
        tokens = _VisionTransformerTokens(network, size_px)
        return [as_maps(tokens, size_px, frame_vector, num_others=1, has_class_token=True)]
    if frame_vector == "class_token":
        raise NoMapError(NO_CLASS_TOKEN)
    if isinstance(network, SwinTransformer):
        first, *middle, last = network.features.children()
        later = [*middle, nn.Sequential(last, network.norm)]
        return [ChannelsFirst(first), *(ChannelsFirst(stage, reads_too=True) for stage in later)]
    if isinstance(network, MaxVit):
        return [network.stem, *network.blocks.children()]
    features = getattr(network, "features", None)
    if isinstance(features, nn.Sequential):
        return list(features.children())  # mobilenet, efficientnet, convnext, vgg, regnet-like, ...
    children = dict(network.named_children())
    children.pop("fc", None)
    children.pop("avgpool", None)
    stem = [children.pop(name) for name in ("conv1", "bn1", "relu", "maxpool") if name in children]
    return [nn.Sequential(*stem), *children.values()]


class _VisionTransformerTokens(nn.Module):
    """The class token and those of the patches, ``[N, 1 + L, D]``, of pictures of another size than the published: the
    position embedding is resampled to it."""

    def __init__(self, network: VisionTransformer, size_px: int) -> None:
        super().__init__()
        published = {"encoder.pos_embedding": network.encoder.pos_embedding.detach()}
        resampled = interpolate_embeddings(size_px, network.patch_size, published)["encoder.pos_embedding"]
        network.encoder.pos_embedding = nn.Parameter(resampled)
        network.image_size, network.heads = size_px, nn.Identity()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        network = self.network
        patches = network._process_input(frames)
        class_token = network.class_token.expand(patches.shape[0], -1, -1)
        tokens: Tensor = network.encoder(torch.cat([class_token, patches], dim=1))
        return tokens
