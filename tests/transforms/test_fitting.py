"""The resize in numpy gives the bytes of the resize in torch, which ``test_transforms`` holds against torchvision."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import TransformConfig
from pipeline.transforms.frames import fit_frames
from pipeline.transforms.without_torch import SQUARE, fit_image

has_whole_number_resize = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.mark.skipif(not has_whole_number_resize, reason="torch resizes in float32 on this processor")
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(2, 700),
    width=st.integers(2, 700),
    size=st.integers(2, 260),
    fit=st.sampled_from(["stretch", "crop"]),
    ratio=st.sampled_from([SQUARE, Fraction(16, 11), Fraction(8, 9), Fraction(1, 2)]),
    seed=st.integers(0, 99),
)
def test_the_same_bytes_as_torch(
    height: int, width: int, size: int, fit: Literal["stretch", "crop"], ratio: Fraction, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    config = TransformConfig(fit=fit, fit_size_px=size, input_size_px=1)
    if fit == "crop" and max(height, width) > 30 * min(height, width):
        image = image[: 30 * min(height, width), : 30 * min(height, width)]  # no pictures of a hundred megapixels
    frames = torch.from_numpy(image).permute(2, 0, 1)[None]
    got = fit_image(image, ratio, config)
    np.testing.assert_array_equal(got, fit_frames(frames, config, ratio)[0].numpy())
    assert got.dtype == np.uint8
    assert fit == "crop" or np.array_equal(got, fit_image(image, SQUARE, config))


@pytest.mark.parametrize("ratio", [Fraction(16, 11), Fraction(8, 9), Fraction(5, 2), Fraction(1, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_disc_stays_round(ratio: Fraction, turned: bool) -> None:
    """A disc of 60 as shown, stored in pixels of that ratio; stretched it is an ellipse."""
    height, width = (180, round(120 / ratio)) if turned else (120, round(200 / ratio))
    y, x = np.ogrid[:height, :width]
    is_inside = (y - (height - 1) / 2) ** 2 + ((x - (width - 1) / 2) * float(ratio)) ** 2 < 30**2
    image = np.repeat(np.where(is_inside, 255, 0)[..., None], 3, axis=2).astype(np.uint8)
    cropped = fit_image(image, ratio, TransformConfig(fit="crop", fit_size_px=60, input_size_px=60))[0]
    across, down = (int((cropped.max(axis=axis) > 127).sum()) for axis in (0, 1))
    assert abs(across - 30) <= 1
    assert abs(down - 30) <= 1


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_stay(value: int) -> None:
    fitted = fit_image(
        np.full((123, 77, 3), value, np.uint8), SQUARE, TransformConfig(fit_size_px=40, input_size_px=32)
    )
    assert (fitted == value).all()
