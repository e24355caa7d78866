"""The engine: a video in, scores out as the video runs.

Every grid frame is decoded once and passes the backbone once; so does the temporal heads' half that reads each frame
alone. Windows share the result, so overlap costs only the recurrence. Decoding runs ahead in a thread of its own.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Image, Prediction, Segment
from pipeline.config import DecodeConfig, InferenceConfig, TimelineConfig, TimelineNumbers, to_dict
from pipeline.decode import VideoOpener, VideoReader
from pipeline.embedding.arrays import Features, stacked
from pipeline.embedding.feature_file import FeatureOpener, FeatureReader
from pipeline.embedding.frames import FrameEmbedder
from pipeline.errors import UserError
from pipeline.hub import local_model
from pipeline.inference.ahead import read_ahead
from pipeline.inference.cores import CorePool
from pipeline.inference.frames import grid_frames
from pipeline.inference.runtime import ModelDescription, Runtime
from pipeline.inference.scorers import SCORERS, Scorer
from pipeline.inference.stats import RunStats
from pipeline.sampling import lengthen
from pipeline.timeline.scores import WindowScores
from pipeline.timeline.segments import Timeline
from pipeline.timeline.tracks import Tracks

if TYPE_CHECKING:
    from pipeline.checkpoint import ModelFile

# Batches of fitted frames that decoding may be ahead.
_BATCHES_AHEAD = 2


def load_model(path: str | Path, device: str = "auto") -> Model:
    """Reads a model file, or one that ``clipgru export`` wrote (``.onnx``), which runs without torch.

    Args:
        path: the file, or a text such as ``hf://owner/name@revision``, a model of the hub.
        device: ``auto``, ``cpu``, ``cuda``, ``mps`` or as torch writes them; an ONNX file runs on the CPU.

    Raises:
        UserError: the file is no model file, or the device is not there; the hub does not give it.
    """
    path = local_model(path) if isinstance(path, str) else path
    if Path(path).suffix.lower() == ".onnx":
        from pipeline.inference.onnx_runtime import load_onnx

        return Model(*load_onnx(Path(path), device))
    from pipeline.checkpoint import load_model_file

    return Model(load_model_file(path, device))


def _require_path(source: object) -> None:
    if not isinstance(source, str | Path):
        shape = f" of the shape {list(source.shape)}" if hasattr(source, "shape") else ""
        raise UserError(
            f"a model reads the path of one video file, not a {type(source).__name__}{shape}; write frames to a file, "
            "for example with PyAV, and call it once a file"
        )


class Model:
    """A model ready to predict.

    Attributes:
        file: labels and settings, and for a model in torch the recogniser.
        stats: what the last run did; filled as it runs.
        opener: opens videos as the file's decode settings say.
        fit: brings a picture to the size of the input.
        embed: makes features of them.
        heads: makes scores of features.
        cores: shares work among the cores of a CPU; where the runtime does that itself, the work stays whole.

    Args:
        file: what the model file holds.
        runtime: what runs it; unset: the file's recogniser, in torch.
    """

    def __init__(self, file: ModelDescription, runtime: Runtime | None = None) -> None:
        if runtime is None:
            from pipeline.inference.torch_runtime import torch_runtime

            runtime = torch_runtime(cast("ModelFile", file))
        self.file = file
        self.feature_form = runtime.feature_form
        self.stats = RunStats()
        self.open_as(file.decode)
        self.fit, self.embed, self.heads = runtime.fit, runtime.embed, runtime.heads
        self.cores = CorePool(runtime.num_pieces)
        self._process_id = os.getpid()

    def __repr__(self) -> str:
        sampling, size_px = self.file.sampling, self.file.transform.input_size_px
        return (
            f"<Model of {len(self.labels)} labels: {', '.join(self.labels[:4])}{', ...' * (len(self.labels) > 4)}; "
            f"{sampling.num_frames} frames at {sampling.sample_fps:g} a second, {size_px} px>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Model cannot be pickled or copied; send the path of its file, and call load_model there")

    def _require_own_process(self) -> None:
        if os.getpid() != self._process_id:  # the threads that would do the work are not there, and would be waited for
            raise UserError(
                f"the model was loaded in process {self._process_id} and is used in its fork {os.getpid()}, where it "
                "would hang; call load_model there, or start processes by multiprocessing's spawn"
            )

    def embedder(self) -> FrameEmbedder:
        """An embedder for one video or camera: fitted frames in, what its scorer is pushed out. It raises ``UserError``
        in a process that was forked after the model was loaded."""
        return FrameEmbedder(self._embed_frames, self.file.transform)

    def _embed_frames(self, frames: Image) -> Features:
        self._require_own_process()
        return self.cores.map(self.embed, frames)[:, 0]  # [n, 1, ...] -> [n, ...]

    def open_as(self, config: DecodeConfig) -> None:
        """Opens videos with other settings. A model of single frames opens pictures too."""
        self.opener: VideoOpener = (
            FeatureOpener(*self.feature_form)
            if self.feature_form
            else VideoOpener(config, opens_pictures=self.file.sampling.num_frames == 1)
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.file.labels

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that an output begins with: labels and sampling, and ``may_overlap`` where labels may."""
        facts = {"labels": list(self.labels), "sampling": to_dict(self.file.sampling)}
        return facts | {"may_overlap": True} if self.file.may_overlap else facts

    def predict(
        self, source: str | Path, *, config: InferenceConfig | None = None, top_k: int = 5
    ) -> Iterator[Prediction]:
        """Predictions for each window (or frame of a stream) of a video file, as they come.

        Raises:
            DecodeError: the file cannot be read.
            UserError: the source is no path.
        """
        _require_path(source)
        return self._predict(source, config, top_k)

    def _predict(
        self, source: str | Path, config: InferenceConfig | None, top_k: int
    ) -> Generator[Prediction, None, None]:
        with self.opener.open(source) as reader, closing(self.score_windows(reader, config)) as windows:
            end_seconds = reader.info.duration_seconds
            for scores in windows:
                yield self.prediction(scores, str(source), end_seconds, top_k)

    def segments(
        self, source: str | Path, *, config: InferenceConfig | None = None, timeline: TimelineConfig | None = None
    ) -> Iterator[Segment]:
        """The timeline of a video file: stretches of one label, as each is finished. Raises as ``predict``."""
        _require_path(source)
        return self._segments(source, config, timeline)

    def _segments(
        self, source: str | Path, config: InferenceConfig | None, timeline: TimelineConfig | None
    ) -> Generator[Segment, None, None]:
        with self.opener.open(source) as reader, closing(self.score_windows(reader, config)) as windows:
            end_seconds = reader.info.duration_seconds
            tracks = self.timeline(timeline, end_seconds)
            for scored in windows:
                yield from tracks.push(scored)
            yield from tracks.finish()

    def timeline(self, config: TimelineConfig | None = None, end_seconds: float = math.inf) -> Timeline | Tracks:
        """Makes segments of the scores of one source, of one label at a time or of several; by the numbers in the model
        file where ``config`` has none."""
        numbers, fps = self.file.timeline or TimelineNumbers(), self.file.sampling.sample_fps
        config = (config or TimelineConfig()).completed(numbers, self.file.sequence.background_label)
        if self.file.may_overlap:
            return Tracks(self.labels, fps, config, end_seconds, numbers.enter_thresholds)
        return Timeline(self.labels, fps, config, end_seconds)

    def prediction(self, scores: WindowScores, path: str, end_seconds: float, top_k: int) -> Prediction:
        """A window's scores, in seconds and words."""
        best = np.argsort(-scores.probabilities, kind="stable")[:top_k]
        ranked = tuple((self.labels[i], float(scores.probabilities[i])) for i in best)
        start, end = scores.window.seconds(self.file.sampling.sample_fps, end_seconds)
        return Prediction(path, start, end, ranked[0][0], ranked[0][1], ranked, scores.is_unknown)

    def scorer(self, config: InferenceConfig) -> Scorer:
        """A scorer for one video or camera.

        Raises:
            UserError: the model cannot do what the settings ask for, or was loaded before a fork.
        """
        self._require_own_process()
        return SCORERS[self.mode(config)](self.heads, self.file, config)

    def mode(self, config: InferenceConfig) -> Literal["windows", "stream", "whole"]:
        """The mode that is asked for, or else the one that the model was trained for."""
        if config.mode is not None:
            return config.mode
        if self.file.task == "clip":
            return "windows"
        return "stream" if self.heads.streams else "whole"

    def num_needed(self, config: InferenceConfig) -> int:
        """Grid frames before the first score."""
        return self.file.transform.frames_for(self.file.sampling.num_frames if self.mode(config) == "windows" else 1)

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
        read_to, num_before = 0, self.file.transform.frames_for(0)
        with closing(self._score(reader, config, stats)) as scored:
            for scores in scored:
                stats.windows += 1
                stats.frames_reused += max(0, read_to - scores.window.start)
                read_to = scores.window.stop - num_before
                yield scores

    def _score(
        self, reader: VideoReader, config: InferenceConfig, stats: RunStats
    ) -> Generator[WindowScores, None, None]:
        scorer, embedder = self.scorer(config), self.embedder()
        with closing(self._batches(reader, config, stats)) as batches:
            for frames in batches:
                with stats.timed("embed"):
                    projected = embedder.push(frames)
                if projected is None:
                    continue
                stats.frames_embedded += len(projected)
                with stats.timed("score"):
                    scored = scorer.push(projected)
                yield from scored
        with stats.timed("score"):
            scored = scorer.finish()
        yield from scored

    def _batches(
        self, reader: VideoReader, config: InferenceConfig, stats: RunStats
    ) -> Generator[Image | NDArray[np.float32], None, None]:
        """Fitted grid frames, uint8 ``[n, 3, S, S]``, or what a file of features has for them, ``[n, D]``."""
        if isinstance(reader, FeatureReader):
            features, sampling = reader.at_grid(self.file.sampling.sample_fps), self.file.sampling
            num_needed = max(len(features), self.num_needed(config))
            yield features[lengthen(range(len(features)), num_needed, sampling.short_video)]
            return
        frames = grid_frames(reader, self.file.sampling, self.fit, self.num_needed(config), stats)
        with closing(read_ahead(frames, _BATCHES_AHEAD * config.batch_size)) as ahead:
            while True:
                with stats.timed("wait"):
                    batch = list(itertools.islice(ahead, config.batch_size))
                if not batch:
                    return
                yield stacked(batch)
