"""All the output that a run over videos asked for, as one writer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.errors import UserError
from pipeline.options import PredictOptions
from pipeline.report.annotated import AnnotatedVideos
from pipeline.report.csv_file import CsvFile
from pipeline.report.files import STDOUT
from pipeline.report.json_file import JsonFile
from pipeline.report.jsonl import JsonLines
from pipeline.report.page import HtmlPages
from pipeline.report.parquet import ParquetFile
from pipeline.report.records import FrameWriter, SourceVideo, Writer
from pipeline.report.subtitles import Subtitles

Make = Callable[[str, dict[str, Any], PredictOptions], Writer]

# An output's name is its option: a file for all videos, or a folder with a file for each.
FILES: dict[str, Make] = {
    "json": lambda target, header, _: JsonFile(target, header),
    "csv": lambda target, header, _: CsvFile(target),
    "jsonl": lambda target, header, _: JsonLines(target, header),
    "parquet": lambda target, header, _: ParquetFile(Path(target), header),
}
FOLDERS: dict[str, Make] = {
    "srt": lambda folder, header, _: Subtitles(Path(folder), "srt"),
    "vtt": lambda folder, header, _: Subtitles(Path(folder), "vtt"),
}
FRAME_FOLDERS: dict[str, Callable[[str, dict[str, Any], PredictOptions], FrameWriter]] = {
    "video": lambda folder, header, _: AnnotatedVideos(Path(folder)),
    "html": lambda folder, header, options: HtmlPages(Path(folder), header["labels"], options.html_embed_mb),
}


def targets_of(options: PredictOptions) -> dict[str, str]:
    """Output name -> file, folder or -, of what the options ask for."""
    wanted = {name: getattr(options, name) for name in (*FILES, *FOLDERS, *FRAME_FOLDERS)}
    return {name: target for name, target in wanted.items() if target}


class Writers:
    """Passes everything on to each writer. As a context it completes the files at the end, and if an error comes out
    leaves nothing half-written under a final name.

    Args:
        options: which outputs.
        header: facts about the model, with its ``labels``.

    Raises:
        UserError: two outputs are one file, or one cannot be written.
    """

    def __init__(self, options: PredictOptions, header: dict[str, Any]) -> None:
        targets = targets_of(options)
        _check_apart({name: target for name, target in targets.items() if name in FILES and target != STDOUT})
        self._all: list[Writer] = []
        self._with_frames: list[FrameWriter] = []
        try:
            for name, target in targets.items():
                if name in FRAME_FOLDERS:
                    self._with_frames.append(FRAME_FOLDERS[name](target, header, options))
                    self._all.append(self._with_frames[-1])
                else:
                    self._all.append((FILES | FOLDERS)[name](target, header, options))
        except UserError:
            self.discard()
            raise

    def begin_video(self, video: SourceVideo) -> None:
        """The calls that follow are of this video."""
        for writer in self._all:
            writer.begin_video(video)

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """One more window."""
        for writer in self._all:
            writer.window(prediction, probabilities)

    def segment(self, segment: Segment) -> None:
        """One more segment."""
        for writer in self._all:
            writer.segment(segment)

    @property
    def wants_frames(self) -> bool:
        """Whether any of them wants the pictures of this video."""
        return any(writer.wants_frames for writer in self._with_frames)

    def frame(self, image: NDArray[np.uint8], time_seconds: float) -> None:
        """One more picture, uint8 RGB ``[H, W, 3]``."""
        for writer in self._with_frames:
            if writer.wants_frames:
                writer.frame(image, time_seconds)

    def end_video(self, status: str, error: str) -> None:
        """No more of this video."""
        for writer in self._all:
            writer.end_video(status, error)

    def close(self) -> None:
        """Everything is complete."""
        for writer in self._all:
            writer.close()

    def discard(self) -> None:
        """What is not complete will not be."""
        for writer in self._all:
            writer.discard()

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()  # does nothing to a file that has its name


def _check_apart(targets: dict[str, str]) -> None:
    seen: dict[Path, str] = {}
    for name, target in targets.items():
        other = seen.setdefault(Path(target).resolve(), name)
        if other != name:
            raise UserError(f"--{other} and --{name} name the same file, {target}; give each its own")


def output_names(videos: Sequence[Path]) -> list[str]:
    """What the files written for each video are called: its name without the suffix. If two videos share that, every
    name keeps its suffix, and then gets as many parent folders in front as it takes to tell them apart; only links to
    one file come to be numbered."""
    deepest = max((len(video.absolute().parts) for video in videos), default=0)
    names: list[str] = []
    for make in (lambda video: video.stem, *(_tail_namer(depth) for depth in range(1, deepest))):
        names = [make(video) for video in videos]
        if _all_differ(names):
            return names
    counts = {name: itertools.count(1) for name in names}
    return [f"{name}-{next(counts[name])}" for name in names]


def _tail_namer(depth: int) -> Callable[[Path], str]:
    return lambda video: "_".join(part for part in video.absolute().parts[-depth:] if part != video.anchor)


def _all_differ(names: Iterable[str]) -> bool:
    folded = [name.casefold() for name in names]  # some file systems do not tell case apart
    return len(set(folded)) == len(folded)
