"""``frames.fit_frames`` without torch: the same bytes from numpy alone, for exported models.

torch resizes uint8 pictures as Pillow does (an antialiased triangle filter, along rows and then along columns), in
whole numbers: weights are rounded to 16 bits, sums are exact, and each pass rounds to uint8. So the arithmetic can be
done again, and the tests hold the two against each other byte by byte. Without AVX2 ``frames`` resizes in
float32 instead, and may differ by one.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Image
from pipeline.config import TransformConfig

_MAX_PRECISION_BITS, _MAX_WEIGHT = 22, 1 << 15


SQUARE = Fraction(1)
"""The sample aspect ratio of pixels that are as wide as high."""


def size_before_crop(height: int, width: int, size_px: int, sample_aspect_ratio: Fraction) -> tuple[int, int]:
    """Return the height and width that a picture is resized to before the centre square of ``size_px`` is cut out: its
    shape as shown, the shorter side ``size_px``."""
    shown_width = width * sample_aspect_ratio
    longer = int(size_px * max(shown_width / height, height / shown_width))
    return (size_px, longer) if height <= shown_width else (longer, size_px)


def fit_image(image: Image, sample_aspect_ratio: Fraction, config: TransformConfig) -> Image:
    """uint8 RGB ``[H, W, 3]`` of any size -> uint8 ``[3, S, S]`` with S = ``fit_size_px``, channels-last in memory."""
    size = config.fit_size_px
    height, width = image.shape[:2]
    if config.fit == "stretch":
        return _resized(image, size, size).transpose(2, 0, 1)  # [S, S, 3] -> [3, S, S]
    fitted = _resized(image, *size_before_crop(height, width, size, sample_aspect_ratio))
    top, left = (round((side - size) / 2) for side in fitted.shape[:2])
    return fitted[top : top + size, left : left + size].transpose(2, 0, 1)


def _resized(image: Image, height: int, width: int) -> Image:
    """``[H, W, 3]`` -> ``[height, width, 3]``."""
    columns = _resize_first_axis(np.ascontiguousarray(image.transpose(1, 0, 2)), width)  # [H, W, 3] -> [W, H, 3]
    return _resize_first_axis(np.ascontiguousarray(columns.transpose(1, 0, 2)), height)  # [W, H, 3] -> [H, W, 3]


def _resize_first_axis(image: Image, size: int) -> Image:
    if len(image) == size:
        return image
    rows, weights, precision_bits = _taps(len(image), size)
    flat = image.reshape(len(image), -1)
    total = np.full((size, flat.shape[1]), 1 << (precision_bits - 1), np.int32)  # a half, to round
    for row, weight in zip(rows, weights, strict=True):
        total += np.multiply(flat[row], weight[:, None], dtype=np.int32)
    total >>= precision_bits
    resized: Image = total.clip(0, 255).astype(np.uint8).reshape(size, *image.shape[1:])
    return resized


@lru_cache(maxsize=64)
def _taps(num_inputs: int, num_outputs: int) -> tuple[NDArray[np.intp], NDArray[np.int32], int]:
    """Inputs and whole-number weights of each output, ``[taps, num_outputs]``, and the bits behind the point."""
    scale = num_inputs / num_outputs
    reach = max(scale, 1.0)  # of the triangle, to either side
    centers = scale * (np.arange(num_outputs) + 0.5)
    first = np.maximum((centers - reach + 0.5).astype(np.intp), 0)
    stop = np.minimum((centers + reach + 0.5).astype(np.intp), num_inputs)
    inputs = first + np.arange((stop - first).max())[:, None]
    weights = np.maximum(1 - np.abs((inputs - centers + 0.5) * (1 / reach)), 0.0) * (inputs < stop)
    weights /= weights.sum(axis=0)
    # As many bits as let the greatest weight stay below 2^15.
    fitting = [
        bits for bits in range(_MAX_PRECISION_BITS) if int(0.5 + weights.max() * (1 << (bits + 1))) < _MAX_WEIGHT
    ]
    precision_bits = len(fitting)
    whole = (weights * (1 << precision_bits) + 0.5).astype(np.int32)
    return np.minimum(inputs, num_inputs - 1), whole, precision_bits
