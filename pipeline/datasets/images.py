"""Pictures with labels: a folder or a zip of files, or torchvision's CIFAR-10. A picture is a video of one frame.

Small pictures by the ten thousand are decoded once and kept in memory: reading them anew each epoch would take longer
than a small network.
"""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import CIFAR10

from pipeline.config import DecodeConfig, Experiment
from pipeline.datasets.annotations import Annotations, VideoRow, name_some
from pipeline.decode.picture import decode_picture, is_picture
from pipeline.errors import DecodeError, UserError
from pipeline.transforms.frames import fit_frames

_PARTS = ("train", "val", "test")
Choose = Callable[[range], list[list[int]]]
# What Python says of a damaged member: its own error, the decompressors' and those of what they read.
_DAMAGED: tuple[type[Exception], ...] = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError)
_DAMAGED += (KeyError, ValueError, NotImplementedError, RuntimeError)


class PictureFiles(Protocol):
    """Pictures by name."""

    def names(self) -> list[str]:
        """``[part/]class/.../file``, with forward slashes, in order."""

    def read(self, name: str) -> NDArray[np.uint8]:
        """uint8 RGB ``[H, W, 3]``. Raises ``DecodeError``."""


class PicturesInFolder:
    """Picture files below a folder."""

    def __init__(self, root: Path, config: DecodeConfig) -> None:
        self.root, self.config = root, config

    def names(self) -> list[str]:
        """All visible ones."""
        found = []
        for parent, subfolders, files in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            found += [Path(parent, name).relative_to(self.root).as_posix() for name in files if is_picture(name)]
        return sorted(found)

    def read(self, name: str) -> NDArray[np.uint8]:
        """As the protocol says."""
        path = self.root / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DecodeError(path, "open", f"cannot be read: {error.strerror}") from error
        return decode_picture(content, path, self.config)


class PicturesInZip:
    """Picture files in a zip archive, which stays as it is."""

    def __init__(self, root: Path, config: DecodeConfig) -> None:
        self.root, self.config = root, config
        self._archive: tuple[int, zipfile.ZipFile] | None = None

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None or self._archive[0] != os.getpid():  # a fork shares the position in the file
            try:
                self._archive = os.getpid(), zipfile.ZipFile(self.root)
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"{self.root}: cannot be read as a zip archive ({error})") from error
        return self._archive[1]

    def names(self) -> list[str]:
        """All visible ones."""
        return sorted(name for name in self._open().namelist() if is_picture(name) and not name.startswith("__MACOSX"))

    def read(self, name: str) -> NDArray[np.uint8]:
        """As the protocol says."""
        path = self.root / name
        try:
            info = self._open().getinfo(name)
            if info.file_size > 3 * self.config.max_pixels + 1_000_000:
                raise DecodeError(path, "open", f"it says to be {info.file_size} bytes, more than any picture allowed")
            content = self._open().read(info)
        except _DAMAGED as error:
            raise DecodeError(path, "open", f"cannot be read from the archive: {error}") from error
        return decode_picture(content, path, self.config)


class PicturesOfCifar10:
    """CIFAR-10 as published (Krizhevsky, 2009), by torchvision, which checks what it downloads."""

    def __init__(self, root: Path, config: DecodeConfig) -> None:
        self._parts: dict[str, CIFAR10] = {}
        try:
            for part in ("train", "test"):
                self._parts[part] = CIFAR10(root, train=part == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"CIFAR-10 is not in {root} and cannot be downloaded ({error}); put cifar-10-batches-py there, or use "
                "data.format images with a folder or zip of pictures"
            ) from error

    def names(self) -> list[str]:
        """``train/frog/00000``, numbered as published."""
        return sorted(
            f"{part}/{data.classes[target]}/{number:05d}"
            for part, data in self._parts.items()
            for number, target in enumerate(data.targets)
        )

    def read(self, name: str) -> NDArray[np.uint8]:
        """As the protocol says."""
        part, _, number = name.split("/")
        picture: NDArray[np.uint8] = self._parts[part].data[int(number)]
        return picture


def _folder_or_zip(root: Path, config: DecodeConfig) -> PictureFiles:
    if root.is_dir():
        return PicturesInFolder(root, config)
    if not root.exists():
        raise UserError(f"the data root {root} does not exist; set data.root to a folder or zip of pictures")
    return PicturesInZip(root, config)


PICTURE_FORMATS: dict[str, Callable[[Path, DecodeConfig], PictureFiles]] = {
    "cifar10": PicturesOfCifar10,
    "images": _folder_or_zip,
}
"""``data.format`` to where its pictures are."""


def read_images(format: str, root: Path) -> Annotations:
    """A row for each picture: ``class/...`` or ``train/class/...``, with ``val`` and ``test`` where there are such.

    Raises:
        UserError: no picture, or one outside a class folder.
    """
    names = PICTURE_FORMATS[format](root, DecodeConfig()).names()
    if not names:
        raise UserError(
            f"no picture found in {root}; expected a folder of pictures for each class, or train/ and test/"
        )
    has_parts = any(name.startswith("train/") and name.count("/") > 1 for name in names)
    loose = [name for name in names if name.count("/") < 1 + has_parts]
    if loose:
        raise UserError(f"pictures in {root} outside a class folder. {name_some(loose)}. Move each into its class")
    splits: dict[str, list[VideoRow]] = {}
    for name in names:
        part, *rest = PurePosixPath(name).parts if has_parts else ("all", *PurePosixPath(name).parts)
        if not has_parts or part in _PARTS:
            splits.setdefault(part, []).append(VideoRow(root / name, rest[0], group=name, name=name))
    labels = {row.label for rows in splits.values() for row in rows}
    return Annotations(tuple(sorted(labels)), {part: tuple(rows) for part, rows in splits.items()})


class PictureClips:
    """Clips of one frame from pictures decoded once and kept in memory, fitted, or as they are where that is less."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._root = Path(experiment.data.root)
        self._files = PICTURE_FORMATS[experiment.data.format](self._root, experiment.decode)
        self._kept: dict[Path, Tensor] = {}

    def clips(self, row: VideoRow, choose: Choose) -> Tensor:
        """uint8 ``[N, T, 3, S, S]``: a picture is a grid of one frame. Raises ``DecodeError``."""
        if row.path not in self._kept:
            picture = torch.from_numpy(self._files.read(row.path.relative_to(self._root).as_posix()))
            decoded = picture.permute(2, 0, 1).unsqueeze(0)  # [H, W, 3] -> [1, 3, H, W]
            self._kept[row.path] = min(decoded, self._fitted(decoded), key=Tensor.numel)
        frame = self._fitted(self._kept[row.path])  # nothing changes in what is fitted
        return torch.stack([frame.expand(len(clip), -1, -1, -1) for clip in choose(range(1))])

    def _fitted(self, picture: Tensor) -> Tensor:
        return fit_frames(picture, self.experiment.transform)
