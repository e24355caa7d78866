"""From decoded frames to network input.

``fit_frames`` runs where frames are decoded and makes every frame the same small uint8 square, so that clips of odd
sizes batch together and little data travels. The rest runs on whole uint8 batches on the model's device: one random
draw a clip, never one a frame, so that augmentation does not look like motion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from pipeline.config import Normalization, TransformConfig


def fit_frames(frames: Tensor, config: TransformConfig) -> Tensor:
    """uint8 ``[T, 3, H, W]`` of any size -> uint8 ``[T, 3, S, S]`` with S = ``fit_size_px``, antialiased."""
    size = config.fit_size_px
    # "stretch" names both sides, "crop" the short one
    fitted: Tensor = TF.resize(frames, [size, size] if config.fit == "stretch" else [size], antialias=True)
    return fitted if config.fit == "stretch" else _center(fitted, size)


def _center(frames: Tensor, size_px: int) -> Tensor:
    cropped: Tensor = TF.center_crop(frames, [size_px, size_px])
    return cropped


def train_augmentation(config: TransformConfig) -> Callable[[Tensor], Tensor]:
    """The random part, for one uint8 clip ``[T, 3, S, S]`` -> uint8 ``[T, 3, I, I]`` with I = ``input_size_px``."""
    size = config.input_size_px
    crop: torch.nn.Module = v2.RandomCrop(size)
    if config.min_crop_area < 1:
        crop = v2.RandomResizedCrop(size, scale=(config.min_crop_area, 1.0), ratio=(0.8, 1.25), antialias=True)
    steps = [crop, v2.RandomHorizontalFlip(config.horizontal_flip)]
    if config.brightness or config.contrast or config.saturation:
        steps.append(v2.ColorJitter(config.brightness, config.contrast, config.saturation))
    if config.grayscale:
        steps.append(v2.RandomGrayscale(config.grayscale))
    augment: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return augment


class ClipTransform:
    """The device part, for training or for evaluation.

    Args:
        config: the settings.
        normalization: what the backbone's weights expect.
    """

    def __init__(self, config: TransformConfig, normalization: Normalization) -> None:
        self.config = config
        self.normalization = normalization
        self._augment = train_augmentation(config)

    def train(self, frames: Tensor) -> Tensor:
        """uint8 ``[B, T + context, 3, S, S]`` -> float ``[B, T, 3, I, I]``. Draws from torch's global generator."""
        return self.to_input(torch.stack([self._augment(clip) for clip in frames]))

    def evaluate(self, frames: Tensor) -> Tensor:
        """As ``train`` without chance: the centre of each frame."""
        return self.to_input(_center(frames, self.config.input_size_px))

    def to_input(self, frames: Tensor) -> Tensor:
        """uint8 ``[..., T + context, 3, I, I]`` -> normalised float ``[..., T, 3, I, I]``.

        ``difference`` gives the change of the normalised picture since the frame before, so that each output frame
        needs its predecessor: the context frame.
        """
        mean, std = (
            torch.tensor(value, device=frames.device).view(3, 1, 1)
            for value in (self.normalization.mean, self.normalization.std)
        )
        pictures = frames.float().div_(255).sub_(mean).div_(std)
        if self.config.representation == "rgb":
            return pictures
        return pictures[..., 1:, :, :, :] - pictures[..., :-1, :, :, :]
