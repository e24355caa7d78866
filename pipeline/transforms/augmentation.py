"""The random part of training: one draw a clip, never one a frame, so that it does not look like motion.

All draws come from torch's global generator of the device that the frames are on, and stay there: nothing waits for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.transforms.colours import ColourSteps, change_colours, draw_colour_steps
from pipeline.transforms.crops import draw_boxes, resize_crops, shift_and_flip
from pipeline.transforms.frames import ClipTransform

# So few stay in a CPU's caches from the first step to the last.
_PIXELS_AT_ONCE = 16 * 112 * 112


class TrainTransform(ClipTransform):
    """``ClipTransform`` with chance before it.

    Args:
        config: the settings.
        normalization: what the backbone's weights expect.
    """

    def train(self, frames: Tensor) -> Tensor:
        """uint8 ``[B, T + L, 3, S, S]`` -> float ``[B, T, 3 P, I, I]``. Draws from torch's global generator."""
        config, num_clips, device = self.config, len(frames), frames.device
        if config.crop_padding_px:
            frames = shift_and_flip(frames, config)
        else:
            boxes = draw_boxes(num_clips, config, device)
            is_flipped = torch.rand(num_clips, device=device) < config.horizontal_flip
            frames = resize_crops(frames, boxes, is_flipped, config.input_size_px)
        clips = self._coloured(frames, draw_colour_steps(num_clips, config, device))
        return blank_squares(clips, config.cutout_px) if config.cutout_px else clips

    def _coloured(self, frames: Tensor, steps: ColourSteps) -> Tensor:
        """uint8 or float ``[B, T + L, 3, I, I]`` -> float ``[B, T, 3 P, I, I]``; on a CPU few clips at a time."""
        num_at_once = len(frames)
        if frames.device.type == "cpu" and len(steps.kinds):
            num_at_once = max(1, _PIXELS_AT_ONCE // frames[0, :, 0].numel())
        parts = zip(frames.split(num_at_once), steps.split(num_at_once), strict=True)
        clips = [self.to_input(change_colours(*part)) for part in parts]
        return torch.cat(clips) if len(clips) > 1 else clips[0]


def blank_squares(clips: Tensor, side_px: int) -> Tensor:
    """Sets a square of each clip ``[B, T, C, I, I]`` to 0, wholly inside, at a place drawn for the clip."""
    size = clips.shape[-1]
    top, left = torch.randint(size - side_px + 1, (2, len(clips), 1), device=clips.device)
    along = torch.arange(size, device=clips.device)
    rows, columns = ((along >= start) & (along < start + side_px) for start in (top, left))  # each [B, I]
    return clips.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None, None], 0.0)
