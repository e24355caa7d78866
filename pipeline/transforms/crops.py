"""Random crops of a batch of clips, one draw a clip, drawn for all clips at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.config import TransformConfig
from pipeline.transforms.frames import resize

_ASPECT_RATIOS = (0.8, 1.25)  # width to height
_NUM_TRIES = 10


def draw_boxes(num_clips: int, config: TransformConfig, device: torch.device) -> Tensor:
    """Draw top, left, height and width of a crop for each clip, whole pixels ``[4, B]``, as torchvision's
    ``RandomResizedCrop`` draws them; with ``min_crop_area`` 1 as its ``RandomCrop``."""
    if config.min_crop_area < 1:
        sides = _draw_sides(num_clips, config, device)
    else:
        sides = torch.full((2, num_clips), config.input_size_px, device=device)
    places = (torch.rand(2, num_clips, device=device) * (config.fit_size_px - sides + 1)).long()
    return torch.cat([places, sides])


def _draw_sides(num_clips: int, config: TransformConfig, device: torch.device) -> Tensor:
    """Height and width ``[2, B]``: the first of ten draws that fits into the frame, else the whole frame."""
    whole = config.fit_size_px
    areas, aspects = torch.empty(2, _NUM_TRIES, num_clips, device=device)
    areas.uniform_(config.min_crop_area, 1).mul_(whole**2)
    aspects.uniform_(*map(math.log, _ASPECT_RATIOS)).exp_()
    drawn = torch.stack([areas / aspects, areas * aspects]).sqrt().round().long()  # [2, tries, B]
    fits = ((drawn > 0) & (drawn <= whole)).all(dim=0)
    first = fits.int().argmax(dim=0, keepdim=True).expand(2, 1, -1)
    return torch.where(fits.any(dim=0), drawn.gather(1, first).squeeze(1), whole)


def resize_crops(frames: Tensor, boxes: Tensor, is_flipped: Tensor, size_px: int) -> Tensor:
    """Cut out ``boxes [4, B]`` of uint8 ``[B, T, 3, S, S]``, resize them (bilinear, antialiased) and mirror those clips
    that are to be: ``[B, T, 3, I, I]``. On a CPU uint8, rounded; on other devices floats from 0 to 255.

    A CPU is fastest clip by clip, in whole numbers. Elsewhere that would be many small calls, and reading the boxes
    would wait for all work that is under way.
    """
    together = resize_crops_together if frames.device.type != "cpu" else _resize_crops_one_by_one
    return together(frames, boxes, is_flipped, size_px)


def _resize_crops_one_by_one(frames: Tensor, boxes: Tensor, is_flipped: Tensor, size_px: int) -> Tensor:
    clips = []
    for clip, (top, left, height, width), flipped in zip(frames, boxes.t().tolist(), is_flipped.tolist(), strict=True):
        resized = resize(clip[..., top : top + height, left : left + width], size_px, size_px)
        clips.append(resized.flip(-1) if flipped else resized)
    return torch.stack(clips)


def resize_crops_together(frames: Tensor, boxes: Tensor, is_flipped: Tensor, size_px: int) -> Tensor:
    """Compute ``resize_crops`` for all clips at once, by two matrix products: floats ``[B, T, 3, I, I]``."""
    top, left, height, width = boxes
    rows = _resize_matrices(top, height, frames.shape[-2], size_px)
    columns = _resize_matrices(left, width, frames.shape[-1], size_px)
    columns = torch.where(is_flipped[:, None, None], columns.flip(1), columns)
    with torch.autocast(frames.device.type, enabled=False):  # bfloat16 has 8 bits, as many as the pixels
        return torch.einsum("biy,btcyx,bjx->btcij", rows, frames.float(), columns)


def _resize_matrices(start: Tensor, length: Tensor, num_inputs: int, num_outputs: int) -> Tensor:
    """Weights of the inputs in each output, ``[B, num_outputs, num_inputs]``: a triangle filter over ``length`` inputs
    from ``start`` on (both ``[B]``), as wide as a step between outputs, or between inputs where those are wider."""
    step = (length / num_outputs)[:, None, None]
    centers = step * (torch.arange(num_outputs, device=start.device)[:, None] + 0.5)
    inputs = torch.arange(num_inputs, device=start.device) - start[:, None, None]
    weights = (1 - (inputs + 0.5 - centers).abs() / step.clamp_min(1)).clamp_min(0)
    weights = weights * ((inputs >= 0) & (inputs < length[:, None, None]))
    return weights / weights.sum(dim=-1, keepdim=True)


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
