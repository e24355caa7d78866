"""The annotation formats by name. Light: no video is opened and torch is not imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.datasets.annotations import Annotations
from pipeline.datasets.folders import read_folder
from pipeline.datasets.official import read_hmdb51, read_ucf101, read_ut_interaction
from pipeline.datasets.shards import read_shards
from pipeline.datasets.tables import read_kinetics, read_manifest, refuse_links
from pipeline.errors import unknown_name

ANNOTATION_READERS: dict[str, Callable[[Path, Path | None, int], Annotations]] = {
    "folder": read_folder,
    "hmdb51": read_hmdb51,
    "kinetics": read_kinetics,
    "manifest": read_manifest,
    "shards": read_shards,
    "ucf101": read_ucf101,
    "ut_interaction": read_ut_interaction,
}
"""Format to reader of ``(root, annotations, split)``; data/README.md shows the tree that each expects."""
PICTURE_FORMAT_NAMES = frozenset(["cifar10", "images"])
"""Those of pictures, which ``images`` reads."""
_WALKING = {"folder": read_folder, "kinetics": read_kinetics, "ut_interaction": read_ut_interaction}  # look for files


def read_annotations(
    format: str, root: Path, annotations: Path | None = None, split: int = 1, *, allow_links: bool = False
) -> Annotations:
    """The rows of the dataset in ``root``.

    Args:
        format: a key of ``ANNOTATION_READERS``.
        root: the folder of the videos.
        annotations: the manifest, split lists or groups, if not at their usual place.
        split: which official split, where there are several.
        allow_links: enter linked folders; and a manifest, which may come from anyone, may name links that lead out of
            the root.

    Raises:
        UserError: an unknown format, or whatever the reader finds wrong, with its name and the cure.
    """
    if format not in ANNOTATION_READERS:
        raise unknown_name("data format", format, ANNOTATION_READERS)
    if format in _WALKING:
        return _WALKING[format](root, annotations, split, allow_links=allow_links)
    found = ANNOTATION_READERS[format](root, annotations, split)
    if format == "manifest" and not allow_links:
        refuse_links(found, root if root.is_dir() else root.parent)
    return found
