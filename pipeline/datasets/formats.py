"""The formats that ``data.format`` names, in one table. Light: no video is opened and torch is not imported.

Readers that load decoders or numpy are imported when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.buckets import is_bucket_address, source_path
from pipeline.config import DataConfig, DecodeConfig, SequenceConfig, require
from pipeline.datasets.annotations import Annotations, as_stretch
from pipeline.datasets.folders import read_folder
from pipeline.datasets.official import read_hmdb51, read_ucf101, read_ut_interaction
from pipeline.datasets.shards import read_shards
from pipeline.datasets.tables import read_kinetics, read_manifest, read_manifest_rows, refuse_links
from pipeline.errors import UserError, unknown_name
from pipeline.sources import shown_source

if TYPE_CHECKING:
    from pipeline.datasets.images import PictureFiles

_Reader = Callable[[DataConfig], Annotations]
_PicturesOpener = Callable[[DataConfig, DecodeConfig], "PictureFiles"]


@dataclass(frozen=True)
class DataFormat:
    """One value of ``data.format``."""

    read: _Reader
    """Reads the rows. Raises ``UserError`` for anything wrong with the files; data/README.md shows the tree."""
    list_rows: _Reader | None = None
    """Lists the rows though files are missing, for ``check``; None: as they are read."""
    read_stretches: _Reader | None = None
    """Reads the rows as stretches of long videos, for task timeline; None: as ``read``."""
    open_pictures: _PicturesOpener | None = None
    """Opens the pictures that are the rows; None: the rows are videos."""
    made_as: str | None = None
    """The format of the files that ``read`` makes where they are not there; None: it makes none."""
    reads_buckets: bool = False
    """True if ``data.root`` may be in a bucket."""


def read_annotations(config: DataConfig, targets: SequenceConfig | None = None) -> Annotations:
    """Return the labels and rows that ``config`` names.

    Args:
        config: the data settings.
        targets: of timelines: the rows are stretches of long videos, and those of its background and unlabelled label
            have none; None: the rows are clips.

    Raises:
        UserError: an unknown format, a cache that it has no use for, or anything wrong with the files.
    """
    data_format = format_of(config)
    require(
        config.cache == "none" or data_format.open_pictures is None,
        f"data.cache {config.cache} is for videos, and those of data.format {config.format} are pictures, which are "
        "kept in memory in any case: set data.cache none",
    )
    if targets is None:
        return data_format.read(config)
    found = (data_format.read_stretches or data_format.read)(config)
    special = (targets.background_label, targets.unlabelled_label)
    splits = {part: tuple(as_stretch(row, targets) for row in rows) for part, rows in found.splits.items()}
    return replace(found, labels=tuple(label for label in found.labels if label not in special), splits=splits)


def format_of(config: DataConfig) -> DataFormat:
    """Return the entry of ``config.format``.

    Raises:
        UserError: an unknown format, or one that is read on a disk alone, for a root in a bucket.
    """
    if config.format not in DATA_FORMATS:
        raise unknown_name("data format", config.format, DATA_FORMATS)
    found = DATA_FORMATS[config.format]
    require(
        found.reads_buckets or not is_bucket_address(config.root),
        f"data.root {shown_source(config.root)}: data.format {config.format} is read on a disk alone; set one "
        f"that is read in buckets too: {', '.join(name for name, each in DATA_FORMATS.items() if each.reads_buckets)}",
    )
    return found


def _annotations_of(config: DataConfig) -> Path | None:
    return source_path(config.annotations) if config.annotations else None


def _listed(read: Callable[[Path, Path | None, int], Annotations]) -> _Reader:
    """A reader of published lists."""
    return lambda config: read(Path(config.root), _annotations_of(config), config.split)


def _searched(read: Callable[..., Annotations]) -> _Reader:
    """A reader that looks for files below the root."""
    return lambda config: read(
        source_path(config.root), _annotations_of(config), config.split, allow_links=config.allow_links
    )


def _manifest_reader(*, of_timelines: bool) -> _Reader:
    def read(config: DataConfig) -> Annotations:
        root = source_path(config.root)
        found = read_manifest(root, _annotations_of(config), of_timelines=of_timelines)
        if not config.allow_links:  # it may come from anyone
            refuse_links(found, root if root.is_dir() else root.parent)
        return found

    return read


def _list_manifest(config: DataConfig) -> Annotations:
    return read_manifest_rows(source_path(config.root), _annotations_of(config), of_timelines=True)


def _list_shards(config: DataConfig) -> Annotations:
    raise UserError(
        f"{config.root} holds shards: each video's checksum is verified whenever it is read; check the videos they "
        "were packed from"
    )


def _read_motion(config: DataConfig) -> Annotations:
    from pipeline.datasets.motion import MotionSetConfig, make_motion_set

    make_motion_set(Path(config.root), MotionSetConfig())
    return replace(read_folder(Path(config.root)), notes=())  # its long videos are no part


def _read_motion_timeline(config: DataConfig) -> Annotations:
    from pipeline.datasets.motion_timelines import read_motion_timeline

    return read_motion_timeline(Path(config.root), config.format)


_TIMELINES = (
    "activitynet", "boris", "createml", "cvat", "deepethogram", "elan", "epic", "fiftyone", "label_studio", "predict",
    "segments", "srt", "thumos", "via", "vtrace", "vtt",
)  # fmt: skip
"""Formats of ``timelines.formats``, whose readers need numpy, but for those that are read in a way of their own."""


def _timelines(name: str) -> DataFormat:
    """Files of labelled stretches; for task clip each stretch with a label is a clip."""

    def read(config: DataConfig) -> Annotations:
        from pipeline.datasets.timelines.rows import read_stretches

        return read_stretches(name, config)

    def read_clips(config: DataConfig) -> Annotations:
        found = read(config)
        return replace(found, splits={part: tuple(r for r in rows if r.label) for part, rows in found.splits.items()})

    return DataFormat(read_clips, list_rows=read, read_stretches=read)


def _read_ms_tcn(config: DataConfig) -> Annotations:
    from pipeline.datasets.ms_tcn import read_ms_tcn_rows

    return read_ms_tcn_rows(Path(config.root), config.split, config.features_fps, allow_links=config.allow_links)


def _pictures(open_pictures: _PicturesOpener) -> DataFormat:
    def read(config: DataConfig) -> Annotations:
        from pipeline.datasets.images import read_images

        return read_images(open_pictures(config, DecodeConfig()), Path(config.root))

    return DataFormat(read, open_pictures=open_pictures)


def _open_images(data: DataConfig, decode: DecodeConfig) -> PictureFiles:
    from pipeline.datasets.images import open_folder_or_zip

    return open_folder_or_zip(Path(data.root), decode, data.allow_links)


def _open_cifar10(data: DataConfig, decode: DecodeConfig) -> PictureFiles:
    from pipeline.datasets.images import PicturesOfCifar10

    return PicturesOfCifar10(Path(data.root))


DATA_FORMATS: dict[str, DataFormat] = {
    "cifar10": _pictures(_open_cifar10),
    "folder": DataFormat(_searched(read_folder), reads_buckets=True),
    "hmdb51": DataFormat(_listed(read_hmdb51)),
    "images": _pictures(_open_images),
    "kinetics": DataFormat(_searched(read_kinetics)),
    "manifest": DataFormat(
        _manifest_reader(of_timelines=False),
        list_rows=_list_manifest,
        read_stretches=_manifest_reader(of_timelines=True),
        reads_buckets=True,
    ),
    "motion": DataFormat(_read_motion, made_as="folder"),
    "motion_timeline": DataFormat(_read_motion_timeline),
    "motion_two_shapes": DataFormat(_read_motion_timeline),
    "ms_tcn": DataFormat(_read_ms_tcn),
    "shards": DataFormat(_listed(read_shards), list_rows=_list_shards),
    "ucf101": DataFormat(_listed(read_ucf101)),
    "ut_interaction": DataFormat(_searched(read_ut_interaction)),
} | {name: _timelines(name) for name in _TIMELINES}
