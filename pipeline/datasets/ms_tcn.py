"""The layout that MS-TCN made common for action segmentation (50 Salads, GTEA, Breakfast).

    features/VIDEO.npy                  [D, T], or videos/VIDEO.mp4 in their place
    groundTruth/VIDEO.txt               a label a line, T lines
    mapping.txt                         index label
    splits/train.split1.bundle, ...     VIDEO.txt a line

Source: https://github.com/yabufarha/ms-tcn (Farha and Gall, CVPR 2019).
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from pipeline.datasets.annotations import Annotations, VideoRow, is_video, read_lines, require_folder
from pipeline.errors import UserError

_FEATURE_SUFFIX = ".npy"


def read_ms_tcn(root: Path, split: int, steps_a_second: float | None) -> Annotations:
    """The labelled stretches of every video of an official split.

    Args:
        root: the folder; a ``{split}`` in its name stands for the number.
        split: number of the split.
        steps_a_second: lines of groundTruth a second.

    Raises:
        UserError: a part of the layout is missing or wrong, named with file and line.
    """
    root = Path(str(root).replace("{split}", str(split)))
    require_folder(root)
    if steps_a_second is None:
        raise UserError("data.format ms_tcn: set data.features_fps to the lines of groundTruth a second")
    labels = _labels(root / "mapping.txt")
    splits = {}
    for part in ("train", "val", "test"):
        bundle = _bundle(root / "splits", part, split)
        if bundle.exists() or part != "val":
            names = [Path(line).stem for _, line in read_lines(bundle)]
            splits[part] = tuple(row for name in names for row in _rows(root, name, labels, steps_a_second))
    return Annotations(labels, splits, may_share_groups=True, may_lack_classes=True)


def _bundle(folder: Path, part: str, split: int) -> Path:
    """The list of a part: of that number, or the only one, where each split has a folder of its own."""
    numbered, found = folder / f"{part}.split{split}.bundle", list(folder.glob(f"{part}.*bundle"))
    return found[0] if len(found) == 1 and not numbered.exists() else numbered


def _labels(path: Path) -> tuple[str, ...]:
    labels: dict[int, str] = {}
    for place, line in read_lines(path):
        index, _, label = line.partition(" ")
        if not index.isdigit() or not label.strip() or int(index) in labels:
            raise UserError(f"{place}: expected a new number and a label, got {line[:80]!r}")
        labels[int(index)] = label.strip()
    if sorted(labels) != list(range(len(labels))):
        raise UserError(f"{path}: the numbers must be 0 to {len(labels) - 1}, each once")
    return tuple(labels[index] for index in range(len(labels)))


def _rows(root: Path, name: str, labels: tuple[str, ...], steps_a_second: float) -> list[VideoRow]:
    lines = read_lines(root / "groundTruth" / f"{name}.txt")
    unknown = next((place for place, label in lines if label not in labels), None)
    if unknown or not lines:
        raise UserError(f"{unknown or root / 'groundTruth' / f'{name}.txt'}: expected a label of mapping.txt a line")
    path, rows, start = _video(root, name), [], 0
    for label, run in groupby(label for _, label in lines):
        stop = start + len(list(run))
        times = start / steps_a_second, stop / steps_a_second
        rows.append(VideoRow(path, label, name, *times, name=path.relative_to(root).as_posix()))
        start = stop
    return rows


def _video(root: Path, name: str) -> Path:
    features = root / "features" / f"{name}{_FEATURE_SUFFIX}"
    if features.is_file():
        return features
    found = [path for path in sorted((root / "videos").glob(f"{name}.*")) if is_video(path.name)]
    if not found:
        raise UserError(f"{root}: there is neither features/{name}{_FEATURE_SUFFIX} nor a video videos/{name}.*")
    return found[0]
