"""From decoded frames to network input.

``fit_frames`` runs where frames are decoded and makes every frame the same small uint8 square, so that clips of odd
sizes batch together and little data travels. The rest runs on whole uint8 batches on the model's device. What a
prediction needs is here and wants torch alone; the random part of training is in ``augmentation``.
"""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Normalization, TransformConfig
from pipeline.transforms.without_torch import SQUARE, size_before_crop

_HAS_WHOLE_NUMBER_RESIZE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def fit_frames(frames: Tensor, config: TransformConfig, sample_aspect_ratio: Fraction = SQUARE) -> Tensor:
    """uint8 ``[T, 3, H, W]`` of any size -> uint8 ``[T, 3, S, S]`` with S = ``fit_size_px``, antialiased. ``crop`` cuts
    out of the shape in which pixels of that ratio are shown."""
    size = config.fit_size_px
    if config.fit == "stretch":
        return resize(frames, size, size)
    height, width = frames.shape[-2:]
    return _center(resize(frames, *size_before_crop(height, width, size, sample_aspect_ratio)), size)


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 ``[T, 3, H, W]`` as torchvision's ``resize`` of tensors does, to the bit."""
    if frames.shape[-2:] == (height, width):
        return frames
    if len(frames) == 1:  # torch takes one picture for planes, whatever its strides, unless the batch's stride says so
        frames = frames.as_strided(frames.shape, (frames.numel(), *frames.stride()[1:]))
    if frames.device.type == "cpu" and _HAS_WHOLE_NUMBER_RESIZE:
        return F.interpolate(frames, (height, width), mode="bilinear", antialias=True)
    resized = F.interpolate(frames.float(), (height, width), mode="bilinear", antialias=True)
    return resized.round_().to(torch.uint8)


def _center(frames: Tensor, size_px: int) -> Tensor:
    top, left = (round((side - size_px) / 2) for side in frames.shape[-2:])
    return frames[..., top : top + size_px, left : left + size_px]


class ClipTransform:
    """The device part, without chance; ``TrainTransform`` adds the chance.

    Args:
        config: the settings.
        normalization: what the backbone's weights expect.
    """

    def __init__(self, config: TransformConfig, normalization: Normalization) -> None:
        self.config = config
        self.normalization = normalization

    def evaluate(self, frames: Tensor) -> Tensor:
        """uint8 ``[B, T + L, 3, S, S]`` -> float ``[B, T, 3 P, I, I]``, the centre: I = ``input_size_px``."""
        return self.to_input(_center(frames, self.config.input_size_px))

    def to_input(self, frames: Tensor) -> Tensor:
        """``[..., T + L, 3, I, I]``, uint8 or float from 0 to 255, the latter overwritten -> normalised float
        ``[..., T, 3 P, I, I]``, P pictures of each frame.

        ``rgb_diff`` gives the change of the normalised picture since the frame before, so that each output frame
        needs its predecessor (L is 1, else 0). ``rgb+rgb_diff`` gives the picture, then its change. For a video network
        P are the pictures of ``input_frames`` frames, the last of which is the output's (L is P - 1).
        """
        mean, std = (
            # non_blocking: a plain copy to a GPU waits for all work that is under way there.
            torch.tensor(value).view(3, 1, 1).to(frames.device, non_blocking=True)
            for value in (self.normalization.mean, self.normalization.std)
        )
        pictures = frames.float().div_(255).sub_(mean).div_(std)
        if self.config.input == "rgb":
            num_features = pictures.shape[-4] - self.config.input_frames + 1
            starts = range(self.config.input_frames)
            shifted = [pictures[..., start : start + num_features, :, :, :] for start in starts]
            return torch.cat(shifted, dim=-3) if len(shifted) > 1 else pictures
        now, before = pictures[..., 1:, :, :, :], pictures[..., :-1, :, :, :]
        return now - before if self.config.num_pictures == 1 else torch.cat([now, now - before], dim=-3)
