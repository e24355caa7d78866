"""The engine: a video in, scores out as the video runs.

Every grid frame is decoded once and passes the backbone once; so does the temporal heads' half that reads each frame
alone. Windows share the result, so overlap costs only the recurrence. Decoding runs ahead in a thread of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.clip import Prediction, Segment
from pipeline.config import InferenceConfig, TimelineConfig
from pipeline.decode import VideoOpener, VideoReader
from pipeline.errors import UserError
from pipeline.inference.ahead import read_ahead
from pipeline.inference.frames import Embedder, grid_frames
from pipeline.inference.scorers import SCORERS, Scorer
from pipeline.inference.stats import RunStats
from pipeline.timeline import WindowScores, merge_segments

# Batches of fitted frames that decoding may be ahead.
_BATCHES_AHEAD = 2


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
        embed: uint8 ``[B, T + context, 3, S, S]`` -> what a scorer is pushed, ``[B, T, ...]``.
    """

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.stats = RunStats()
        self.opener = VideoOpener(file.decode)
        self.device = next(file.recognizer.parameters()).device
        self.embed = Embedder(file)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.file.labels

    def predict(
        self, source: str | Path, *, config: InferenceConfig | None = None, top_k: int = 5
    ) -> Iterator[Prediction]:
        """Predictions for each window (or frame of a stream) of a video file, as they come.

        Raises:
            DecodeError: the file cannot be read.
        """
        with self.opener.open(source) as reader, closing(self.score_windows(reader, config)) as windows:
            end_seconds = reader.info.duration_seconds
            for scores in windows:
                yield self.prediction(scores, str(source), end_seconds, top_k)

    def segments(
        self, source: str | Path, *, config: InferenceConfig | None = None, timeline: TimelineConfig | None = None
    ) -> Iterator[Segment]:
        """The timeline of a video file: stretches of one label, as each is finished."""
        with self.opener.open(source) as reader, closing(self.score_windows(reader, config)) as windows:
            end_seconds = reader.info.duration_seconds
            yield from merge_segments(windows, self.labels, self.file.sampling.sample_fps, end_seconds, timeline)

    def prediction(self, scores: WindowScores, path: str, end_seconds: float, top_k: int) -> Prediction:
        """A window's scores, in seconds and words."""
        probabilities = torch.from_numpy(scores.probabilities)
        best = probabilities.topk(min(top_k, len(self.labels)))
        ranked = tuple((self.labels[i], float(p)) for p, i in zip(best.values, best.indices.tolist(), strict=True))
        start, end = scores.window.seconds(self.file.sampling.sample_fps, end_seconds)
        return Prediction(path, start, end, ranked[0][0], ranked[0][1], ranked, scores.is_unknown)

    def scorer(self, config: InferenceConfig) -> Scorer:
        """A scorer for one video or camera.

        Raises:
            UserError: the model cannot do what the settings ask for.
        """
        context = self.file.transform.num_context_frames
        return SCORERS[config.mode](self.file.recognizer, self.file.sampling, config, context, self.file.calibration)

    @torch.inference_mode()
    def score_windows(
        self, reader: VideoReader, config: InferenceConfig | None = None
    ) -> Generator[WindowScores, None, None]:
        """Probabilities of each window, or of each frame of a stream, over an open video, in bounded memory.

        Windows start every ``stride_frames`` grid frames; a last one ends with the video if the stride does not land
        there. A video shorter than a window makes one window, lengthened as the model's ``short_video`` says. Close
        this generator before the reader.

        Raises:
            DecodeError: a frame cannot be decoded.
            UserError: the model cannot do what the settings ask for.
        """
        config = config or InferenceConfig()
        stats = self.stats = RunStats()
        context, read_to = self.file.transform.num_context_frames, 0
        with closing(self._score(reader, config, stats)) as scored:
            for scores in scored:
                stats.windows += 1
                stats.frames_reused += max(0, read_to - scores.window.start)
                read_to = scores.window.stop - context
                yield scores

    def _score(
        self, reader: VideoReader, config: InferenceConfig, stats: RunStats
    ) -> Generator[WindowScores, None, None]:
        scorer = self.scorer(config)
        with closing(self._batches(reader, config, stats)) as batches:
            for frames in batches:
                with stats.timed("embed"):
                    projected = self.embed(frames.unsqueeze(0))[0]
                stats.frames_embedded += len(projected)
                with stats.timed("score"):
                    scored = scorer.push(projected)
                yield from scored
        with stats.timed("score"):
            scored = scorer.finish()
        yield from scored

    def _batches(self, reader: VideoReader, config: InferenceConfig, stats: RunStats) -> Generator[Tensor, None, None]:
        """Fitted grid frames uint8 ``[n + context, 3, S, S]``: each batch begins with the context the one before ends
        with."""
        sampling, context = self.file.sampling, self.file.transform.num_context_frames
        num_needed = context + (sampling.num_frames if config.mode == "windows" else 1)
        frames = grid_frames(reader, sampling, self.file.transform, num_needed, stats)
        with closing(read_ahead(frames, _BATCHES_AHEAD * config.batch_size)) as ahead:
            carried = list(itertools.islice(ahead, context))
            while True:
                with stats.timed("wait"):
                    batch = list(itertools.islice(ahead, config.batch_size))
                if not batch:
                    return
                yield torch.stack([*carried, *batch])
                carried = [*carried, *batch][len(batch) :]
