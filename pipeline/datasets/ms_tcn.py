"""The layout that MS-TCN made common for action segmentation (50 Salads, GTEA, Breakfast).

    features/VIDEO.npy                  [D, T], or videos/VIDEO.mp4 in their place
    groundTruth/VIDEO.txt               a label a line, T lines
    mapping.txt                         index label
    splits/train.split1.bundle, ...     VIDEO.txt a line

Source: https://github.com/yabufarha/ms-tcn (Farha and Gall, CVPR 2019).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

from pipeline.datasets.annotations import Annotations, VideoRow, require_folder
from pipeline.datasets.timelines.frames import FEATURE_SUFFIX
from pipeline.datasets.timelines.rows import refuse_linked_labels, rows_of
from pipeline.datasets.timelines.text_files import read_mapping, read_ms_tcn
from pipeline.errors import UserError
from pipeline.sources import is_video
from pipeline.timeline.labelled import LabelledVideo


def read_ms_tcn_rows(root: Path, split: int, steps_a_second: float | None, *, allow_links: bool = False) -> Annotations:
    """The labelled stretches of every video of an official split.

    Args:
        root: the folder; a ``{split}`` in its name stands for the number.
        split: number of the split.
        steps_a_second: lines of groundTruth a second; None: one for each frame of the video.
        allow_links: read label files that are links out of the folder.

    Raises:
        UserError: a part of the layout is missing or wrong, named with file and line.
    """
    root = Path(str(root).replace("{split}", str(split)))
    require_folder(root)
    if not allow_links:  # it may come from anyone
        files = [root / "mapping.txt", *(root / "splits").glob("*"), *(root / "groundTruth").glob("*")]
        refuse_linked_labels(files, root)
    labels = _labels(root)
    splits = {}
    for part in ("train", "val", "test"):
        bundle = _bundle(root / "splits", part, split)
        if bundle.exists() or part != "val":
            videos = read_ms_tcn(bundle)
            splits[part] = tuple(row for video in videos for row in _rows(root, video, steps_a_second))
    return Annotations(labels, splits, may_share_groups=True, may_lack_classes=True)


def count_ms_tcn_splits(root: Path) -> int:
    """Return the number of official splits: of folders, where a ``{split}`` in the root's name stands for the number,
    or of numbered lists in one folder."""

    def is_there(number: int) -> bool:
        folder = Path(str(root).replace("{split}", str(number)))
        return folder.is_dir() if folder != root else (root / "splits" / f"train.split{number}.bundle").is_file()

    return sum(1 for _ in takewhile(is_there, count(1)))


def _bundle(folder: Path, part: str, split: int) -> Path:
    """The list of a part: of that number, or the only one, where each split has a folder of its own."""
    numbered, found = folder / f"{part}.split{split}.bundle", list(folder.glob(f"{part}.*bundle"))
    return found[0] if len(found) == 1 and not numbered.exists() else numbered


def _labels(root: Path) -> tuple[str, ...]:
    mapping = read_mapping(root)
    if not mapping:
        raise UserError(f"{root / 'mapping.txt'}: expected lines of a number and a label, and there are none")
    if sorted(map(int, mapping)) != list(range(len(mapping))):
        raise UserError(f"{root / 'mapping.txt'}: the numbers must be 0 to {len(mapping) - 1}, each once")
    return tuple(mapping[index] for index in sorted(mapping, key=int))


def _rows(root: Path, video: LabelledVideo, steps_a_second: float | None) -> list[VideoRow]:
    if not video.steps:
        raise UserError(f"{root / 'groundTruth' / video.name}.txt: it is empty; each line is the label of a step")
    path = _video(root, video.name)
    return rows_of(replace(video, group=video.name), path, path.relative_to(root).as_posix(), steps_a_second)


def _video(root: Path, name: str) -> Path:
    features = root / "features" / f"{name}{FEATURE_SUFFIX}"
    if features.is_file():
        return features
    found = [path for path in sorted((root / "videos").glob(f"{name}.*")) if is_video(path.name)]
    if not found:
        raise UserError(f"{root}: there is neither features/{name}{FEATURE_SUFFIX} nor a video videos/{name}.*")
    return found[0]
