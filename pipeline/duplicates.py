"""Files that are the same: the same bytes, or the same pictures under another encoding."""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.health import Examination
from pipeline.files.content import file_digest

# Measured on 24 re-encodings of real clips (scaled, other codec, low quality): 1.8 levels a pixel in the worst picture
# on average, 13 in the worst pixel. Two clips of one fixed camera differ by 6.3 and 41 at the least.
_MAX_MEAN_DIFFERENCE, _MAX_DIFFERENCE = 3.0, 24.0
_MIN_CONTRAST = 4.0  # pictures of one colour all look alike
_DURATION_SHARE, _DURATION_SECONDS = 0.02, 0.2

Groups = tuple[tuple[str, ...], ...]


def same_bytes(paths: Iterable[Path]) -> Groups:
    """Groups of two or more regular files with the same content. Only files of equal size are read; one that cannot be
    read is in no group."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size:
                by_size[status.st_size].append(path)
    by_digest: dict[str, list[str]] = defaultdict(list)
    for alike in by_size.values():
        if len(alike) > 1:
            for path in alike:
                with suppress(OSError):
                    by_digest[file_digest(path)].append(str(path))
    return tuple(tuple(group) for group in by_digest.values() if len(group) > 1)


def same_pictures(examinations: Sequence[Examination]) -> Groups:
    """Groups of two or more files that last as long and show the same, by small grey pictures at fixed times.

    A brighter, cropped or mirrored copy is not found; nor is a part of a longer video.
    """
    known = [
        found for found in examinations if len(found.thumbnails) and found.thumbnails.std((1, 2)).max() >= _MIN_CONTRAST
    ]
    known.sort(key=lambda found: (found.health.duration_seconds, found.health.path))
    groups: dict[str, list[str]] = {}
    for position, found in enumerate(known):
        if found.health.path in groups:
            continue
        for other in known[position + 1 :]:
            if not _last_as_long(found, other):
                break
            if other.health.path not in groups and _look_alike(found.thumbnails, other.thumbnails):
                group = groups.setdefault(found.health.path, [found.health.path])
                group.append(other.health.path)
                groups[other.health.path] = group
    return tuple(dict.fromkeys(tuple(sorted(group)) for group in groups.values()))


def _last_as_long(shorter: Examination, longer: Examination) -> bool:
    seconds = shorter.health.duration_seconds
    return longer.health.duration_seconds <= seconds * (1 + _DURATION_SHARE) + _DURATION_SECONDS


def _look_alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    num_shared = min(len(one), len(other))
    if max(len(one), len(other)) - num_shared > 1:
        return False
    for a, b in zip(one[:num_shared].astype(np.float32), other[:num_shared].astype(np.float32), strict=True):
        difference = np.abs((a - a.mean()) - (b - b.mean()))  # encoders differ in the range of brightness
        if difference.mean() > _MAX_MEAN_DIFFERENCE or difference.max() > _MAX_DIFFERENCE:
            return False
    return True
