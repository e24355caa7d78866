"""Pictures with labels: a folder or a zip of files, or torchvision's CIFAR-10. A picture is a video of one frame.

Small pictures by the ten thousand are decoded once and kept in memory: reading them anew each epoch would take longer
than a small network.
"""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import CIFAR10

from pipeline.config import DecodeConfig, TransformConfig
from pipeline.datasets.annotations import (
    ANY_DEPTH,
    Annotations,
    Listing,
    VideoRow,
    list_videos,
    name_some,
)
from pipeline.datasets.delimited import composed
from pipeline.datasets.parts import choose_parts, notes_on_folders, part_of
from pipeline.decode.picture import PICTURE_SUFFIXES, decode_picture, is_picture
from pipeline.errors import DecodeError, UserError
from pipeline.sources import is_video
from pipeline.transforms.frames import fit_frames

_UNREAD_SUFFIXES = frozenset([".apng", ".avif", ".gif", ".heic", ".heif", ".jp2", ".svg", ".tga"])
_ZIP_ERRORS = (
    KeyError, OSError, EOFError, NotImplementedError, RuntimeError, ValueError,
    struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip
"""Errors from reading a member that is damaged or encrypted, or packed by another program's method."""
Choose = Callable[[range], list[list[int]]]


class PictureFiles(Protocol):
    """Pictures by name."""

    def names(self) -> list[str]:
        """Return the names ``[part/]class/.../file``, with forward slashes, in order."""

    def notes(self) -> list[str]:
        """Return texts about files left alone though they look like pictures."""

    def content(self, name: str) -> bytes:
        """Return the bytes that tell a picture from others. Raises ``DecodeError``."""

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return a picture, uint8 RGB ``[H, W, 3]``. Raises ``DecodeError``."""


class _PicturesInFolder:
    """Picture files below a folder; class folders, and parts, may be links."""

    def __init__(self, root: Path, config: DecodeConfig, allow_links: bool) -> None:
        self.root, self.config = root, config
        self._link_depth = ANY_DEPTH if allow_links else 2

    def _list(self) -> Listing:
        return list_videos(self.root, PICTURE_SUFFIXES, _UNREAD_SUFFIXES, link_depth=self._link_depth)

    def names(self) -> list[str]:
        """Return the names of all visible pictures."""
        return [path.relative_to(self.root).as_posix() for path in self._list().videos]

    def notes(self) -> list[str]:
        """Return texts about linked folders and pictures of other kinds."""
        return self._list().notes(self.root)

    def content(self, name: str) -> bytes:
        """Return the bytes of the file."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise DecodeError(self.root / name, "open", f"cannot be read: {error.strerror}") from error

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return a picture, uint8 RGB ``[H, W, 3]``."""
        return decode_picture(self.content(name), self.root / name, self.config)


class _PicturesInZip:
    """Picture files in a zip archive, which stays as it is."""

    def __init__(self, root: Path, config: DecodeConfig) -> None:
        self.root, self.config = root, config
        self._archive: tuple[int, zipfile.ZipFile] | None = None

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None or self._archive[0] != os.getpid():  # a fork shares the position in the file
            try:
                self._archive = os.getpid(), zipfile.ZipFile(self.root)
            except _ZIP_ERRORS as error:
                raise UserError(f"{self.root}: cannot be read as a zip archive ({error})") from error
        return self._archive[1]

    @cached_property
    def _members(self) -> dict[str, str]:
        """Name -> spelling in the archive; programs of Windows may have written backslashes."""
        members = {}
        for member in self._open().namelist():
            path = PurePosixPath(member if "/" in member else member.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise UserError(f"{self.root}: the member {member!r} leads out of the archive; pack it again")
            is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
            if not is_hidden and not member.endswith("/"):
                members[path.as_posix()] = member
        return members

    def names(self) -> list[str]:
        """Return the names of all visible pictures."""
        return sorted(filter(is_picture, self._members))

    def notes(self) -> list[str]:
        """Return texts about pictures of other kinds."""
        unread = [self.root / name for name in self._members if is_video(PurePosixPath(name).name, _UNREAD_SUFFIXES)]
        return Listing((), (), tuple(unread)).notes(self.root)

    def content(self, name: str) -> bytes:
        """Return the bytes of the member."""
        path = self.root / name
        try:
            info = self._open().getinfo(self._members[name])
            if info.file_size > 3 * self.config.max_pixels + 1_000_000:
                raise DecodeError(path, "open", f"it says to be {info.file_size} bytes, more than any picture allowed")
            return self._open().read(info)
        except _ZIP_ERRORS as error:
            raise DecodeError(path, "open", f"cannot be read from the archive: {error}") from error

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return a picture, uint8 RGB ``[H, W, 3]``."""
        return decode_picture(self.content(name), self.root / name, self.config)


class PicturesOfCifar10:
    """CIFAR-10 as published (Krizhevsky, 2009), by torchvision, which checks what it downloads."""

    def __init__(self, root: Path) -> None:
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
        """Return names such as ``train/frog/00000``, numbered as published."""
        return sorted(
            f"{part}/{data.classes[target]}/{number:05d}"
            for part, data in self._parts.items()
            for number, target in enumerate(data.targets)
        )

    def notes(self) -> list[str]:
        """Return no texts: nothing is left alone."""
        return []

    def content(self, name: str) -> bytes:
        """Return the bytes of the pixels."""
        return self.read(name).tobytes()

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return a picture, uint8 RGB ``[H, W, 3]``."""
        part, _, number = name.split("/")
        picture: NDArray[np.uint8] = self._parts[part].data[int(number)]
        return picture


def open_folder_or_zip(root: Path, config: DecodeConfig, allow_links: bool = False) -> PictureFiles:
    """Return the pictures of a folder, whose linked folders are entered if ``allow_links``, or of a zip archive.

    Raises:
        UserError: nothing is there.
    """
    if root.is_dir():
        return _PicturesInFolder(root, config, allow_links)
    if not root.exists():
        raise UserError(f"the data root {root} does not exist; set data.root to a folder or zip of pictures")
    return _PicturesInZip(root, config)


def read_images(files: PictureFiles, root: Path) -> Annotations:
    """Return a row for each picture: ``class/...`` or ``train/class/...``, with ``val`` and ``test`` where there are
    such. In an archive a folder that holds all others counts for nothing.

    Raises:
        UserError: no picture, or one outside a class folder.
    """
    notes, paths = files.notes(), {name: PurePosixPath(name).parts for name in files.names()}
    if not paths:
        expected = "a folder of pictures for each class, or train/ and test/"
        found = "".join(f". There are {note}" for note in notes)
        raise UserError(f"no picture found in {root}; expected {expected}{found}")
    tops = {path[0] for path in paths.values()}
    if root.is_file() and len(tops) == 1 and min(map(len, paths.values())) > 2 and not part_of(min(tops)):
        notes.append(f"everything is in the folder {min(tops)}, which is not read as a class")
        paths = {name: path[1:] for name, path in paths.items()}
    counts = Counter(path[0] for path in paths.values() if len(path) > 1)
    with_folders = {path[0] for path in paths.values() if len(path) > 2}
    parts = choose_parts({folder: folder in with_folders for folder in counts}, root)
    splits = {
        part: _rows(root, {name: path[1:] for name, path in paths.items() if path[0] == folder})
        for part, folder in parts.items()
    } or {"all": _rows(root, paths)}
    labels = {row.label for rows in splits.values() for row in rows}
    return Annotations(tuple(sorted(labels)), splits, notes=(*notes, *notes_on_folders(counts, parts)))


def _rows(root: Path, paths: Mapping[str, tuple[str, ...]]) -> tuple[VideoRow, ...]:
    """Return rows of pictures by name, each with its path below the folder of the class folders."""
    loose = [name for name, path in paths.items() if len(path) < 2]
    if loose:
        raise UserError(f"pictures in {root} outside a class folder. {name_some(loose)}. Move each into its class")
    return tuple(
        VideoRow(root / name, composed(path[0]), composed(name), name=composed(name)) for name, path in paths.items()
    )


class PictureClips:
    """Clips of one frame from pictures decoded once and kept in memory, fitted, or as they are where that is less."""

    def __init__(self, files: PictureFiles, root: Path, transform: TransformConfig) -> None:
        self._files, self._root, self._transform = files, root, transform
        self._kept: dict[Path, Tensor] = {}

    def clips(self, row: VideoRow, choose: Choose) -> Tensor:
        """Return clips, uint8 ``[N, T, 3, S, S]``: a picture is a grid of one frame. Raises ``DecodeError``."""
        if row.path not in self._kept:
            picture = torch.from_numpy(self._files.read(row.path.relative_to(self._root).as_posix()))
            decoded = picture.permute(2, 0, 1).unsqueeze(0)  # [H, W, 3] -> [1, 3, H, W]
            self._kept[row.path] = min(decoded, self._fitted(decoded), key=Tensor.numel)
        frame = self._fitted(self._kept[row.path])  # nothing changes in what is fitted
        return torch.stack([frame.expand(len(clip), -1, -1, -1) for clip in choose(range(1))])

    def _fitted(self, picture: Tensor) -> Tensor:
        return fit_frames(picture, self._transform)
