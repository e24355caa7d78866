"""Features of a long video from a file that another program has made, in the place of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from tokenize import TokenError
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import VideoInfo
from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, VideoReader
from pipeline.decode.container import check_regular_file
from pipeline.errors import DecodeError, UserError
from pipeline.sampling import grid_range, grid_seconds

_MAX_VALUES = 2**31
# All that numpy raises about a header, which is a Python literal and may be of any form.
_HEADER_ERRORS = (OSError, ValueError, TypeError, OverflowError, SyntaxError, TokenError, MemoryError, RecursionError)
_VALUES_A_LOOK = 1 << 24


def read_feature_file(path: Path, num_features: int) -> NDArray[Any]:
    """The steps of a file, ``[T, D]``, read as they are used.

    Args:
        path: a ``.npy`` file of numbers, ``[D, T]`` or ``[T, D]``; where both sides are D, ``[D, T]``.
        num_features: D.

    Raises:
        DecodeError: it is no such file.
    """
    array = _open(path)
    if array.shape[0] == num_features:
        return array.T
    if array.shape[1] == num_features:
        return array
    cause = f"its array is {list(array.shape)} and the model reads {num_features} numbers a step"
    raise DecodeError(path, "decode", f"{cause}; were the features made by another network?")


def count_features(paths: Sequence[Path]) -> int:
    """D of files of one kind, either way up: the side that all have in common, the first if both are. Files that cannot
    be read do not count.

    Raises:
        DecodeError: none is a feature file.
        UserError: they have no side in common.
    """
    found = [_shape_of(path) for path in paths]
    shapes = [shape for shape in found if not isinstance(shape, DecodeError)]
    if not shapes and isinstance(found[0], DecodeError):
        raise found[0]
    common = set.intersection(*map(set, shapes))
    for side in shapes[0]:
        if side in common:
            return int(side)
    raise UserError(
        f"the feature files have no side in common, for example {list(shapes[0])} and {list(shapes[-1])}; one side "
        "must be the same in all: the numbers of a step"
    )


def check_feature_file(path: Path) -> None:
    """Read a whole file of features. Raises ``DecodeError`` if it is none, or one of its numbers is not finite."""
    steps = _open(path)
    rows_a_look = max(1, _VALUES_A_LOOK // steps.shape[1])
    for start in range(0, len(steps), rows_a_look):
        _check_finite(path, steps[start : start + rows_a_look])


def _shape_of(path: Path) -> tuple[int, ...] | DecodeError:
    try:
        return _open(path).shape
    except DecodeError as error:
        return error


def _open(path: Path) -> NDArray[Any]:
    check_regular_file(path)
    array: Any
    try:
        # Not load, which takes archives and pickles too.
        array = np.lib.format.open_memmap(path, mode="r")
    except _HEADER_ERRORS as error:
        raise DecodeError(path, "open", f"no feature file: {str(error).rstrip('.')}") from None
    is_table = array.ndim == 2 and array.dtype.kind == "f"
    if not is_table or not 0 < array.size < _MAX_VALUES:
        found = f"{array.dtype} {list(array.shape)}"
        raise DecodeError(path, "open", f"no feature file: it holds {found}, not a table of floats")
    table: NDArray[Any] = array
    return table


def _check_finite(path: Path, features: NDArray[Any]) -> None:
    if not np.isfinite(features).all():
        raise DecodeError(path, "decode", "a feature is not a finite number; make the file again")


def at_grid(
    path: Path, steps: NDArray[Any], features_fps: float, sample_fps: float, offset_seconds: float = 0.0
) -> NDArray[np.float32]:
    """The step of a file that stands so long after the time of each grid frame: ``[T, D]`` -> float32 ``[G, D]``; after
    the end, the last one.

    Raises:
        DecodeError: a value is not finite.
    """
    times = np.array(grid_seconds(grid_range(sample_fps, 0.0, len(steps) / features_fps), sample_fps))
    places = np.minimum(((times + offset_seconds) * features_fps + 1e-6).astype(np.int64), len(steps) - 1)
    with np.errstate(over="ignore"):  # told below
        features = np.ascontiguousarray(steps[places], np.float32)
    _check_finite(path, features)
    return features


class _NoPictures:
    """The decoder of a file that has none."""

    def iter_frames(self) -> NoReturn:
        """Refuse."""
        raise UserError("a file of features has no pictures: leave out the outputs that show them (--html, --video)")

    def get_frames(self, numbers: Sequence[int]) -> NoReturn:
        """Refuse."""
        self.iter_frames()


class FeatureReader(VideoReader):
    """A file of features in the place of an open video: it has a length, and no pictures.

    Raises:
        DecodeError: it is no such file.
    """

    def __init__(self, path: Path, num_features: int, features_fps: float) -> None:
        self._steps, self._fps = read_feature_file(path, num_features), features_fps
        self._backend = _NoPictures()
        rate, num_steps = Fraction(features_fps).limit_denominator(1001), len(self._steps)
        self._info = VideoInfo(path, num_steps, 0, 0, rate, num_steps / features_fps, 0, "features", "npy")

    @property
    def info(self) -> VideoInfo:
        """Length and rate; the size is 0."""
        return self._info

    def at_grid(self, sample_fps: float) -> NDArray[np.float32]:
        """The features of its grid frames, ``[G, D]``. Raises ``DecodeError`` if one is not finite."""
        return at_grid(self._info.path, self._steps, self._fps, sample_fps)

    def close(self) -> None:
        """Do nothing: the file is closed with the last view of it."""


class FeatureOpener(VideoOpener):
    """Opens files of features, as ``VideoOpener`` opens videos.

    Args:
        num_features: numbers in a step.
        features_fps: steps a second.
    """

    def __init__(self, num_features: int, features_fps: float) -> None:
        super().__init__(DecodeConfig())
        self._form = num_features, features_fps

    def open(self, source: Any) -> FeatureReader:
        """Raises ``DecodeError`` if it is no such file."""
        return FeatureReader(Path(source), *self._form)
