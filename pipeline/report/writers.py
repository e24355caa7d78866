"""All the output that a run over videos asked for, as one writer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Prediction, Segment
from pipeline.errors import UserError
from pipeline.files.failures import STDOUT, OutputError
from pipeline.files.outputs import check_outputs, folded
from pipeline.options import PredictOptions
from pipeline.report.annotated import AnnotatedVideos
from pipeline.report.csv_file import CsvFile
from pipeline.report.json_file import JsonFile
from pipeline.report.jsonl import JsonLines
from pipeline.report.own import ANNOTATED, PREVIEW
from pipeline.report.page import HtmlPages
from pipeline.report.parquet import ParquetFile
from pipeline.report.records import ERROR, SourceVideo, Writer
from pipeline.report.subtitles import Subtitles

_Make = Callable[[Path, dict[str, Any], PredictOptions], Writer]

# An output's name is its option: a file for all videos, or a folder with a file for each.
FILES: dict[str, _Make] = {
    "json": lambda path, header, options: JsonFile(path, header, no_clobber=options.no_clobber),
    "csv": lambda path, header, options: CsvFile(path, no_clobber=options.no_clobber),
    "jsonl": lambda path, header, options: JsonLines(path, header, no_clobber=options.no_clobber),
    "parquet": lambda path, header, options: ParquetFile(path, header, no_clobber=options.no_clobber),
}
FOLDERS: dict[str, _Make] = {
    "srt": lambda folder, header, options: Subtitles(folder, "srt", no_clobber=options.no_clobber),
    "vtt": lambda folder, header, options: Subtitles(folder, "vtt", no_clobber=options.no_clobber),
    "video": lambda folder, header, options: AnnotatedVideos(folder, no_clobber=options.no_clobber),
    "html": lambda folder, header, options: HtmlPages(
        folder,
        header["labels"],
        options.html_embed_mb,
        may_overlap=bool(header.get("may_overlap")),
        no_clobber=options.no_clobber,
    ),
}
_ENDINGS = {"srt": (".srt",), "vtt": (".vtt",), "video": (ANNOTATED,), "html": (".html", PREVIEW)}
"""Endings of the names of the files in each folder."""


def targets_of(options: PredictOptions) -> dict[str, str]:
    """Output name -> file, folder or -, of the outputs that the options ask for."""
    wanted = {name: getattr(options, name) for name in (*FILES, *FOLDERS)}
    return {name: target for name, target in wanted.items() if target}


def check_video_outputs(options: PredictOptions, inputs: Sequence[Path | str], names: Sequence[str]) -> None:
    """Compare every file that will be written with those that are read, before anything is opened.

    Args:
        options: which outputs.
        inputs: videos, as files and addresses, and others such as the model.
        names: of the files written for each, as ``output_names`` gives them.

    Raises:
        UserError: an output is an input, or with ``no_clobber`` is there already.
    """
    files = {option: Path(target) for option, target in options.files().items() if target and target != STDOUT}
    if options.stretches and not Path(options.stretches).is_dir():
        files["--stretches"] = Path(options.stretches)
    for folder, target in targets_of(options).items():
        for name, ending in itertools.product(names, _ENDINGS.get(folder, ())):
            files[f"--{folder}: {name}{ending}"] = Path(target, name + ending)
    check_outputs(files, inputs, no_clobber=options.no_clobber)


class Writers(Writer):
    """Passes everything on to each writer. As a context it completes the files at the end, and if an error comes out
    leaves nothing half-written under a final name.

    Where a file of one video cannot be written, the others of that video are, and the tables say that this one failed.

    Args:
        options: which outputs.
        header: facts about the model, with its ``labels``.
        others: writers that were made elsewhere, by the name of their option.

    Raises:
        UserError: one of them cannot be written.
    """

    def __init__(
        self, options: PredictOptions, header: dict[str, Any], others: Mapping[str, Writer] = MappingProxyType({})
    ) -> None:
        self._all: dict[str, Writer] = dict(others)
        self._failed: dict[str, OutputError] = {}
        try:
            for name, target in targets_of(options).items():
                self._all[name] = (FILES | FOLDERS)[name](Path(target), header, options)
        except UserError:
            self.discard()
            raise

    def _tell(self, tell: Callable[[Writer], None], names: Iterable[str] | None = None) -> None:
        for name in self._all if names is None else names:
            if name in self._failed:
                continue
            try:
                tell(self._all[name])
            except OutputError as error:
                if name in FILES:  # for all videos
                    raise
                self._failed[name] = error
                self._all[name].discard()

    def begin_video(self, video: SourceVideo) -> None:
        """Begin a video: the calls that follow are of it."""
        self._failed.clear()
        self._tell(lambda writer: writer.begin_video(video))

    def window(self, prediction: Prediction, probabilities: NDArray[np.float32]) -> None:
        """Add a window."""
        self._tell(lambda writer: writer.window(prediction, probabilities))

    def segment(self, segment: Segment) -> None:
        """Add a segment."""
        self._tell(lambda writer: writer.segment(segment))

    def _wanting(self) -> list[str]:
        return [name for name, writer in self._all.items() if name not in self._failed and writer.wants_frames]

    @property
    def wants_frames(self) -> bool:
        """True if any of them wants the pictures of this video."""
        return bool(self._wanting())

    def frame(self, image: NDArray[np.uint8], time_seconds: float) -> None:
        """Add a picture, uint8 RGB ``[H, W, 3]``."""
        self._tell(lambda writer: writer.frame(image, time_seconds), self._wanting())

    def end_video(self, status: str, error: str) -> None:
        """End the video.

        Raises:
            OutputError: a file of this video could not be written; the tables say so.
        """
        self._tell(lambda writer: writer.end_video(status, error), [name for name in self._all if name not in FILES])
        failures = list(self._failed.values())
        if failures:
            status, error = ERROR, "; ".join(filter(None, [error, *map(str, failures)]))
        self._tell(lambda writer: writer.end_video(status, error), [name for name in self._all if name in FILES])
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Complete everything."""
        for writer in self._all.values():
            writer.close()

    def discard(self) -> None:
        """Discard every file that is not complete."""
        for writer in self._all.values():
            writer.discard()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()  # does nothing to a file that has its name


def output_names(videos: Sequence[Path]) -> list[str]:
    """Return the name of the files written for each video: its own without the suffix. If two videos share that, every
    name keeps its suffix, and then gets as many parent folders in front as it takes to tell them apart; only links to
    one file come to be numbered."""
    deepest = max((len(video.absolute().parts) for video in videos), default=0)
    tails = (
        ["_".join(part for part in path.absolute().parts[-depth:] if part != path.anchor) for path in videos]
        for depth in range(1, deepest)
    )
    names: list[str] = []
    for names in itertools.chain([[video.stem for video in videos]], tails):
        if _all_differ(names):
            return names
    counts = {name: itertools.count(1) for name in names}
    return [f"{name}-{next(counts[name])}" for name in names]


def _all_differ(names: Iterable[str]) -> bool:
    different = [folded(name) for name in names]
    return len(set(different)) == len(different)
