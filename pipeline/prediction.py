"""Prediction over many files: find them, run the model over each, write windows and segments as they come.

A file that cannot be read becomes an error record; the others are done all the same.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress

from pipeline.buckets import is_bucket_address, source_path
from pipeline.clip import Segment
from pipeline.datasets.annotations import list_videos
from pipeline.datasets.tables import MANIFEST_SUFFIXES, read_manifest_rows
from pipeline.datasets.timelines.predicted import StretchesFile
from pipeline.datasets.timelines.reading import other_format_of, read_timelines
from pipeline.datasets.timelines.rows import VideoFiles
from pipeline.decode import VideoReader
from pipeline.decode.picture import PICTURE_SUFFIXES
from pipeline.decode.remote import is_url
from pipeline.errors import DecodeError, UserError
from pipeline.files.failures import STDOUT, OutputError
from pipeline.files.stopping import StopRequest
from pipeline.files.writing import OutputFile
from pipeline.inference import Model, RunStats
from pipeline.options import PredictOptions, name_sources
from pipeline.report.own import is_own
from pipeline.report.records import ERROR, INTERRUPTED, OK, SourceVideo, Writer, by_start, readable
from pipeline.report.writers import Writers, check_video_outputs, output_names, targets_of
from pipeline.schema import to_json
from pipeline.sources import VIDEO_SUFFIXES, file_name_of, is_video, shown_path, shown_source
from pipeline.terminal import PlainConsole, printable, say
from pipeline.timeline.scores import WindowScores


def find_videos(
    sources: Sequence[str],
    allow_url: bool = False,
    *,
    pictures: bool = False,
    note: Callable[[str], object] | None = None,
) -> list[Path | str]:
    """The videos that the sources name: files as given, folders searched whole (with ``pictures`` for these too),
    patterns expanded, lists followed (.txt: a source a line, seen from the list's folder; .csv, .jsonl: a manifest as
    for training); in order, each once. Addresses stay texts. Videos that ``predict`` wrote itself are left out of
    folders and patterns, and ``note`` is told of them.

    Raises:
        UserError: a source names nothing, or is an address and none is allowed.
    """
    suffixes = VIDEO_SUFFIXES | PICTURE_SUFFIXES if pictures else VIDEO_SUFFIXES
    videos: dict[Path | str, None] = {}
    own: list[Path] = []
    for source in sources:
        suffix = Path(source).suffix.lower() if os.path.isfile(source) else ""  # an address may be too long for a Path
        if suffix == ".txt":
            found = _read_list(Path(source), allow_url, suffixes, own)
        elif suffix and (format := other_format_of(Path(source))):
            files = VideoFiles.below(Path(source).parent, allow_links=True)
            listed = read_timelines(Path(source), format)
            found = [files.find(video) or Path(source).parent / video.name for video in listed]
        elif suffix in MANIFEST_SUFFIXES:
            splits = read_manifest_rows(Path(source).parent, Path(source), of_timelines=True).splits
            found = [row.path for rows in splits.values() for row in rows]  # missing files stay, as in a list
        else:
            found = _expand(source, allow_url, suffixes, own)
        if not found:
            cure = "a file, a folder with videos, a .txt list, a quoted pattern"
            raise UserError(f"{shown_source(source)}: no video there ({cure})")
        videos.update(dict.fromkeys(found))
    if own and note:
        said = f"left out: {len(own)} videos that an earlier run wrote, such as {own[0]}"
        note(f"{said}; name them to have them predicted")
    return list(videos)


def passed_over(sources: Sequence[str]) -> list[str]:
    """Return what to say of linked folders and files of unknown kinds in those sources that are folders."""
    folders = [Path(source) for source in sources if Path(source).is_dir()]
    cure = "Name them as well, if they are meant"
    return [f"in {folder} {note}" for folder in folders for note in list_videos(folder).notes(folder, cure)]


def _read_list(path: Path, allow_url: bool, suffixes: Set[str], own: list[Path]) -> list[Path | str]:
    """A line that names nothing stays as it is: a missing file of many becomes a record, it does not stop the rest."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of videos ({error}); write one path a line") from error
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    found: list[Path | str] = []
    for line in named:
        source = line if is_url(line) else str(path.parent / line)
        found += _expand(source, allow_url, suffixes, own) or [Path(source)]
    return found


def _expand(source: str, allow_url: bool, suffixes: Set[str], own: list[Path]) -> list[Path | str]:
    if is_url(source):
        if not allow_url:
            cure = "--decode.allow_url true lets it be fetched"
            raise UserError(f"{shown_source(source)}: an address, and only local files are read; {cure}")
        return _objects(source, suffixes) if is_bucket_address(source) else [source]
    path = Path(source)
    if path.is_dir():
        listing = list_videos(path, suffixes)
        own += listing.own
        return [video for video in listing.videos if video.is_file()]
    if path.exists():
        return [path]
    others: list[Path | str] = []
    for file in sorted(match for match in _matches(source) if match.is_file()):
        (own if is_own(file) else others).append(file)
    return others


def _objects(address: str, suffixes: Set[str]) -> list[Path | str]:
    """An object as it is, which need not be there; of a folder the videos below."""
    if is_video(address.rstrip("/").rpartition("/")[2], suffixes):
        return [address]
    return [str(path) for path in list_videos(source_path(address), suffixes).videos]


def _matches(pattern: str) -> list[Path]:
    """Paths that a pattern matches. Brackets are literal in its leading folders that exist as they are written and, if
    nothing matches, in all of it: a[1]/*.mp4, b[2]*.mp4."""
    parts = Path(pattern).parts
    num_plain = next((count for count in range(len(parts), 0, -1) if Path(*parts[:count]).exists()), 0)
    folder, rest = glob.escape(str(Path(*parts[:num_plain]))), parts[num_plain:]
    found = glob.glob(os.path.join(folder, *rest), recursive=True)
    return [Path(match) for match in found or glob.glob(pattern.replace("[", "[[]"), recursive=True)]


def predict_files(
    model: Model,
    videos: Sequence[Path | str],
    options: PredictOptions,
    console: PlainConsole,
    inputs: Sequence[Path | str] = (),
) -> int:
    """Predicts every video and writes what ``options`` asks for.

    SIGINT, SIGTERM or SIGHUP ends the run at the next window or picture: the video at hand is completed as
    ``interrupted`` with what was seen of it, and the others are left out.

    Args:
        model: what predicts.
        videos: files and addresses.
        options: how, and the outputs.
        console: for what is said to people.
        inputs: what else no output may be written over, such as the model's file.

    Returns:
        0; 1 if a video could not be read; 128 + the signal if the run was interrupted.

    Raises:
        UserError: an output cannot be written, or there are not as many names as videos.
    """
    names = name_sources([shown_path(readable(path)) for path in videos], options.name)
    files = output_names([_output_file(path, name) for path, name in itertools.zip_longest(videos, options.name)])
    _note_uniform(model, options, console)
    failed, done, total = 0, 0, RunStats()
    check_video_outputs(options, [*videos, *inputs], files)
    with StopRequest().listening() as stop, ExitStack() as outputs:
        stats = options.stats and outputs.enter_context(OutputFile(Path(options.stats), no_clobber=options.no_clobber))
        others = _other_writers(options, [*videos, *inputs], console)
        run = VideoRun(model, options, outputs.enter_context(Writers(options, model.facts, others)), stop, console)
        for path, name, file in zip(videos, names, files, strict=True):
            if stop:
                break
            status = run.predict(path, name, file)
            failed, done = failed + (status == ERROR), done + (status != INTERRUPTED)
            total = total + model.stats
        if stats:
            stats.write(to_json(asdict(total), indent=1) + "\n")
    if stop:
        console.print(f"interrupted: {done} of {len(videos)} videos done; what was seen is written")
    if not options.quiet:
        for written in dict.fromkeys((*targets_of(options).values(), options.stretches, options.stats)):
            if written and written != STDOUT:
                folder = "/" if Path(written).is_dir() else ""
                console.print(f"written: {written}{folder}")
    return stop.exit_code or (1 if failed else 0)


def _other_writers(options: PredictOptions, inputs: Sequence[Path | str], console: PlainConsole) -> dict[str, Writer]:
    if not options.stretches:
        return {}

    def tell(note: str) -> None:
        if not options.quiet:
            console.print(f"note: {note}")

    target, no_clobber = Path(options.stretches), options.no_clobber
    return {"stretches": StretchesFile(target, options.format, tell, inputs=inputs, no_clobber=no_clobber)}


def _output_file(path: Path | str, name: str | None) -> Path:
    if name is not None:
        return Path(re.sub(r"[^\w-]+", "_", name).strip("_") or "video")
    return Path(file_name_of(path)) if isinstance(path, str) else path


def _note_uniform(model: Model, options: PredictOptions, console: PlainConsole) -> None:
    sampling = model.file.sampling
    if sampling.mode == "uniform" and not options.quiet:
        window_seconds = sampling.num_frames / sampling.sample_fps
        note = f"this model learned from frames spread over whole clips; here it sees {window_seconds:.1f} s at a time"
        console.print(f"note: {note}")


class VideoRun:
    """One run over videos: what each of them needs.

    Args:
        stop: looked at after each window and picture.
        console: errors and a bar go there, the segments to standard output; ``options.quiet`` leaves the errors.
    """

    def __init__(
        self, model: Model, options: PredictOptions, writers: Writer, stop: StopRequest, console: PlainConsole
    ) -> None:
        self._model, self._options, self._writers = model, options, writers
        self._stop, self._console = stop, console

    def predict(self, path: Path | str, name: str, file: str = "") -> str:
        """Scores, segments, then pictures if a writer wants them. Returns the status.

        Args:
            path: what is opened.
            name: what it is called.
            file: what its files are called, without a suffix.
        """
        video, segments, error = SourceVideo(name, file), list[Segment](), ""
        try:
            with self._model.opener.open(path) as reader:
                video = replace(video, info=reader.info)
                self._writers.begin_video(video)
                with closing(self._score(reader, video)) as found:
                    for segment in found:
                        self._writers.segment(segment)
                        segments.append(segment)
                if self._writers.wants_frames and not self._stop:
                    self._pass_frames(reader)
        except DecodeError as problem:
            error = f"{name}: {problem.stage}: {problem.cause}"
        if video.info is None:
            self._writers.begin_video(video)
        status = ERROR if error else INTERRUPTED if self._stop else OK
        try:
            self._writers.end_video(status, error)
        except OutputError as problem:
            status, error = ERROR, error or str(problem)
        if error:
            self._console.print(f"error: {error}", style="red")
        elif not self._options.quiet:
            _print_segments(video.path, segments, is_piped=STDOUT in self._options.files().values())
        return status

    def _score(self, reader: VideoReader, video: SourceVideo) -> Generator[Segment, None, None]:
        """One pass of the model: windows go to the writers, segments come out as they are final. Of a video that cannot
        be read to its end, those come out that were seen before the error does."""
        model, options, end_seconds = self._model, self._options, video.duration_seconds
        timeline = model.timeline(options.timeline, end_seconds)
        try:
            with (
                closing(model.score_windows(reader, options.inference)) as windows,
                closing(self._shown(windows, Path(video.path).name, end_seconds)) as shown,
            ):
                for scores in shown:
                    prediction = model.prediction(scores, video.path, end_seconds, options.top_k)
                    self._writers.window(prediction, scores.probabilities)
                    yield from timeline.push(scores)
                    if self._stop:
                        break
        except DecodeError:
            yield from timeline.finish()
            raise
        yield from timeline.finish()

    def _pass_frames(self, reader: VideoReader) -> None:
        """A second decode, now that all windows and segments are known."""
        with closing(reader.images()) as images:
            for image, time_seconds in images:
                self._writers.frame(image, time_seconds)
                if self._stop:
                    break

    def _shown(
        self, windows: Iterator[WindowScores], name: str, end_seconds: float
    ) -> Generator[WindowScores, None, None]:
        """The windows, with a bar on a terminal. Standard output is left alone: answers may be going there."""
        fps, hidden = self._model.file.sampling.sample_fps, self._options.quiet or not self._console.is_terminal
        with Progress(console=self._console, transient=True, redirect_stdout=False, disable=hidden) as progress:
            task = progress.add_task(escape(printable(name)), total=end_seconds)
            for scores in windows:
                progress.update(task, completed=scores.window.stop / fps)
                yield scores


def _print_segments(name: str, segments: Sequence[Segment], is_piped: bool) -> None:
    """For people; to standard error where standard output has the data."""
    lines = [
        f"  {item.start_seconds:9.2f} - {item.end_seconds:9.2f} s  {item.score:5.1%}  {printable(item.label)}"
        for item in by_start(segments)
    ]
    say("\n".join([printable(name), *(lines or ["  no action found"])]), sys.stderr if is_piped else sys.stdout)
