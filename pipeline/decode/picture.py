"""Single pictures, as the image task reads them: bytes in, RGB out, with the limits that videos have."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.config import DecodeConfig
from pipeline.errors import DecodeError

PICTURE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""What a picture file's name ends with, in lower case."""
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # those that hold their pixels themselves


def is_picture(name: str | Path) -> bool:
    """True for a visible file name with a picture's suffix."""
    path = Path(name)
    return not path.name.startswith(".") and path.suffix.lower() in PICTURE_SUFFIXES


def decode_picture(content: bytes, path: Path, config: DecodeConfig) -> NDArray[np.uint8]:
    """uint8 RGB ``[H, W, 3]``, turned upright as the file asks; transparency is left out.

    Args:
        content: the file's bytes.
        path: its name, for errors.
        config: ``max_pixels`` is looked at before anything is decoded.

    Raises:
        DecodeError: no picture, a damaged one, or one that is too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > config.max_pixels:
                cause = f"it is {width}x{height}, and decode.max_pixels allows {config.max_pixels} pixels"
                raise DecodeError(path, "open", f"{cause}; raise it if you trust the file")
            upright = ImageOps.exif_transpose(picture)
            return np.array(upright.convert("RGB"))
    except UnidentifiedImageError as error:
        raise DecodeError(path, "open", f"no picture of a known kind ({', '.join(_FORMATS)})") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DecodeError(path, "decode", f"a damaged picture: {error}") from error
