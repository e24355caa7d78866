"""Video networks of torchvision as backbones: n frames in a row in, the feature map of the last of them out.

A network reads the past alone, so that its features of a frame are the same on a stream. What it says of the steps in
time that it has left of its clip is averaged, as its own classifier does (MViT's reads its class token).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.video import MViT, SwinTransformer3d, VideoResNet

from pipeline.config import Normalization
from pipeline.models.backbone import Backbone, NoMapError, look
from pipeline.models.layouts import NO_CLASS_TOKEN
from pipeline.models.weights import load_file


def video_backbone(name: str, weights: str, size_px: int, frame_vector: str, *, num_frames: int) -> Backbone:
    """The video network of that name in torchvision, with weights as ``published_backbone`` has them.

    Args:
        name: a key of ``VIDEO_BACKBONES``.
        weights: as there.
        size_px: side of its pictures.
        frame_vector: ``class_token`` for that of an MViT, as a map of one place.
        num_frames: those that it reads at once.
    """
    published = torchvision.models.get_model_weights(name).DEFAULT
    network = torchvision.models.get_model(name, weights=published if weights == "default" else None)
    if weights not in ("default", "none"):
        load_file(network, Path(weights))
    preset = published.transforms()
    normalization = Normalization(tuple(preset.mean), tuple(preset.std))
    features = _features_of(network, size_px, num_frames, frame_vector)
    with torch.device("meta"):  # for its shape alone: a look at a blank clip takes as long as at a real one
        blank = _features_of(torchvision.models.get_model(name), size_px, num_frames, frame_vector)
        num_features = look(blank, size_px, num_frames).shape[1]
    return Backbone([features], normalization, size_px, num_frames, num_features)


def trained_size_px(name: str) -> int:
    """Return the side of the pictures that the published weights of a video network were trained on."""
    return int(torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0])


def _features_of(network: Any, size_px: int, num_frames: int, frame_vector: str) -> nn.Module:
    if isinstance(network, MViT):
        network.head = nn.Identity()
        _resample_positions(network, size_px, num_frames)
        return _MViTFeatures(network, num_frames, has_class_token_alone=frame_vector == "class_token")
    if frame_vector == "class_token":
        raise NoMapError(NO_CLASS_TOKEN)
    if isinstance(network, SwinTransformer3d):
        network.head = nn.Identity()
        return _SwinFeatures(network, num_frames)
    if isinstance(network, VideoResNet):
        layers = [network.stem, network.layer1, network.layer2, network.layer3, network.layer4]
        return _ClipFeatures(nn.Sequential(*layers), num_frames)
    return _ClipFeatures(network.features, num_frames)  # S3D


def _resample_positions(network: MViT, size_px: int, num_frames: int) -> None:
    """Bring MViT's position embedding to clips of another size than the published. Its second version has one of
    distances, which it resamples by itself."""
    positions = network.pos_encoding
    lengths = zip((num_frames, size_px, size_px), network.conv_proj.stride, strict=True)
    steps, *sides = (-(-length // stride) for length, stride in lengths)
    if positions.spatial_pos is not None and positions.temporal_pos is not None:
        places = positions.spatial_pos.detach().T.unflatten(1, positions.spatial_size)  # [h w, D] -> [D, h, w]
        positions.spatial_pos = nn.Parameter(_resampled(places, sides, "bicubic").flatten(1).T.contiguous())
        positions.temporal_pos = nn.Parameter(
            _resampled(positions.temporal_pos.detach().T, [steps], "linear").T.contiguous()
        )
    positions.spatial_size, positions.temporal_size = (sides[0], sides[1]), steps


def _resampled(values: Tensor, size: list[int], mode: str) -> Tensor:
    """``[D, ...]`` -> ``[D, *size]``."""
    if list(values.shape[1:]) == size:
        return values
    return F.interpolate(values[None], size, mode=mode)[0]


class _ClipFeatures(nn.Module):
    """A network of clips ``[N, 3, n, H, W]`` -> ``[N, D, t, h, w]``, as one stage that reads their pictures side by
    side and averages over time."""

    def __init__(self, network: nn.Module, num_frames: int) -> None:
        super().__init__()
        self.network, self.num_frames = network, num_frames

    def forward(self, frames: Tensor) -> Tensor:
        """``[N, 3 n, H, W]`` -> ``[N, D, h, w]``."""
        clips = frames.unflatten(1, (self.num_frames, 3)).transpose(1, 2)  # [N, 3 n, H, W] -> [N, 3, n, H, W]
        return self.maps(clips)

    def maps(self, clips: Tensor) -> Tensor:
        """``[N, 3, n, H, W]`` -> ``[N, D, h, w]``."""
        features: Tensor = self.network(clips)
        return features.mean(dim=2)


class _SwinFeatures(_ClipFeatures):
    """Video Swin without its pooling and classifier, which has channels last."""

    def maps(self, clips: Tensor) -> Tensor:
        network: Any = self.network
        features: Tensor = network.norm(network.features(network.pos_drop(network.patch_embed(clips))))
        return features.mean(dim=1).permute(0, 3, 1, 2)  # [N, t, h, w, D] -> [N, D, h, w]


class _MViTFeatures(_ClipFeatures):
    """MViT without its classifier: the mean over time of its tokens at their places, or its class token."""

    def __init__(self, network: nn.Module, num_frames: int, *, has_class_token_alone: bool) -> None:
        super().__init__(network, num_frames)
        self.has_class_token_alone = has_class_token_alone

    def maps(self, clips: Tensor) -> Tensor:
        network: Any = self.network
        tokens = network.pos_encoding(network.conv_proj(clips).flatten(2).transpose(1, 2))
        shape = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
        for block in network.blocks:
            tokens, shape = block(tokens, shape)
        tokens = network.norm(tokens)
        if self.has_class_token_alone:
            maps: Tensor = tokens[:, 0, :, None, None]
        else:
            maps = tokens[:, 1:].transpose(1, 2).unflatten(2, shape).mean(dim=2)  # [N, 1 + t h w, D] -> [N, D, h, w]
        return maps
