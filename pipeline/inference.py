"""The engine: a video in, scores of sliding windows out as the video runs.

Every grid frame is decoded once and passes the backbone once. Its features stay in a ring of one window's length, and
every window that covers the frame reads them there, so overlap costs only the temporal head.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.clip import Prediction, Segment
from pipeline.config import TimelineConfig
from pipeline.decode import VideoOpener, VideoReader
from pipeline.errors import UserError
from pipeline.sampling import Window, grid_seconds, lengthen
from pipeline.timeline import WindowScores, merge_segments
from pipeline.transforms import ClipTransform, fit_frames


@dataclass
class RunStats:
    """What a run did."""

    frames_decoded: int = 0
    """Grid frames taken from the video."""
    frames_embedded: int = 0
    """Frames that passed the backbone."""
    windows: int = 0
    """Windows scored."""
    frames_reused: int = 0
    """Times a window read a frame's features without embedding it."""

    def __add__(self, other: RunStats) -> RunStats:
        return RunStats(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def load_model(path: str | Path, device: str = "auto") -> Model:
    """Reads a model file. ``device`` is ``auto``, ``cpu``, ``cuda``, ``mps`` or as torch writes them.

    Raises:
        UserError: the file is no model file, or the device is not there.
    """
    return Model(load_model_file(path, pick_device(device)))


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU if there is one.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: torch {torch.__version__} sees no CUDA GPU here; use --device cpu")
    return device


class Model:
    """A model ready to predict.

    Attributes:
        file: the recogniser, its labels and settings.
        stats: what the last run did; filled as it runs.
        opener: opens videos as the file's decode settings say.
    """

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.stats = RunStats()
        self.opener = VideoOpener(file.decode)
        self.device = next(file.recognizer.parameters()).device
        self._transform = ClipTransform(file.transform, file.normalization)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.file.labels

    @property
    def default_stride_frames(self) -> int:
        """A quarter of a window."""
        return max(1, self.file.sampling.num_frames // 4)

    def predict(
        self, source: str | Path, *, stride_frames: int | None = None, top_k: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction]:
        """Predictions for each window of a video file, as they come.

        Args:
            source: a video file.
            stride_frames: grid frames from one window's start to the next; default a quarter of a window.
            top_k: labels to report.
            batch_size: frames a backbone call.

        Raises:
            DecodeError: the file cannot be read.
        """
        with self.opener.open(source) as reader:
            end_seconds = reader.info.duration_seconds
            for scores in self.score_windows(reader, stride_frames=stride_frames, batch_size=batch_size):
                yield self.prediction(scores, str(source), end_seconds, top_k)

    def segments(
        self,
        source: str | Path,
        *,
        stride_frames: int | None = None,
        batch_size: int = 32,
        timeline: TimelineConfig | None = None,
    ) -> Iterator[Segment]:
        """The timeline of a video file: stretches of one label, as each is finished."""
        with self.opener.open(source) as reader:
            windows = self.score_windows(reader, stride_frames=stride_frames, batch_size=batch_size)
            end_seconds = reader.info.duration_seconds
            yield from merge_segments(windows, self.labels, self.file.sampling.sample_fps, end_seconds, timeline)

    def prediction(self, scores: WindowScores, path: str, end_seconds: float, top_k: int) -> Prediction:
        """A window's scores, in seconds and words."""
        probabilities = torch.from_numpy(scores.probabilities)
        best = probabilities.topk(min(top_k, len(self.labels)))
        ranked = tuple((self.labels[i], float(p)) for p, i in zip(best.values, best.indices.tolist(), strict=True))
        start, end = scores.window.seconds(self.file.sampling.sample_fps, end_seconds)
        return Prediction(path, start, end, ranked[0][0], ranked[0][1], ranked)

    @torch.inference_mode()
    def score_windows(
        self, reader: VideoReader, *, stride_frames: int | None = None, batch_size: int = 32
    ) -> Iterator[WindowScores]:
        """Probabilities of each window over an open video, in bounded memory at any length and overlap.

        Windows start every ``stride_frames`` grid frames; a last one ends with the video if the stride does not land
        there. A video shorter than a window makes one window, lengthened as the model's ``short_video`` says.
        """
        stride = self.default_stride_frames if stride_frames is None else stride_frames
        if stride < 1:
            raise UserError(f"stride_frames must be at least 1, got {stride}")
        self.stats = RunStats()
        groups = _window_groups(self._embed(reader, batch_size), self.file.sampling.num_frames, stride)
        for windows, features in _batches(groups, max(1, batch_size // 4)):
            yield from self._score(windows, features)

    def _grid_frames(self, reader: VideoReader) -> Iterator[Tensor]:
        """Fitted grid frames uint8 ``[3, S, S]``, in order; at least as many as one clip needs."""
        fps, transform = self.file.sampling.sample_fps, self.file.transform
        needed = self.file.sampling.num_frames + transform.num_context_frames
        frames = (
            fit_frames(frame.unsqueeze(0), transform)[0]
            for frame, _ in reader.stream_at(time for k in itertools.count() for time in grid_seconds([k], fps))
        )
        first = list(itertools.islice(frames, needed))
        self.stats.frames_decoded = len(first)
        if len(first) < needed:
            yield from (first[i] for i in lengthen(range(len(first)), needed, self.file.sampling.short_video))
            return
        yield from first
        for frame in frames:
            self.stats.frames_decoded += 1
            yield frame

    def _embed(self, reader: VideoReader, batch_size: int) -> Iterator[Tensor]:
        """Features ``[D, ...]`` of each grid frame after the context frames, in order."""
        context = self.file.transform.num_context_frames
        frames = self._grid_frames(reader)
        carried = list(itertools.islice(frames, context))
        while batch := list(itertools.islice(frames, batch_size)):
            pictures = torch.stack([*carried, *batch]).to(self.device)  # [n + context, 3, S, S]
            features = self.file.recognizer.embed(self._transform.evaluate(pictures))
            carried = [*carried, *batch][len(batch) :]
            self.stats.frames_embedded += len(batch)
            yield from features

    def _score(self, windows: list[Window], features: Tensor) -> Iterator[WindowScores]:
        recognizer = self.file.recognizer
        step_scores, _ = recognizer.score(features)
        probabilities = recognizer.read_out(step_scores).float().softmax(dim=-1).cpu().numpy()
        context = self.file.transform.num_context_frames  # a window of changes reaches one picture further
        for window, row in zip(windows, probabilities, strict=True):
            self.stats.windows += 1
            yield WindowScores(Window(window.start, window.stop + context), row)
        self.stats.frames_reused = self.stats.windows * features.shape[1] - self.stats.frames_embedded


def _window_groups(features: Iterable[Tensor], num_frames: int, stride: int) -> Iterator[tuple[Window, Tensor]]:
    """Each window and its features ``[T, D, ...]``, from features that are read once."""
    ring: deque[Tensor] = deque(maxlen=num_frames)
    count, last_start = 0, -1
    for feature in features:
        ring.append(feature)
        count += 1
        start = count - num_frames
        if start >= 0 and start % stride == 0:
            last_start = start
            yield Window(start, count), torch.stack(tuple(ring))
    if count - num_frames > last_start:
        yield Window(count - num_frames, count), torch.stack(tuple(ring))


def _batches(groups: Iterable[tuple[Window, Tensor]], size: int) -> Iterator[tuple[list[Window], Tensor]]:
    iterator = iter(groups)
    while batch := list(itertools.islice(iterator, size)):
        yield [window for window, _ in batch], torch.stack([features for _, features in batch])
