"""Writing labelled stretches in any format: what cannot be held is told, and files come complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.config import BACKGROUND, UNLABELLED
from pipeline.datasets.annotations import name_some
from pipeline.datasets.timelines.formats import TIMELINE_FORMATS, TimelineFormat
from pipeline.datasets.timelines.frames import ClockOf, PathOf
from pipeline.datasets.timelines.losses import find_losses
from pipeline.errors import UserError, unknown_name
from pipeline.files.lock import locked_folder
from pipeline.files.outputs import check_outputs, claimed
from pipeline.files.writing import write_atomically
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo, unlabelled_parts

_HALF_MILLISECOND = 0.0005


def writable_format(name: str) -> TimelineFormat:
    """Return a format that can be written.

    Raises:
        UserError: there is none of that name, or it is read only.
    """
    writable = {key: value for key, value in TIMELINE_FORMATS.items() if value.write}
    if name not in writable:
        raise unknown_name("format to write", name, writable)
    return writable[name]


def write_labelled(
    videos: Sequence[LabelledVideo],
    target: Path,
    name: str,
    clock_of: ClockOf,
    *,
    path_of: PathOf = lambda video: None,
    inputs: Iterable[Path | str] = (),
    no_clobber: bool = False,
) -> list[str]:
    """Write labelled videos to a file, or to a folder where the format has a file a video or a folder.

    Args:
        videos: with times in seconds.
        target: the file or folder.
        name: of the format.
        clock_of: finds the frames of a video, for formats that count them.
        path_of: finds the file of a video, for formats that say where it is.
        inputs: files that may not be written over.
        no_clobber: refuse to replace a file.

    Returns:
        What the format cannot hold, in words.

    Raises:
        UserError: the format is not written, the frames of a video are not known, or a file cannot be written.
    """
    found = writable_format(name)
    assert found.write is not None
    write, held = found.write_as.get(target.suffix.lower(), (found.write, found.holds))
    said = [_spelled_out(video) if "unlabelled" not in held else video for video in videos]
    if any(span.score != 1 for video in said for span in video.spans):
        held -= found.not_with_scores
    texts = write(said, clock_of)
    if found.write_paths is not None:
        texts |= found.write_paths(said, path_of)
    if not texts:
        raise UserError(f"there is no stretch to write, and {name} is nothing else")
    notes = find_losses(said, held, name)
    notes += _off_frames(said, clock_of) if found.in_frames else []
    _write_files(texts, target, found, inputs, no_clobber)
    return notes


def _spelled_out(video: LabelledVideo) -> LabelledVideo:
    """A video that is partly unlabelled, with a stretch for each such part, if its duration is known."""
    if video.uncovered == BACKGROUND or video.duration_seconds is None:
        return video
    parts = unlabelled_parts(video, video.duration_seconds, (UNLABELLED,))
    spans = (*(s for s in video.spans if s.label != UNLABELLED), *(LabelledSpan(*part, UNLABELLED) for part in parts))
    return replace(video, spans=tuple(sorted(spans, key=lambda span: span.start_seconds)), uncovered=BACKGROUND)


def _off_frames(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> list[str]:
    count = 0
    for video in videos:
        clock = clock_of(video)
        times = [time for span in video.spans for time in (span.start_seconds, span.end_seconds)]
        count += sum(abs(clock.seconds(clock.frame(time)) - time) > _HALF_MILLISECOND for time in times)
    return [f"times between frames, which were moved to the nearest one: {count}"] if count else []


def _write_files(
    texts: Mapping[str, str], target: Path, found: TimelineFormat, inputs: Iterable[Path | str], no_clobber: bool
) -> None:
    is_file = set(texts) == {""} or (len(texts) == 1 and target.suffix.lower() in found.suffixes)
    if is_file:
        with claimed({"OUT": target}, inputs, no_clobber=no_clobber):
            write_atomically(target, next(iter(texts.values())))
        return
    files = {name: target / name for name in texts}
    if target.is_file():
        raise UserError(f"{target} is a file, and {len(texts)} files are to be written: name a folder")
    check_outputs(files, inputs, no_clobber=no_clobber)
    with ExitStack() as stack:
        stack.enter_context(locked_folder(target))
        if not found.suffixes:
            _refuse_others(target, files.values())
        for name, path in files.items():
            write_atomically(path, texts[name])


def _refuse_others(folder: Path, files: Iterable[Path]) -> None:
    """Label files of an earlier time would be read with the new ones."""
    ours = set(files)
    there = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name.endswith(".txt")]
    others = sorted(path.relative_to(folder).as_posix() for path in there if path not in ours)
    if others:
        raise UserError(
            f"{folder} holds other label files, which would be read too. {name_some(others)}. Name a new one"
        )
