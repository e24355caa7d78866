"""Random changes of colour of a batch of clips, one draw a clip, all clips at once.

Brightness, contrast, saturation and the removal of colour are one operation: a blend of the picture with black, its
mean grey or its grey version. A step is one of them for each clip, not the same for all, so that the clips of a batch
go through them in different orders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config import TransformConfig

BRIGHTNESS, CONTRAST, SATURATION = range(3)
"""Kinds of a step. To remove all colour is a step of saturation with factor 0."""


@dataclass(frozen=True)
class ColourSteps:
    """The steps of each clip, in their order."""

    kinds: Tensor
    """``[steps, B]``."""
    factors: Tensor
    """``[steps, B]``, the picture's share of the blend; above 1 the change is away from black or grey."""

    def split(self, num_clips: int) -> list[ColourSteps]:
        """Return those of the first so many clips, of the next so many, ..."""
        pairs = zip(self.kinds.split(num_clips, dim=1), self.factors.split(num_clips, dim=1), strict=True)
        return [ColourSteps(*pair) for pair in pairs]


def draw_colour_steps(num_clips: int, config: TransformConfig, device: torch.device) -> ColourSteps:
    """Draw brightness, contrast and saturation in a random order as torchvision's ``ColorJitter`` does, then its
    ``RandomGrayscale``; those that are off in the settings of all clips are left out."""
    kinds, factors = [], []
    strengths = (config.brightness, config.contrast, config.saturation)
    if any(strengths):
        order = torch.rand(len(strengths), num_clips, device=device).argsort(dim=0)
        of_kinds = [torch.empty(num_clips, device=device).uniform_(1 - span, 1 + span) for span in strengths]
        kinds.append(order)
        factors.append(torch.stack(of_kinds).gather(0, order))
    if config.grayscale:
        keeps_colour = torch.rand(1, num_clips, device=device) >= config.grayscale
        kinds.append(torch.full((1, num_clips), SATURATION, device=device))
        factors.append(keeps_colour.float())
    none = torch.empty(0, num_clips, device=device)
    return ColourSteps(torch.cat([none.long(), *kinds]), torch.cat([none, *factors]))


def change_colours(frames: Tensor, steps: ColourSteps) -> Tensor:
    """``[B, T, 3, H, W]`` of numbers from 0 to 255, uint8 or float -> the same as floats, each clip by its steps."""
    frames = frames.to(torch.float32, copy=True)
    # [steps, B] -> [steps, B, 1, 1, 1, 1]
    kinds, factors = (values[..., None, None, None, None] for values in (steps.kinds, steps.factors))
    for kind, factor in zip(kinds, factors, strict=True):
        grey = _grey(frames)
        mean = grey.mean(dim=(3, 4), keepdim=True)  # of each frame, [B, T, 1, 1, 1]
        other = torch.where(kind == SATURATION, grey, mean * (kind == CONTRAST))
        torch.lerp(other, frames, factor, out=frames).clamp_(0, 255)
    return frames


def _grey(frames: Tensor) -> Tensor:
    """Brightness of each pixel (ITU-R BT.601): ``[B, T, 3, H, W]`` -> ``[B, T, 1, H, W]``."""
    red, green, blue = frames.split(1, dim=2)
    grey: Tensor = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return grey
