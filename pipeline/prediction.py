"""Prediction over many files: find them, run the model over each, write windows and segments as they come.

A file that cannot be read becomes an error record; the others are done all the same.
"""

from __future__ import annotations

import glob
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from pipeline.clip import Segment
from pipeline.config import InferenceConfig, TimelineConfig, to_dict
from pipeline.datasets.annotations import VIDEO_SUFFIXES
from pipeline.errors import DecodeError, UserError
from pipeline.files import write_atomically
from pipeline.inference import Model, RunStats
from pipeline.options import PredictOptions
from pipeline.report import PredictionWriter
from pipeline.timeline import WindowScores, merge_segments


def find_videos(sources: Sequence[str]) -> list[Path]:
    """The video files that the sources name: files as given, folders searched whole, patterns expanded; in order.

    Raises:
        UserError: a source names nothing.
    """
    videos: dict[Path, None] = {}
    for source in sources:
        found = _expand(source)
        if not found:
            raise UserError(f"{source}: no video there (a file, a folder with videos, or a pattern in quotes)")
        videos.update(dict.fromkeys(found))
    return list(videos)


def _expand(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file())
    if path.exists():
        return [path]
    return sorted(Path(match) for match in glob.glob(source, recursive=True) if Path(match).is_file())


def predict_files(model: Model, videos: Sequence[Path], options: PredictOptions, console: Console) -> int:
    """Predicts every video and writes what ``options`` asks for. Returns 0, or 1 if a video could not be read."""
    sampling = model.file.sampling
    if sampling.mode == "uniform" and not options.quiet:
        window_seconds = sampling.num_frames / sampling.sample_fps
        note = f"this model learned from frames spread over whole clips; here it sees {window_seconds:.1f} s at a time"
        console.print(f"note: {note}", soft_wrap=True)
    to_stdout = options.json == "-"
    with tempfile.TemporaryDirectory() as scratch:
        json_path = Path(scratch) / "stdout.json" if to_stdout else Path(options.json) if options.json else None
        header = {"labels": model.labels, "sampling": to_dict(model.file.sampling)}
        failed, total = 0, RunStats()
        with PredictionWriter(json_path, Path(options.csv) if options.csv else None, header) as writer:
            for path in videos:
                error = _predict_file(model, path, options, writer, console)
                failed += bool(error)
                total = total + model.stats
        if to_stdout and json_path:
            sys.stdout.write(json_path.read_text())
    if options.stats:
        write_atomically(Path(options.stats), json.dumps(asdict(total), indent=1).encode())
    if not options.quiet:
        for written in (options.json, options.csv, options.stats):
            if written and written != "-":
                console.print(f"written: {written}", soft_wrap=True)
    return 1 if failed else 0


def _predict_file(model: Model, path: Path, options: PredictOptions, writer: PredictionWriter, console: Console) -> str:
    """Returns the error, or nothing."""
    name, begun = str(path), False
    segments: list[Segment] = []
    timeline = TimelineConfig(min_seconds=options.min_segment_seconds)
    inference = InferenceConfig(stride_frames=options.stride_frames, batch_size=options.batch_size)
    try:
        with model.opener.open(path) as reader:
            end_seconds = reader.info.duration_seconds
            writer.begin_video(name, end_seconds)
            begun = True
            windows = model.score_windows(reader, inference)
            shown = _show_progress(windows, path.name, model, end_seconds, options.quiet, console)
            noted = _note(shown, model, writer, name, end_seconds, options.top_k)
            fps = model.file.sampling.sample_fps
            segments.extend(merge_segments(noted, model.labels, fps, end_seconds, timeline))
    except DecodeError as error:
        if begun:
            writer.end_video(name, segments, str(error))
        else:
            writer.failed_video(name, str(error))
        console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        return str(error)
    writer.end_video(name, segments)
    if not options.quiet and options.json != "-":
        _print_segments(name, segments)
    return ""


def _note(
    windows: Iterator[WindowScores], model: Model, writer: PredictionWriter, name: str, end_seconds: float, top_k: int
) -> Iterator[WindowScores]:
    for scores in windows:
        writer.window(model.prediction(scores, name, end_seconds, top_k))
        yield scores


def _show_progress(
    windows: Iterator[WindowScores], name: str, model: Model, end_seconds: float, quiet: bool, console: Console
) -> Iterator[WindowScores]:
    fps = model.file.sampling.sample_fps
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(name, total=end_seconds)
        for scores in windows:
            progress.update(task, completed=scores.window.stop / fps)
            yield scores


def _print_segments(name: str, segments: Sequence[Segment]) -> None:
    print(name)
    for segment in segments:
        print(f"  {segment.start_seconds:9.2f} - {segment.end_seconds:9.2f} s  {segment.score:5.1%}  {segment.label}")
    if not segments:
        print("  no action found")
