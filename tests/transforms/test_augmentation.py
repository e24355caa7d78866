"""The augmentation of a whole batch against torchvision's, clip by clip: the same pictures of the same draws, and draws
of the same distribution."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from pipeline.config import Normalization, TransformConfig
from pipeline.transforms.augmentation import TrainTransform
from pipeline.transforms.colours import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    ColourSteps,
    change_colours,
    draw_colour_steps,
)
from pipeline.transforms.crops import draw_boxes, resize_crops, resize_crops_together

CPU = torch.device("cpu")
SAME = 0.01  # of two samples from one distribution KS's p falls below this once in a hundred seeds; ours is fixed


def smooth_clips(num_clips: int, side: int) -> Tensor:
    """uint8 ``[B, 3, 3, S, S]`` with large and small structures."""
    torch.manual_seed(0)
    coarse = torch.rand(num_clips * 3, 3, 5, 5) * 255
    fine = torch.rand(num_clips * 3, 3, side, side) * 40 - 20
    pictures = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic") + fine
    return pictures.clamp(0, 255).round().to(torch.uint8).unflatten(0, (num_clips, 3))


def one_by_one(frames: Tensor, boxes: Tensor, is_flipped: Tensor, size: int) -> Tensor:
    clips = []
    for clip, box, flipped in zip(frames, boxes.t().tolist(), is_flipped.tolist(), strict=True):
        resized = TF.resized_crop(clip, *box, [size, size], antialias=True)
        clips.append(TF.horizontal_flip(resized) if flipped else resized)
    return torch.stack(clips)


@pytest.mark.parametrize(("side", "size"), [(40, 32), (64, 16), (33, 33), (20, 7)])
def test_crops_are_torchvisions(side: int, size: int) -> None:
    """On a CPU to the bit. All at once to float32's rounding, and to a CPU's whole numbers as near as these are exact:
    each of their two passes rounds to a whole number."""
    frames = smooth_clips(12, side)
    config = TransformConfig(fit_size_px=side, input_size_px=size, min_crop_area=0.1)
    boxes, is_flipped = draw_boxes(12, config, CPU), torch.arange(12) % 2 == 0
    assert torch.equal(resize_crops(frames, boxes, is_flipped, size), one_by_one(frames, boxes, is_flipped, size))
    together = resize_crops_together(frames, boxes, is_flipped, size)
    torch.testing.assert_close(together, one_by_one(frames.float(), boxes, is_flipped, size), atol=2e-3, rtol=0)
    whole = resize_crops(frames, boxes, is_flipped, size).float()
    torch.testing.assert_close(together, whole, atol=1.05, rtol=0)


def test_crops_of_fixed_scale_copy_pixels() -> None:
    frames = smooth_clips(6, 20)
    boxes = draw_boxes(6, TransformConfig(fit_size_px=20, input_size_px=16, min_crop_area=1.0), CPU)
    is_flipped = torch.zeros(6, dtype=torch.bool)
    together = resize_crops_together(frames, boxes, is_flipped, 16)
    for clip, all_at_once, (top, left, height, width) in zip(frames, together, boxes.t().tolist(), strict=True):
        assert (height, width) == (16, 16)
        assert torch.equal(all_at_once, clip[..., top : top + 16, left : left + 16].float())


@pytest.mark.parametrize("area", [0.08, 0.5, 0.9, 1.0])
def test_boxes_are_drawn_as_torchvision_draws_them(area: float) -> None:
    config = TransformConfig(fit_size_px=60, input_size_px=50, min_crop_area=area)
    torch.manual_seed(2)
    ours = draw_boxes(3000, config, CPU)
    assert (ours[:2] >= 0).all()
    assert (ours[2:] > 0).all()
    assert (ours[:2] + ours[2:] <= 60).all()
    theirs = v2.RandomResizedCrop(50, scale=(area, 1.0), ratio=(0.8, 1.25)) if area < 1 else v2.RandomCrop(50)
    picture = [torch.zeros(3, 60, 60)]
    drawn = [theirs.make_params(picture) for _ in range(3000)]
    reference = torch.tensor([[box["top"], box["left"], box["height"], box["width"]] for box in drawn]).t()
    for a, b in zip(_facts(ours.double()), _facts(reference.double()), strict=True):
        assert ks_2samp(a.numpy(), b.numpy()).pvalue > SAME


def _facts(boxes: Tensor) -> list[Tensor]:
    """Places, sides, area, aspect ratio, and places among those that are possible."""
    top, left, height, width = boxes
    return [top, left, height, width, height * width, height / width, top / (61 - height), left / (61 - width)]


def colours_one_by_one(frames: Tensor, steps: ColourSteps) -> Tensor:
    change = {BRIGHTNESS: TF.adjust_brightness, CONTRAST: TF.adjust_contrast, SATURATION: TF.adjust_saturation}
    clips = []
    for clip, kinds, factors in zip(frames, steps.kinds.t().tolist(), steps.factors.t().tolist(), strict=True):
        for kind, factor in zip(kinds, factors, strict=True):
            clip = change[kind](clip, factor)
        clips.append(clip)
    return torch.stack(clips)


def test_colours_are_torchvisions() -> None:
    """Of floats to their rounding. Of uint8, which torchvision rounds down after each step, to three levels and what
    the steps after them enlarge."""
    frames = smooth_clips(24, 12)
    config = TransformConfig(brightness=0.8, contrast=0.8, saturation=0.8)
    steps = draw_colour_steps(24, config, CPU)
    assert len({tuple(kinds) for kinds in steps.kinds.t().tolist()}) == 6
    changed = change_colours(frames, steps)
    expected = colours_one_by_one(frames.float() / 255, steps) * 255
    torch.testing.assert_close(changed, expected, atol=2e-3, rtol=0)
    gentle = draw_colour_steps(24, TransformConfig(), CPU)
    difference = change_colours(frames, gentle) - colours_one_by_one(frames, gentle).float()
    assert difference.abs().max() < 4
    assert difference.mean() > 0  # what torchvision loses by rounding down


def test_colours_are_drawn_as_torchvision_draws_them() -> None:
    torch.manual_seed(2)
    steps = draw_colour_steps(3000, TransformConfig(brightness=0.2, contrast=0.4, saturation=1.0, grayscale=0.3), CPU)
    assert steps.kinds.shape == (4, 3000)
    theirs = v2.ColorJitter(0.2, 0.4, 1.0)
    drawn = [theirs.make_params([]) for _ in range(3000)]
    for kind, name in ((BRIGHTNESS, "brightness"), (CONTRAST, "contrast"), (SATURATION, "saturation")):
        ours = steps.factors[:3].gather(0, (steps.kinds[:3] == kind).int().argmax(0, keepdim=True))[0]
        assert ks_2samp(ours.numpy(), [params[f"{name}_factor"] for params in drawn]).pvalue > SAME
    orders = Counter(map(tuple, steps.kinds[:3].t().tolist()))
    assert set(orders) == set(permutations((BRIGHTNESS, CONTRAST, SATURATION)))
    assert all(420 < count < 580 for count in orders.values())  # 500, and four deviations
    assert (steps.kinds[3] == SATURATION).all()
    assert set(steps.factors[3].tolist()) == {0.0, 1.0}
    assert 0.27 < float((steps.factors[3] == 0).float().mean()) < 0.33


def test_what_is_off_is_left_out() -> None:
    off = TransformConfig(brightness=0, contrast=0, saturation=0)
    frames = smooth_clips(2, 12)
    steps = draw_colour_steps(2, off, CPU)
    assert steps.kinds.shape == (0, 2)
    assert torch.equal(change_colours(frames, steps), frames.float())
    only_grey = draw_colour_steps(2, TransformConfig(brightness=0, contrast=0, saturation=0, grayscale=1.0), CPU)
    grey = change_colours(frames, only_grey)
    assert torch.equal(grey, grey[:, :, :1].expand_as(grey))


def test_a_batch_in_parts_is_the_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU takes some clips at a time, by their size; a GPU takes all."""
    config = TransformConfig(fit_size_px=24, input_size_px=16, input="rgb+rgb_diff", grayscale=0.5)
    transform, frames, outs = TrainTransform(config, Normalization((0.5,) * 3, (0.2,) * 3)), smooth_clips(7, 24), []
    for clips_at_once in (1, 3, 7):
        monkeypatch.setattr("pipeline.transforms.augmentation._PIXELS_AT_ONCE", clips_at_once * 3 * 16 * 16)
        torch.manual_seed(3)
        outs.append(transform.train(frames))
    torch.testing.assert_close(outs[0], outs[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(outs[1], outs[2], atol=1e-5, rtol=0)


def test_parts_of_a_video_are_augmented_alike_by_one_seed() -> None:
    """As ``FrameEmbedder.embed_grid`` goes through a long video."""
    transform = TrainTransform(
        TransformConfig(fit_size_px=24, input_size_px=16, grayscale=0.5, cutout_px=3),
        Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    )
    video = smooth_clips(1, 24).repeat(1, 3, 1, 1, 1)
    for seed in range(4):
        outs = []
        for frames in (video, video[:, :4], video[:, 4:]):
            torch.manual_seed(seed)
            outs.append(transform.train(frames))
        assert torch.equal(outs[0], torch.cat(outs[1:], dim=1))
