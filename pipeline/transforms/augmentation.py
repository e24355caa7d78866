"""The random part of training: one draw a clip, never one a frame, so that it does not look like motion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from pipeline.config import Normalization, TransformConfig
from pipeline.transforms.frames import ClipTransform


class TrainTransform(ClipTransform):
    """``ClipTransform`` with chance before it.

    Args:
        config: the settings.
        normalization: what the backbone's weights expect.
    """

    def __init__(self, config: TransformConfig, normalization: Normalization) -> None:
        super().__init__(config, normalization)
        self._augment = _augmentation(config)

    def train(self, frames: Tensor) -> Tensor:
        """uint8 ``[B, T + L, 3, S, S]`` -> float ``[B, T, 3 P, I, I]``. Draws from torch's global generator."""
        if self.config.crop_padding_px:
            frames = shift_and_flip(frames, self.config)
        if self._augment is not None:
            frames = torch.stack([self._augment(clip) for clip in frames])
        clips = self.to_input(frames)
        return blank_squares(clips, self.config.cutout_px) if self.config.cutout_px else clips


def _augmentation(config: TransformConfig) -> Callable[[Tensor], Tensor] | None:
    """The random part, for one uint8 clip ``[T, 3, S, S]`` -> uint8 ``[T, 3, I, I]`` with I = ``input_size_px``; None
    if ``shift_and_flip`` leaves nothing to do."""
    size = config.input_size_px
    steps: list[torch.nn.Module] = []
    if not config.crop_padding_px:
        crop: torch.nn.Module = v2.RandomCrop(size)
        if config.min_crop_area < 1:
            crop = v2.RandomResizedCrop(size, scale=(config.min_crop_area, 1.0), ratio=(0.8, 1.25), antialias=True)
        steps += [crop, v2.RandomHorizontalFlip(config.horizontal_flip)]
    if config.brightness or config.contrast or config.saturation:
        steps.append(v2.ColorJitter(config.brightness, config.contrast, config.saturation))
    if config.grayscale:
        steps.append(v2.RandomGrayscale(config.grayscale))
    augment: Callable[[Tensor], Tensor] | None = v2.Compose(steps) if steps else None
    return augment


def shift_and_flip(frames: Tensor, config: TransformConfig) -> Tensor:
    """Crops of fixed scale at random places of frames continued by reflection, each clip mirrored or not: uint8
    ``[B, T, 3, S, S]`` -> ``[B, T, 3, I, I]``. All clips at once, for small pictures in large batches."""
    num_clips, size, device = len(frames), config.input_size_px, frames.device
    last = frames.shape[-1] - 1
    num_places = last + 2 * config.crop_padding_px - size + 2
    start = torch.randint(num_places, (2, num_clips, 1), device=device) - config.crop_padding_px
    rows, columns = start + torch.arange(size, device=device)  # each [B, I], from -padding to last + padding
    is_flipped = torch.rand(num_clips, 1, device=device) < config.horizontal_flip
    columns = torch.where(is_flipped, columns.flip(1), columns)
    rows, columns = (last - (last - places.abs()).abs() for places in (rows, columns))  # reflected at both edges
    clip = torch.arange(num_clips, device=device)[:, None, None]
    cropped = frames.flatten(1, 2)[clip, :, rows[:, :, None], columns[:, None, :]]  # [B, I, I, T 3]
    clips: Tensor = cropped.permute(0, 3, 1, 2).unflatten(1, frames.shape[1:3])
    return clips


def blank_squares(clips: Tensor, side_px: int) -> Tensor:
    """Sets a square of each clip ``[B, T, C, I, I]`` to 0, wholly inside, at a place drawn for the clip."""
    size = clips.shape[-1]
    top, left = torch.randint(size - side_px + 1, (2, len(clips), 1), device=clips.device)
    along = torch.arange(size, device=clips.device)
    rows, columns = ((along >= start) & (along < start + side_px) for start in (top, left))  # each [B, I]
    return clips.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None, None], 0.0)
