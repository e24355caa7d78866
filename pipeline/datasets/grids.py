"""Clips of a row's fitted grid frames: decoded, or from the frame cache."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from typing import Any, Protocol

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import ClipSettings, DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.decode import VideoOpener, VideoReader
from pipeline.decode.index import INDEX_VERSION
from pipeline.errors import DecodeError
from pipeline.files.cache import DamagedEntryError, Store, cache_folder, digest
from pipeline.sampling import grid_range, grid_seconds
from pipeline.transforms.frames import fit_frames

Choose = Callable[[range], list[list[int]]]  # the grid frames there are -> those of each clip
# A longer stretch is not kept: nobody wants it in memory whole.
_MAX_FRAMES_KEPT = 10_000


class ClipSource(Protocol):
    """A source of clips."""

    def clips(self, row: VideoRow, choose: Choose) -> Tensor:
        """Return clips of a row, uint8 ``[N, T, 3, S, S]``. Raises ``DecodeError``."""


class DecodedClips:
    """Clips from the video files, only the frames that are wanted."""

    def __init__(self, settings: ClipSettings) -> None:
        self.settings = settings
        self._opener = VideoOpener(settings.decode)

    def clips(self, row: VideoRow, choose: Choose) -> Tensor:
        """Open the video, decode the frames wanted, and fit them."""
        with self._opener.open(row.source) as reader:
            grid = self._grid(reader, row)
            return _gather(choose(grid), lambda wanted: self._frames(reader, wanted))

    def whole(self, row: VideoRow) -> tuple[range, Tensor] | None:
        """The row's grid and all its frames ``[G, 3, S, S]``; None if they are too many."""
        with self._opener.open(row.source) as reader:
            grid = self._grid(reader, row)
            return None if len(grid) > _MAX_FRAMES_KEPT else (grid, self._frames(reader, list(grid)))

    def parts(self, row: VideoRow, num_frames: int) -> Generator[Tensor, None, None]:
        """All the row's grid frames, so many at a time, ``[n, 3, S, S]``, decoded from the start of the file: a long
        video need not be in memory whole. Raises ``DecodeError``."""
        with self._opener.open(row.source) as reader:
            times = grid_seconds(self._grid(reader, row), self.settings.sampling.sample_fps)
            with closing(reader.images_at(times)) as images:
                while part := list(islice(images, num_frames)):
                    yield torch.cat([self._fit(reader, image) for image, _ in part])

    def _fit(self, reader: VideoReader, image: NDArray[np.uint8]) -> Tensor:
        frames = torch.from_numpy(image).permute(2, 0, 1)[None]  # [H, W, 3] -> [1, 3, H, W]
        return fit_frames(frames, self.settings.transform, reader.info.sample_aspect_ratio)

    def num_frames(self, row: VideoRow) -> int:
        """Open the video and count the row's grid frames. Raises ``DecodeError``."""
        with self._opener.open(row.source) as reader:
            return len(self._grid(reader, row))

    def _grid(self, reader: VideoReader, row: VideoRow) -> range:
        duration_seconds = reader.info.duration_seconds
        if row.start_seconds >= duration_seconds:
            cause = f"its row starts at {row.start_seconds} s, after its end at {duration_seconds} s"
            raise DecodeError(row.path, "decode", f"{cause}; are the times frames, or milliseconds?")
        end_seconds = min(row.end_seconds or duration_seconds, duration_seconds)
        return grid_range(self.settings.sampling.sample_fps, row.start_seconds, end_seconds)

    def _frames(self, reader: VideoReader, indices: list[int]) -> Tensor:
        frames = reader.at(grid_seconds(indices, self.settings.sampling.sample_fps)).frames
        return fit_frames(frames, self.settings.transform, reader.info.sample_aspect_ratio)


class CachedClips:
    """Clips from the cache. The first use of a row decodes all its grid frames and keeps them; a row that cannot be
    decoded whole is read as ``DecodedClips`` reads it, so that the cache changes no result."""

    def __init__(self, decoded: DecodedClips, store: Store) -> None:
        self._decoded, self._store = decoded, store

    def clips(self, row: VideoRow, choose: Choose) -> Tensor:
        """Return clips as ``DecodedClips`` does."""
        try:
            key = digest({"kind": "frames"} | row_facts(row, self._decoded.settings, self._store))
            entry = self._store.get(key)
            if entry is not None:
                first = entry.facts["first"]
                grid = range(first, first + len(entry))
                return _gather(
                    choose(grid), lambda wanted: torch.from_numpy(entry.read([index - first for index in wanted]))
                )
        except DamagedEntryError:
            self._store.remove(key)
        except OSError:  # the decoder says better what is wrong with the file
            return self._decoded.clips(row, choose)
        return self._first_use(row, key, choose)

    def _first_use(self, row: VideoRow, key: str, choose: Choose) -> Tensor:
        try:
            found = self._decoded.whole(row)
        except DecodeError:  # a clip before the damage may be good
            found = None
        if found is None:
            return self._decoded.clips(row, choose)
        grid, frames = found
        if digest({"kind": "frames"} | row_facts(row, self._decoded.settings, self._store)) == key:
            self._store.put(key, frames.numpy(), {"first": grid.start, "video": row.path.name})
        return _gather(choose(grid), lambda wanted: frames[[index - grid.start for index in wanted]])


def cache_store(config: DataConfig) -> Store:
    """The store that the data settings name."""
    return Store(cache_folder(config.cache_dir), round(config.cache_max_gb * 1e9))


def row_facts(row: VideoRow, settings: ClipSettings, store: Store) -> dict[str, Any]:
    """Return all facts that a row's fitted grid frames depend on. Raises ``OSError`` if the file cannot be read."""
    return {
        "file": row.part.sha256 if row.part else store.content_digest(row.path),
        "seconds": [row.start_seconds, row.end_seconds],
        "decoder": [settings.decode.decoder, settings.decode.stream, av.__version__, INDEX_VERSION],
        "sample_fps": settings.sampling.sample_fps,
        "fit": [settings.transform.fit, settings.transform.fit_size_px],
    }


def _gather(clips: list[list[int]], read: Callable[[list[int]], Tensor]) -> Tensor:
    """Read each frame once, however many clips have it, and return the clips, ``[N, T, 3, S, S]``."""
    wanted = sorted({index for clip in clips for index in clip})
    frames = read(wanted)
    places = {index: place for place, index in enumerate(wanted)}
    return torch.stack([frames[[places[index] for index in clip]] for clip in clips])
