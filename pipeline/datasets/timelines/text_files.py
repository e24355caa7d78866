"""Labels in plain text files: MS-TCN's layout with a label a step, THUMOS' with a file a class."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.config import BACKGROUND, UNLABELLED
from pipeline.datasets.annotations import name_some, read_lines, read_text
from pipeline.datasets.delimited import composed
from pipeline.datasets.parts import part_of
from pipeline.datasets.timelines.frames import Clock, ClockOf
from pipeline.datasets.timelines.names import flat_names
from pipeline.datasets.timelines.spans import is_of_split, join_spans, one_line, read_span
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo, unlabelled_parts

MS_TCN_HEADING = "### Frame level recognition: ###"
"""First line of the files that MS-TCN's code predicts; all labels stand in the second, apart by spaces."""

_AMBIGUOUS, _LABELS_FOLDER = "Ambiguous", "groundTruth"


def read_ms_tcn(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read labels a step in the layout that MS-TCN made common: ``groundTruth/VIDEO.txt`` with a label a line,
    ``mapping.txt`` (index and label), ``splits/test.split1.bundle``.

    Predictions are a folder of such files, or of the files without suffix that MS-TCN's code writes. Where a
    ``mapping.txt`` is there, labels may be its indices, and others are refused.

    Args:
        path: the root, a bundle of it (then of its videos alone), or a folder of label files.
        split: of a root, take the videos of ``splits/SPLIT*.bundle``; such as test, or test.split2.

    Raises:
        UserError: no label file, one that a bundle names is missing or outside, or a label is unknown.
    """
    bundle = path if path.suffix == ".bundle" else _bundle_of(path, split)
    root = bundle.parent.parent if bundle else path
    folder = root / _LABELS_FOLDER if (root / _LABELS_FOLDER).is_dir() else root
    mapping = read_mapping(root if folder != root else root.parent if root.name == _LABELS_FOLDER else root)
    listed = [place_and_name[1] for place_and_name in read_lines(bundle)] if bundle else sorted(_label_files(folder))
    if not listed:
        raise UserError(f"{bundle or folder}: no label file; expected VIDEO.txt with a label a line")
    outside = [name for name in listed if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise UserError(f"{bundle} names files outside of {folder}, which are not read. {name_some(outside)}")
    absent = [name for name in listed if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{bundle} names label files that are not in {folder}. {name_some(absent)}")
    parts = _parts_of(root)
    return [
        LabelledVideo(_stem(name), steps=tuple(_labels(folder / name, mapping)), split=parts.get(name, ""))
        for name in listed
    ]


def _parts_of(root: Path) -> dict[str, str]:
    """The part of each label file; nothing where the bundles are of several splits, which disagree."""
    parts: dict[str, str] = {}
    for bundle in sorted((root / "splits").glob("*.bundle")):
        part = part_of(bundle.name.split(".")[0])
        for _, name in read_lines(bundle) if part else ():
            if parts.setdefault(name, part or "") != part:
                return {}
    return parts


def _bundle_of(root: Path, split: str | None) -> Path | None:
    """The bundle of a split; None if there are no bundles, so that all files are taken."""
    bundles = sorted((root / "splits").glob("*.bundle"))
    if split is None or not bundles:
        return None
    fitting = [bundle for bundle in bundles if split in (bundle.stem, bundle.name)]
    fitting = fitting or [bundle for bundle in bundles if is_of_split(split, bundle.name.split(".")[0])]
    if len(fitting) != 1:
        found = f"{len(fitting)} bundles of the split {split!r}" if fitting else f"no bundle of the split {split!r}"
        raise UserError(f"{root / 'splits'}: {found}; name one of {', '.join(b.stem for b in fitting or bundles)}")
    return fitting[0]


def _label_files(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of label files; name the folder, its root or a .bundle")
    for path in folder.iterdir():
        is_labels = path.suffix == ".txt" or MS_TCN_HEADING in _first_line(path)
        is_about = folder.name != _LABELS_FOLDER and path.name in ("mapping.txt", "README.txt")
        if path.is_file() and is_labels and not is_about and path.name[0] != ".":
            yield path.name


def _first_line(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.readline(200).decode("utf-8", "replace")


def _stem(name: str) -> str:
    return composed(name.removesuffix(".txt"))


def read_mapping(root: Path) -> dict[str, str]:
    """Return the labels of ``mapping.txt`` by index; none where there is no such file. Raises ``UserError``."""
    if not (root / "mapping.txt").is_file():
        return {}
    mapping = {}
    for place, line in read_lines(root / "mapping.txt"):
        index, _, label = line.partition(" ")
        if not index.isdecimal() or not label.strip() or index in mapping:
            raise UserError(
                f"{place}: expected an index and a label, each once, such as '3 cut_tomato', got {line[:80]!r}"
            )
        mapping[index] = composed(label.strip())
    return mapping


def _labels(path: Path, mapping: Mapping[str, str]) -> Iterator[str]:
    text = read_text(path)
    heading, _, rest = text.partition("\n")
    lines = rest.split() if heading.strip() == MS_TCN_HEADING else text.rstrip().split("\n") if text.strip() else []
    known = set(mapping.values())
    for number, line in enumerate(lines, 1):
        label = composed(line.strip())
        if not label:
            raise UserError(f"{path}:{number}: an empty line; each line is the label of a step")
        if known and label not in known and label not in mapping:
            raise UserError(f"{path}:{number}: the label {label[:80]!r} is not in mapping.txt; add it there")
        yield label if label in known else mapping.get(label, label)


def write_ms_tcn(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write MS-TCN's layout: a label for each frame, the mapping, and a bundle for each part (train, if there are no
    parts). Of several labels at once the one that began last is written."""
    named = flat_names(videos)
    steps = {name: _steps(video, clock_of(video)) for name, video in named.items()}
    labels = sorted({label for some in steps.values() for label in some} - {BACKGROUND})
    files = {f"{_LABELS_FOLDER}/{name}.txt": "".join(f"{label}\n" for label in some) for name, some in steps.items()}
    files["mapping.txt"] = "".join(f"{number} {label}\n" for number, label in enumerate([*labels, BACKGROUND]))
    for name, video in named.items():
        part = part_of(video.split) or re.sub(r"\W", "_", video.split) or "train"
        bundle = f"splits/{part}.split1.bundle"
        files[bundle] = files.get(bundle, "") + f"{name}.txt\n"
    return files


def _steps(video: LabelledVideo, clock: Clock) -> list[str]:
    num_frames = clock.num_frames or max((clock.frame(span.end_seconds) for span in video.spans), default=0)
    steps = [BACKGROUND] * num_frames
    for start, end in unlabelled_parts(video, clock.seconds(num_frames), (UNLABELLED,)):
        stretch = range(clock.frame(start), min(clock.frame(end), num_frames))
        steps[stretch.start : stretch.stop] = [UNLABELLED] * len(stretch)
    for span in sorted(video.spans, key=lambda span: (span.label not in _SPECIAL, span.start_seconds)):
        stretch = range(clock.frame(span.start_seconds), min(clock.frame(span.end_seconds), num_frames))
        if span.label != UNLABELLED:
            steps[stretch.start : stretch.stop] = [one_line(span.label)] * len(stretch)
    return steps


_SPECIAL = (BACKGROUND, UNLABELLED)


def read_thumos(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read THUMOS'14 text files, ``Class_test.txt``, with lines ``VIDEO START END`` in seconds and optionally a score.
    The class is the file's name. ``Ambiguous_*.txt`` is no class: its stretches are unlabelled.

    Args:
        path: the folder, or one that holds such folders, or one file.
        split: take the files of that part alone, by the end of their name.

    Raises:
        UserError: no such file, or a malformed line, named ``file:line``.
    """
    files = (sorted(path.glob("*.txt")) or sorted(path.rglob("*_*.txt"))) if path.is_dir() else [path]
    named = [(file, *_class_and_part(file)) for file in files if not file.name.startswith((".", "README"))]
    chosen = [(file, label, part) for file, label, part in named if is_of_split(split, part)]
    rows, facts = [], {}
    for file, label, part in sorted(chosen, key=lambda each: each[1] == _AMBIGUOUS):
        for place, line in read_lines(file):
            rows.append(_thumos_row(place, line, UNLABELLED if label == _AMBIGUOUS else label))
            facts[rows[-1][0]] = {"split": part or ""}
    if not rows:
        raise UserError(f"{path}: no line VIDEO START END in a file such as Diving_test.txt")
    return join_spans(rows, facts=facts)


def write_thumos(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write THUMOS' text files, ``Class_part.txt`` (test, if there are no parts); what is unlabelled is ambiguous.

    Raises:
        UserError: a label cannot be the name of a file, or a video's name has a space or comma in it.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for video in videos:
        if re.search(r"[\s,]", video.name):
            raise UserError(f"{video.name}: THUMOS' lines are apart by spaces, and this name has one; rename the video")
        for span in video.spans:
            label = _AMBIGUOUS if span.label == UNLABELLED else span.label
            if re.search(r"[/\\\0]|^\.", label):
                raise UserError(f"the label {label!r} cannot be the name of a file, as THUMOS has it; rename it")
            times = [span.start_seconds, span.end_seconds, *([] if span.score == 1 else [span.score])]
            line = " ".join([video.name, *map(repr, times)])
            files[f"{label}_{part_of(video.split) or 'test'}.txt"].append(line)
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in files.items()}


def _class_and_part(path: Path) -> tuple[str, str | None]:
    """``("Diving", "test")`` of ``Diving_test.txt``."""
    label, _, part = path.stem.rpartition("_")
    return (composed(label), part) if label and part_of(part) else (composed(path.stem), None)


def _thumos_row(place: str, line: str, label: str) -> tuple[str, LabelledSpan]:
    words = re.split(r"[\s,]+", line)
    if len(words) not in (3, 4):
        raise UserError(f"{place}: expected VIDEO START END and perhaps a score, got {line[:80]!r}")
    name, start, end, *score = words
    return composed(name), read_span(place, start, end, label, *score)
