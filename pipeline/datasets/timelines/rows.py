"""Rows of a training from files of labelled stretches: their videos are found by name, below the root of the data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import UNLABELLED, DataConfig, DecodeConfig
from pipeline.datasets.annotations import (
    ANY_DEPTH,
    Annotations,
    VideoRow,
    annotation_files,
    list_videos,
    name_some,
    require_folder,
    require_videos,
)
from pipeline.datasets.delimited import composed
from pipeline.datasets.parts import PARTS, part_of, part_word
from pipeline.datasets.timelines.formats import TIMELINE_FORMATS
from pipeline.datasets.timelines.frames import FEATURE_SUFFIX, in_seconds
from pipeline.datasets.timelines.names import SPELLINGS
from pipeline.datasets.timelines.reading import format_of_file, read_timelines
from pipeline.errors import UserError, unknown_name
from pipeline.sources import VIDEO_SUFFIXES
from pipeline.timeline.labelled import LabelledVideo, Span


def read_stretches(format: str, config: DataConfig) -> Annotations:
    """The labelled stretches of long videos, as other tools write them.

    The parts are those that the file gives its videos, or that the names of several files say. A part without a single
    stretch, as challenges keep their test part, is left out. Listed videos that are not there are ``absent``.

    Args:
        format: a key of ``TIMELINE_FORMATS``.
        config: ``root``, below which the videos are, or files of features; ``annotations``, the file or folder, if it
            is not the only one of its kind in the root or in ``annotations/`` there; ``features_fps``.

    Raises:
        UserError: a file is malformed, a video has two parts, two files have the name of one video, or none is there.
    """
    root = Path(config.root)
    require_folder(root)
    sources = _sources(format, root, Path(config.annotations) if config.annotations else None)
    if not config.allow_links:  # it may come from anyone
        _refuse_links(sources, format, Path(config.annotations or root))
    by_part = _by_part([video for source in sources for video in _read(source, format)], str(sources[0]))
    empty = [part for part, videos in by_part.items() if not any(map(_has_label, videos))]
    found = VideoFiles.below(root, config.allow_links)
    splits = {
        part: tuple(row for video in videos for row in _rows(video, found, config))
        for part, videos in by_part.items()
        if part not in empty
    }
    absent = [video.name for part in by_part if part not in empty for video in by_part[part] if not found.find(video)]
    rows = [row for part in splits.values() for row in part]
    require_videos(rows, root, f"the videos that {sources[0]} names, such as {(absent or ['NAME'])[0]}.mp4")
    notes = [f"the part {part} has no labelled stretch, as those of challenges, and is left out" for part in empty]
    if splits.keys() == {"val", "test"}:
        splits["train"] = splits.pop("val")
        notes.append("there is no part train: the validation videos are learnt from, as is usual with THUMOS")
    return Annotations(
        tuple(sorted({row.label for row in rows} - {""})),
        splits,
        absent=tuple(root / name for name in absent),
        may_share_groups=format in _SHARING,
        may_lack_classes="all" not in splits,
        notes=tuple(notes),
    )


_SHARING = ("epic",)
"""Their published parts share sources, which are the people."""


def _sources(format: str, root: Path, given: Path | None) -> list[Path]:
    """The files, or the folder, of the annotations."""
    suffixes = TIMELINE_FORMATS[format].suffixes
    if not suffixes or TIMELINE_FORMATS[format].is_per_video or (given and not given.is_dir()):
        return [given or root]
    places = [given] if given else [root, root / "annotations"]
    files = [path for place in places for path in sorted(place.glob("*")) if path.suffix.lower() in suffixes]
    formats = {path: format_of_file(path) for path in files}
    fitting = [path for path in files if formats[path] == format]
    if fitting or (files and not any(formats.values())):  # their reader says what is wrong
        return fitting or files
    raise UserError(f"no file of the format {format} in {name_some(places)}; set data.annotations to the file")


def _refuse_links(sources: Iterable[Path], format: str, place: Path) -> None:
    """``refuse_linked_labels`` for the label files of a format."""
    suffixes = TIMELINE_FORMATS[format].suffixes or _SUFFIXES_IN_FOLDERS
    below = [path for folder in sources if folder.is_dir() for path in (*folder.rglob("*"), *annotation_files(folder))]
    refuse_linked_labels([path for path in (*sources, *below) if path.suffix.lower() in suffixes], place)


def refuse_linked_labels(files: Iterable[Path], place: Path) -> None:
    """Refuse label files that are links out of the folder in which they were found; a file that was named may be one.

    Raises:
        UserError: names the first few.
    """
    home = place.resolve()
    outside = [path for path in files if path.is_file() and not path.resolve().is_relative_to(home)]
    if outside:
        names = name_some(path.relative_to(place) for path in dict.fromkeys(outside))
        raise UserError(
            f"label files are links that lead out of {place}. {names}. Set data.allow_links to true if that is meant"
        )


_SUFFIXES_IN_FOLDERS = (".txt", "", ".bundle", ".json")
"""Of label files in the formats that are folders."""


def _read(source: Path, format: str) -> list[LabelledVideo]:
    """The videos of a file; the name of one that gives them no part may say it."""
    part = part_of(part_word(source)) or "" if source.is_file() else ""
    return [replace(video, split=video.split or part) for video in read_timelines(source, format)]


def _by_part(videos: Sequence[LabelledVideo], where: str) -> dict[str, list[LabelledVideo]]:
    twice = [name for name, count in Counter(video.name for video in videos).items() if count > 1]
    if twice:
        raise UserError(f"{where}: videos are listed twice, or in two parts. {name_some(twice)}. List each once")
    parts: dict[str, list[LabelledVideo]] = defaultdict(list)
    for video in videos:
        part = part_of(video.split) if video.split else "all"
        if part is None:
            raise UserError(f"{where}: {video.name}: {unknown_name('split', video.split, PARTS)}")
        parts[part].append(video)
    if "all" in parts and len(parts) > 1:
        raise UserError(f"{where}: {len(parts['all'])} videos have no split and others have; give all one, or none")
    return {part: parts[part] for part in (*PARTS, "all") if part in parts}


def _has_label(video: LabelledVideo) -> bool:
    return bool(video.steps) or any(span.label != UNLABELLED for span in video.spans)


@dataclass(frozen=True)
class VideoFiles:
    """Videos, and files of features, by each name that a list may call them."""

    by_name: dict[str, list[Path]]
    root: Path

    @classmethod
    def below(cls, root: Path, allow_links: bool) -> VideoFiles:
        """Look for the files in a folder and below."""
        found: dict[str, list[Path]] = defaultdict(list)
        for suffixes in (VIDEO_SUFFIXES, {FEATURE_SUFFIX}):
            for path in list_videos(root, suffixes, link_depth=ANY_DEPTH * allow_links).videos:
                name = composed(path.relative_to(root).as_posix())
                stem = name.removesuffix(FEATURE_SUFFIX)
                for spelled in {spell(text) for spell in SPELLINGS for text in (name, stem)}:
                    found[spelled].append(path)
        return cls(dict(found), root)

    def find(self, video: LabelledVideo) -> Path | None:
        """The file of a video, by its whole name first; a video before features.

        Raises:
            UserError: several files may be meant.
        """
        for name in dict.fromkeys(spell(video.name) for spell in SPELLINGS):
            paths = self.by_name.get(name, [])
            kinds = [[p for p in paths if (p.suffix == FEATURE_SUFFIX) == features] for features in (False, True)]
            for some in filter(None, kinds):
                if len(some) > 1:
                    names = name_some(path.relative_to(self.root) for path in some)
                    raise UserError(f"the video {video.name} may be several files. {names}. Name it with its folder")
                return some[0]
        return None


def _rows(video: LabelledVideo, files: VideoFiles, config: DataConfig) -> Iterable[VideoRow]:
    path = files.find(video)
    if path is None:
        return ()
    return rows_of(video, path, composed(path.relative_to(files.root).as_posix()), config.features_fps)


def rows_of(video: LabelledVideo, path: Path, name: str, features_fps: float | None = None) -> list[VideoRow]:
    """Return the rows of a labelled video: its stretches, one of the whole video if it has none, and one that is not
    ``looked_at`` if it is partly unlabelled.

    Args:
        video: what is labelled of it.
        path: its file.
        name: path below the root.
        features_fps: steps a second of a file of features.

    Raises:
        UserError: times are frames, or a label a step, and the file does not give their times.
    """
    video = in_seconds(video, path, features_fps, DecodeConfig())
    whole = VideoRow(path, "", video.group or name, name=name)
    rows = [replace(whole, looked_at=False)] if video.uncovered == UNLABELLED else []
    rows += [_row(whole, span) for span in video.spans if span.end_seconds > max(span.start_seconds, 0.0)]
    return rows or [whole]


def _row(whole: VideoRow, span: Span) -> VideoRow:
    row = replace(whole, start_seconds=max(0.0, span.start_seconds), end_seconds=span.end_seconds)
    return replace(row, looked_at=False) if span.label == UNLABELLED else replace(row, label=span.label)
