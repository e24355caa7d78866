"""Videos, folders, manifests and configs named by paths on a command line, and the trainings that they would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.buckets import is_bucket_address, source_path
from pipeline.config import VIDEO_BACKBONES, DataConfig, Experiment, SequenceConfig, TransformConfig, read_settings
from pipeline.datasets.annotations import VideoRow, annotation_files, folders_in, list_videos
from pipeline.datasets.formats import DataFormat, format_of
from pipeline.datasets.settled import read_splits
from pipeline.datasets.tables import MANIFEST_SUFFIXES, read_manifest_records
from pipeline.datasets.timelines.reading import other_format_of
from pipeline.decode.picture import PICTURE_SUFFIXES
from pipeline.errors import UserError
from pipeline.sources import shown_text

_CONFIG_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Training:
    """The data that a training would get from a folder, a manifest or a config."""

    source: str
    labels: tuple[str, ...] = ()
    class_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Part -> label -> number of rows."""
    notes: tuple[str, ...] = ()
    refused: str = ""
    """The error with which it would not begin; empty if it would."""


@dataclass
class Found:
    """The videos and annotations that the paths on the command line name."""

    files: dict[Path, None] = field(default_factory=dict)
    """In order, each once."""
    rows: list[tuple[str, VideoRow]] = field(default_factory=list)
    """Split and row of every labelled video."""
    tables: list[Path] = field(default_factory=list)
    """Files that may hold annotations; they need not exist."""
    without_label: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Faults of annotations, in words."""
    trainings: list[Training] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Texts about data that was passed over."""
    pictures: list[DataConfig] = field(default_factory=list)
    """Data whose rows are pictures, in folders or archives."""
    max_bad_fraction: float = DataConfig.max_bad_fraction


def find(paths: Iterable[str], allow_url: bool = False) -> Found:
    """Find the videos and annotations that the paths name: video files, folders, manifests and experiment configs. A
    folder without videos may hold pictures, and so may a zip archive.

    Raises:
        UserError: a path does not exist or is in a bucket and none is allowed, a config is none, or it names an unknown
            format.
    """
    found = Found()
    for name in paths:
        if is_bucket_address(name) and not allow_url:
            cure = "check and predict read it with --decode.allow_url true"
            raise UserError(f"{shown_text(name)}: in a bucket, and only local files are read here; {cure}")
        path = source_path(name)
        if not path.exists():
            raise UserError(f"{name} does not exist; name video files, folders, manifests or experiment configs")
        if path.is_dir():
            listing = list_videos(path)
            found.tables += annotation_files(path)
            found.files |= dict.fromkeys(listing.videos)
            if listing.videos and folders_in(path):
                found.trainings.append(_training_on(name, DataConfig(root=name)))
            elif not listing.videos and list_videos(path, PICTURE_SUFFIXES).videos:
                _add_data(found, name, DataConfig(format="images", root=name))
            else:
                found.notes += listing.notes(path, cure="Name them as well, if they are meant")
        elif format := other_format_of(path):
            data = DataConfig(format=format, root=str(path.parent), annotations=name, allow_links=True)
            _add_data(found, name, data, targets=SequenceConfig())
        elif path.suffix.lower() in MANIFEST_SUFFIXES:
            data = DataConfig(format="manifest", root=str(path.parent), annotations=name, allow_links=True)
            _add_data(found, name, data, targets=SequenceConfig() if _is_of_timelines(path) else None)
        elif path.suffix.lower() == ".zip":
            _add_data(found, name, DataConfig(format="images", root=name))
        elif path.suffix.lower() in _CONFIG_SUFFIXES:
            data, seed, targets, notes = _data_of(path)
            found.max_bad_fraction = data.max_bad_fraction
            refused = _add_data(found, name, data, seed, targets, notes).refused
            found.problems += [refused] if refused and refused not in found.problems else []
        else:
            found.files[path] = None
    return found


def _is_of_timelines(manifest: Path) -> bool:
    """True if a manifest has what is for task timeline alone: a line without label, the column uncovered, or two labels
    of one stretch."""
    try:
        values = [values for _, values in read_manifest_records(manifest)]
    except UserError:
        return False  # it is told by those who read it
    stretches = [tuple(line.get(name, "") for name in ("path", "start_seconds", "end_seconds")) for line in values]
    has_words = any("uncovered" in line or not line.get("label") for line in values)
    return has_words or len(set(stretches)) < len(stretches)


def _data_of(path: Path) -> tuple[DataConfig, int, SequenceConfig | None, list[str]]:
    """Return the data settings of a config, its seed, which decides the splits, its targets, if it is of timelines, and
    what is to be known of its work."""
    settings = read_settings(Experiment, path)
    if "data" not in settings:
        raise UserError(f"{path} is no experiment config: it has no data section, which names the videos")
    data = DataConfig(**settings["data"])
    is_of_timelines = settings.get("task") == "timeline"
    targets = SequenceConfig(**settings.get("sequence", {})) if is_of_timelines else None
    backbone = settings.get("model", {}).get("backbone")
    num_frames = TransformConfig(**settings.get("transform", {})).input_frames
    return data, settings.get("seed", 0), targets, _notes_on_backbone(backbone, num_frames, data)


def _notes_on_backbone(backbone: object, num_frames: int, data: DataConfig) -> list[str]:
    """The price of a video network, which is another than that of the pictures."""
    if backbone not in VIDEO_BACKBONES:
        return []
    often = "once, and kept" if data.cache == "features" else "in every epoch; data.cache features does it once"
    return [f"model.backbone {backbone} reads {num_frames} frames for the features of each grid frame, {often}"]


def _training_on(source: str, data: DataConfig, seed: int = 0, targets: SequenceConfig | None = None) -> Training:
    """Return the data that ``train`` would get, or its refusal."""
    try:
        splits = read_splits(data, seed, targets)
    except UserError as error:
        return Training(source, refused=shown_text(str(error)))
    parts = {name: getattr(splits, name) for name in ("train", "val", "test")}
    counts = {name: Counter(row.label for row in rows if row.label) for name, rows in parts.items() if rows}
    by_part = {name: dict(sorted(counted.items())) for name, counted in counts.items()}
    notes = splits.notes if targets is None else (*splits.notes, _note_on_videos(parts))
    return Training(source, splits.labels, by_part, notes)


def _note_on_videos(parts: Mapping[str, Sequence[VideoRow]]) -> str:
    """The long videos behind the stretches that are counted."""
    said = []
    for name, rows in parts.items():
        videos = {row.path for row in rows}
        empty, partly = videos - {row.path for row in rows if row.label}, {r.path for r in rows if not r.looked_at}
        more = {"without a labelled stretch": len(empty), "partly unlabelled": len(partly)}
        details = ", ".join(f"{count} {what}" for what, count in more.items() if count)
        said += [f"{name} {len(videos)}" + (f" ({details})" if details else "")] if videos else []
    return f"the counts are stretches of long videos. Videos: {', '.join(said)}"


def _add_data(
    found: Found,
    source: str,
    data: DataConfig,
    seed: int = 0,
    targets: SequenceConfig | None = None,
    notes: Iterable[str] = (),
) -> Training:
    data = replace(data, format=format_of(data).made_as or data.format)
    training = _training_on(source, data, seed, targets)
    training = replace(training, notes=(*training.notes, *notes))
    found.trainings.append(training)
    found.tables += annotation_files(data.root, data.annotations)
    kind = format_of(data)
    rows = _add_rows(found, kind, data)
    if kind.open_pictures:
        found.pictures += [data] if rows else []
    else:
        _add_files(found, source_path(data.root), rows)
    return training


def _add_rows(found: Found, kind: DataFormat, data: DataConfig) -> list[VideoRow]:
    """Note the rows of annotations, or their fault, and return the rows."""
    try:
        annotations = (kind.list_rows or kind.read)(data)
    except UserError as error:
        found.problems.append(shown_text(str(error)))
        return []
    rows = [(split, row) for split, rows in annotations.splits.items() for row in rows]
    rows += [("", VideoRow(path, "", str(path))) for path in annotations.absent]
    found.rows += rows
    return [row for _, row in rows]


def _add_files(found: Found, root: Path, rows: Iterable[VideoRow]) -> None:
    """Note the files of the rows, and the videos below the root that have no row."""
    labelled = {row.path for _, row in found.rows}
    below = [*list_videos(root).videos] if root.is_dir() else []
    found.files |= dict.fromkeys([row.path for row in rows if row.path.exists()] + below)
    found.without_label += [str(path) for path in below if path not in labelled]
