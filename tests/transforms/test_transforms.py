"""Transforms: one draw a clip, the right range, and nothing moved that should not be."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pipeline.config import Normalization, TransformConfig
from pipeline.errors import UserError
from pipeline.transforms.augmentation import TrainTransform
from pipeline.transforms.frames import ClipTransform, fit_frames

UNIT = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def noise_clip(batch: int = 3, steps: int = 4, side: int = 24) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (batch, 1, 3, side, side), dtype=torch.uint8).expand(-1, steps, -1, -1, -1).clone()


def test_one_draw_a_clip_and_another_for_the_next() -> None:
    config = TransformConfig(fit_size_px=24, input_size_px=16, grayscale=0.3)
    clips = noise_clip()
    clips[:] = clips[:1]  # the same still picture in every clip
    torch.manual_seed(1)
    out = TrainTransform(config, UNIT).train(clips)
    assert out.shape == (3, 4, 3, 16, 16)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert not torch.equal(out[0], out[1])


def test_training_draws_are_a_function_of_the_seed() -> None:
    transform = TrainTransform(TransformConfig(fit_size_px=24, input_size_px=16), UNIT)
    clips, outs = noise_clip(), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append(transform.train(clips))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_evaluation_is_the_normalised_centre() -> None:
    clips = noise_clip()
    norm = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    out = ClipTransform(TransformConfig(fit_size_px=24, input_size_px=16), norm).evaluate(clips)
    pixels = clips[..., 4:20, 4:20].numpy().astype(np.float64) / 255
    expected = (pixels - np.reshape(norm.mean, (3, 1, 1))) / np.reshape(norm.std, (3, 1, 1))
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)


def test_difference_is_the_change_since_the_frame_before() -> None:
    config = TransformConfig(fit_size_px=16, input_size_px=16, input="rgb_diff")
    frames = torch.randint(0, 256, (2, 5, 3, 16, 16), dtype=torch.uint8)
    out = ClipTransform(config, Normalization((0.5,) * 3, (0.5,) * 3)).evaluate(frames)
    assert config.lookback_frames == 1
    expected = (frames[:, 1:].float() - frames[:, :-1].float()) / 255 / 0.5
    torch.testing.assert_close(out, expected)
    assert (ClipTransform(config, UNIT).evaluate(frames[:, :1].expand(-1, 5, -1, -1, -1)) == 0).all()


def test_both_pictures_of_a_frame_lie_side_by_side() -> None:
    frames = torch.randint(0, 256, (2, 5, 3, 16, 16), dtype=torch.uint8)
    kinds = ("rgb", "rgb_diff", "rgb+rgb_diff")
    configs = [TransformConfig(fit_size_px=16, input_size_px=16, input=kind) for kind in kinds]
    pictures, changes, both = (ClipTransform(config, UNIT).evaluate(frames) for config in configs)
    assert [config.num_pictures for config in configs] == [1, 1, 2]
    assert torch.equal(both, torch.cat([pictures[:, 1:], changes], dim=2))


def test_flip_zero_never_flips_and_one_always_does() -> None:
    clips = noise_clip(side=16)
    for probability, expected in ((0.0, clips), (1.0, clips.flip(-1))):
        config = TransformConfig(
            fit_size_px=16,
            input_size_px=16,
            min_crop_area=1.0,
            horizontal_flip=probability,
            brightness=0,
            contrast=0,
            saturation=0,
        )
        torch.testing.assert_close(TrainTransform(config, UNIT).train(clips), expected.float() / 255)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(2, 300),
    width=st.integers(2, 300),
    size=st.integers(2, 200),
    fit=st.sampled_from(["stretch", "crop"]),
    num_frames=st.integers(1, 3),
    channels_last=st.booleans(),
)
def test_fitting_is_torchvisions(
    height: int, width: int, size: int, fit: Literal["stretch", "crop"], num_frames: int, channels_last: bool
) -> None:
    height, width = min(height, 20 * width), min(width, 20 * height)  # no strips that fit to huge pictures
    pictures = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), np.uint8)
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    frames = frames if channels_last else frames.contiguous()
    expected = TF.resize(frames, [size, size] if fit == "stretch" else [size], antialias=True)
    expected = TF.center_crop(expected, [size, size])
    assert torch.equal(fit_frames(frames, TransformConfig(fit=fit, fit_size_px=size, input_size_px=1)), expected)


def test_fitting_agrees_with_pillow() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC))
    frames = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    stretched = fit_frames(frames, TransformConfig(fit="stretch", fit_size_px=32, input_size_px=32))
    expected = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR))
    assert stretched.dtype == torch.uint8
    assert np.abs(stretched[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1
    cropped = fit_frames(frames, TransformConfig(fit="crop", fit_size_px=32, input_size_px=32))
    expected = np.asarray(Image.fromarray(picture).resize((48, 32), Image.Resampling.BILINEAR))[:, 8:40]
    assert np.abs(cropped[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"input_size_px \(128\).*fit_size_px \(112\)"):
        TransformConfig(fit_size_px=112, input_size_px=128)
