"""Datasets as their authors publish them: UCF101, HMDB51 and UT-Interaction.

Sources:
    UCF101: Soomro, Zamir, Shah, "UCF101: A Dataset of 101 Human Action Classes From Videos in The Wild", 2012.
    HMDB51: Kuehne, Jhuang, Garrote, Poggio, Serre, "HMDB: A Large Video Database for Human Motion Recognition", 2011.
    UT-Interaction: Ryoo, Aggarwal, "UT-Interaction Dataset, ICPR contest on Semantic Description of Human
    Activities (SDHA)", 2010.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.datasets.annotations import (
    ANY_DEPTH,
    Annotations,
    VideoRow,
    folders_in,
    list_videos,
    name_some,
    read_lines,
    refuse_absent,
    require_folder,
    require_videos,
)
from pipeline.errors import UserError, unknown_name

NUM_OFFICIAL_SPLITS = 3
"""UCF101 and HMDB51 both have three."""

UT_INTERACTION_LABELS = ("handshake", "hug", "kick", "point", "punch", "push")
"""By class number. This is also their sorted order."""

_UCF101_GROUP = re.compile(r"_(g\d+)_c\d+\.\w+$")
# <movie>_<action>_<visible body>_<camera motion>_np<people>_<viewpoint>_<quality>_<number>
_HMDB51_TAGS = r"_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+\.\w+$"
_UT_NAME = re.compile(r"(\d+)_(\d+)_([0-5])\.\w+$")


def read_ucf101(root: Path, annotations: Path | None = None, split: int = 1) -> Annotations:
    """UCF101 with its official lists: ``UCF-101/<Class>/v_<Class>_gNN_cMM.avi`` and ``ucfTrainTestlist/*.txt``.

    Groups are counted per class (group 1 of one class has nothing to do with group 1 of another), so a row's group
    is its class and gNN. The official lists never share one.

    Args:
        root: the folder that holds both published folders, or the one with the class folders.
        annotations: the folder of the lists, if it is not in or beside ``root``.
        split: 1, 2 or 3.

    Raises:
        UserError: a list is missing or malformed, names a class that classInd.txt lacks, or a file that is not there.
    """
    require_folder(root)
    _check_split_number("UCF101", split)
    lists = _find_lists(root, annotations, "classInd.txt", ("ucfTrainTestlist", "*/ucfTrainTestlist"))
    labels = _read_class_index(lists / "classInd.txt")
    videos = _find_class_folders(root, ("UCF-101", "UCF101"), labels)
    splits = {}
    for part in ("train", "test"):
        source = lists / f"{part}list{split:02d}.txt"
        rows = [_ucf101_row(videos, place, line, labels) for place, line in read_lines(source)]
        refuse_absent(rows, videos, source)
        require_videos(rows, videos, f"the videos that {source} lists, and it lists none")
        splits[part] = tuple(rows)
    return Annotations(labels, splits)


def _read_class_index(path: Path) -> tuple[str, ...]:
    labels: list[str] = []
    for place, line in read_lines(path):
        number, _, label = line.partition(" ")
        if number != str(len(labels) + 1) or not label:
            raise UserError(f"{place}: expected '{len(labels) + 1} <ClassName>', got {line!r}")
        labels.append(label.strip())
    return tuple(labels)


def _ucf101_row(videos: Path, place: str, line: str, labels: tuple[str, ...]) -> VideoRow:
    name, *number = line.split()
    label, _, file_name = name.partition("/")
    group = _UCF101_GROUP.search(file_name)
    if group is None or "/" in file_name or len(number) > 1:
        raise UserError(f"{place}: expected '<Class>/v_<Class>_gNN_cMM.avi' and perhaps a class number, got {line!r}")
    if label not in labels:
        raise UserError(f"{place}: {unknown_name('class', label, labels)}")
    if number and number[0] != str(labels.index(label) + 1):
        raise UserError(f"{place}: class number {number[0]}, but classInd.txt gives {label} {labels.index(label) + 1}")
    return VideoRow(videos / label / file_name, label, f"{label}_{group[1]}", name=name)


def read_hmdb51(root: Path, annotations: Path | None = None, split: int = 1) -> Annotations:
    """HMDB51 with its official lists: ``<action>/<name>.avi`` and
    ``testTrainMulti_7030_splits/<action>_test_split<N>.txt`` with a line ``<name>.avi 0|1|2`` for each video
    (1 train, 2 test, 0 left out).

    A row's group is the film that its name begins with. The official splits now and then have clips of one film on
    both sides; they are taken as published, and ``may_share_groups`` says so.

    Args:
        root: the folder that holds both published folders, or the one with the class folders.
        annotations: the folder of the lists, if it is not in or beside ``root``.
        split: 1, 2 or 3.

    Raises:
        UserError: a list is missing or malformed, or names a file that is not there.
    """
    require_folder(root)
    _check_split_number("HMDB51", split)
    ending = f"_test_split{split}.txt"
    lists = _find_lists(root, annotations, f"*{ending}", ("testTrainMulti_7030_splits", "splits"))
    sources = {path.name.removesuffix(ending): path for path in sorted(lists.glob(f"*{ending}"))}
    videos = _find_class_folders(root, ("hmdb51_org", "hmdb51", "videos"), sources)
    splits: dict[str, list[VideoRow]] = {"train": [], "test": []}
    for action, source in sources.items():
        marked = [_hmdb51_row(videos, place, line, action) for place, line in read_lines(source)]
        refuse_absent((row for mark, row in marked if mark != "0"), videos, source)
        splits["train"] += [row for mark, row in marked if mark == "1"]
        splits["test"] += [row for mark, row in marked if mark == "2"]
    require_videos(splits["train"], videos, f"the videos that the lists in {lists} mark with 1")
    return Annotations(tuple(sorted(sources)), {k: tuple(v) for k, v in splits.items()}, may_share_groups=True)


def _hmdb51_row(videos: Path, place: str, line: str, action: str) -> tuple[str, VideoRow]:
    file_name, _, mark = line.rpartition(" ")
    file_name = file_name.strip()
    if mark not in ("0", "1", "2") or not file_name or "/" in file_name:
        raise UserError(f"{place}: expected '<name>.avi 0|1|2', got {line!r}")
    name = f"{action}/{file_name}"
    film = re.match(rf"(.+?)_{re.escape(action)}{_HMDB51_TAGS}", file_name)
    return mark, VideoRow(videos / action / file_name, action, film[1] if film else name, name=name)


def read_ut_interaction(
    root: Path, annotations: Path | None = None, split: int = 1, *, allow_links: bool = False
) -> Annotations:
    """UT-Interaction, segmented: files ``<index>_<sequence>_<class>.avi`` with classes 0 to 5. Group: the sequence.

    The protocol is to leave one sequence out, so the rows are under ``all``; ``annotations`` and ``split`` do nothing,
    ``allow_links`` enters linked folders.

    Raises:
        UserError: no video, or a name of another form.
    """
    require_folder(root)
    listing = list_videos(root, link_depth=ANY_DEPTH * allow_links)
    rows = [_ut_interaction_row(path, root) for path in listing.videos]
    require_videos(rows, root, "files <index>_<sequence>_<class>.avi", listing.notes(root))
    return Annotations(UT_INTERACTION_LABELS, {"all": tuple(rows)}, notes=tuple(listing.notes(root)))


def _ut_interaction_row(path: Path, root: Path) -> VideoRow:
    name = path.relative_to(root).as_posix()
    match = _UT_NAME.match(path.name)
    if match is None:
        raise UserError(f"{path}: expected a name <index>_<sequence>_<class 0 to 5>.avi, such as 12_3_4.avi")
    return VideoRow(path, UT_INTERACTION_LABELS[int(match[3])], f"sequence_{int(match[2]):02d}", name=name)


def _check_split_number(dataset: str, split: int) -> None:
    if not 1 <= split <= NUM_OFFICIAL_SPLITS:
        raise UserError(f"{dataset} has official splits 1 to {NUM_OFFICIAL_SPLITS}, got data.split {split}")


def _find_lists(root: Path, annotations: Path | None, pattern: str, subfolders: Sequence[str]) -> Path:
    """The folder with the list files: the one named, or in or beside the root."""
    named = annotations.parent if annotations is not None and annotations.is_file() else annotations
    places = [root, root.resolve().parent] if named is None else [named]
    for place in places:
        for folder in [place, *(found for subfolder in subfolders for found in sorted(place.glob(subfolder)))]:
            if any(folder.glob(pattern)):
                return folder
    raise UserError(
        f"no official list {pattern} in {name_some(places)}, nor in {subfolders[0]} there; unpack the published "
        "lists beside the videos, or set data.annotations to their folder"
    )


def _find_class_folders(root: Path, subfolders: Iterable[str], labels: Iterable[str]) -> Path:
    """The folder with the class folders: the root or a subfolder of a usual name; the root if neither has one."""
    wanted = set(labels)
    for folder in (root, *(root / subfolder for subfolder in subfolders)):
        if folder.is_dir() and wanted & {path.name for path in folders_in(folder)}:
            return folder
    return root
