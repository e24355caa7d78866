"""Single pictures, for models that read pictures: bytes in, RGB out, with the limits that videos have."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.clip import VideoInfo
from pipeline.config import DecodeConfig
from pipeline.decode.container import Header, check_regular_file
from pipeline.decode.index import VideoIndex
from pipeline.decode.reader import Picture, VideoReader, indexed_picture
from pipeline.errors import DecodeError

PICTURE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Suffixes of picture files, in lower case."""
_DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""Errors that Pillow may raise for a damaged picture, found by damaging 20,000 of all formats."""
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # those that hold their pixels themselves


def is_picture(name: str | Path) -> bool:
    """True for a visible file name with a picture's suffix."""
    path = Path(name)
    return not path.name.startswith(".") and path.suffix.lower() in PICTURE_SUFFIXES


def decode_picture(content: bytes, path: Path, config: DecodeConfig) -> NDArray[np.uint8]:
    """Decode a picture to uint8 RGB ``[H, W, 3]``, turned upright as the file asks; transparency is left out.

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
    except _DAMAGED as error:
        raise DecodeError(path, "decode", f"a damaged picture: {error}") from error


def open_picture(path: Path, config: DecodeConfig) -> VideoReader:
    """Open a picture file as a video of one frame that is shown for a second. Raises ``DecodeError``."""
    check_regular_file(path)
    picture = decode_picture(path.read_bytes(), path, config)
    height, width = picture.shape[:2]
    rate, kind = Fraction(1), path.suffix.lower().removeprefix(".")
    info = VideoInfo(path, 1, width, height, rate, 1.0, 0, kind, "picture")
    index = VideoIndex(info, np.zeros(1), ticks=None, keyframes=np.zeros(1, np.int64), is_proven=True)
    read = _ReadPicture(path, Header("picture", kind, Fraction(0), rate, rate, Fraction(1), 1, 1), index, picture)
    return VideoReader(read, read)


@dataclass(frozen=True)
class _ReadPicture:
    """The file of a reader and its decoder, with the only picture decoded already."""

    path: Path
    header: Header
    index: VideoIndex
    picture: NDArray[np.uint8]

    def iter_frames(self) -> Generator[Picture, None, None]:
        """The picture."""
        return self.get_frames([0])

    def get_frames(self, numbers: Sequence[int]) -> Generator[Picture, None, None]:
        """The picture, if it is asked for."""
        for number in numbers:
            yield indexed_picture(self.index, number, self.picture.copy)

    def close(self) -> None:
        """Do nothing: no file is open."""
