"""``clipgru convert``: labelled stretches from one format to another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.datasets.timelines.frames import Clock, by_clock, clock_at, clock_of_file
from pipeline.datasets.timelines.losses import find_left_out
from pipeline.datasets.timelines.reading import read_timelines
from pipeline.datasets.timelines.rows import VideoFiles
from pipeline.datasets.timelines.writing import writable_format, write_labelled
from pipeline.errors import UserError
from pipeline.options import ConvertOptions
from pipeline.timeline.labelled import LabelledVideo


@dataclass
class _Clocks:
    """Finds the frames of videos: those of their files below a folder, or at a rate that is given."""

    folder: Path
    fps: float | None
    decode: DecodeConfig
    _files: VideoFiles | None = None
    _known: dict[Path, Clock] = field(default_factory=dict)

    def of(self, video: LabelledVideo) -> Clock:
        if self.fps is not None:
            return clock_at(self.fps, video.duration_seconds)
        path = self.path_of(video)
        if path is None:
            raise UserError(
                f"{video.name}: its labels count frames, and the video is not in {self.folder}; name its folder with "
                "--videos, or say its frames a second with --fps"
            )
        if path not in self._known:
            self._known[path] = clock_of_file(path, self.decode)
        return self._known[path]

    def path_of(self, video: LabelledVideo) -> Path | None:
        self._files = self._files or VideoFiles.below(self.folder, allow_links=True)
        return self._files.find(video)


def convert(source: Path, target: Path, options: ConvertOptions, decode: DecodeConfig) -> list[str]:
    """Read labelled stretches and write them in another format.

    Args:
        source: a file or folder.
        target: the file, or the folder.
        options: formats, and where frames are looked up.
        decode: to open videos with.

    Returns:
        What was left out and cannot be held, in words.

    Raises:
        UserError: the source is malformed, nothing is there, frames are counted and the video is not at hand, or the
            target cannot be written.
    """
    writable_format(options.to)
    videos = read_timelines(source, options.format, options.split)
    if not videos:
        raise UserError(f"{source}: no video" + (f" of the split {options.split!r}" if options.split else ""))
    folder = Path(options.videos or (source if source.is_dir() else source.parent))
    clocks = _Clocks(folder, options.fps, decode)
    timed = [by_clock(v, clocks.of(v)) if v.in_frames or v.steps is not None else v for v in videos]
    notes = find_left_out(videos, str(source))
    inputs = [path for path in (source, *source.rglob("*")) if path.is_file()]
    return notes + write_labelled(
        timed, target, options.to, clocks.of, path_of=clocks.path_of, inputs=inputs, no_clobber=options.no_clobber
    )
