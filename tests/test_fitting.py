"""The resize in numpy gives the bytes of the resize in torch, which ``test_transforms`` holds against torchvision."""

from __future__ import annotations

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
    seed=st.integers(0, 99),
)
def test_the_same_bytes_as_torch(height: int, width: int, size: int, fit: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    config = TransformConfig(fit=fit, fit_size_px=size, input_size_px=1)
    if fit == "crop" and max(height, width) > 40 * min(height, width):
        image = image[: 40 * min(height, width), : 40 * min(height, width)]  # no pictures of a hundred megapixels
    frames = torch.from_numpy(image).permute(2, 0, 1)[None]
    got = fit_image(image, SQUARE, config)
    np.testing.assert_array_equal(got, fit_frames(frames, config)[0].numpy())
    assert got.dtype == np.uint8


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_stay(value: int) -> None:
    fitted = fit_image(
        np.full((123, 77, 3), value, np.uint8), SQUARE, TransformConfig(fit_size_px=40, input_size_px=32)
    )
    assert (fitted == value).all()
