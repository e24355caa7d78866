"""Sliding windows with shared features against computing every window anew, and how the time grows with the video."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import av
import numpy as np
import torch
from torch import Tensor

from benchmarks.memory import peak_growth_mb
from benchmarks.tables import Findings, Table
from benchmarks.timing import Times, interleaved
from pipeline.checkpoint import ModelFile
from pipeline.config import DecodeConfig, InferenceConfig, ModelConfig, SamplingConfig, TransformConfig
from pipeline.decode import open_video
from pipeline.inference import Model, RunStats
from pipeline.inference.frames import grid_frames
from pipeline.inference.torch_runtime import Embedder
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.frames import ClipTransform

BATCH_SIZE, SIZE_PX = 32, 224
STRIDES = (1, 4, 16)
VIDEO_SECONDS, LONG_SECONDS, LENGTHS_MINUTES = 60, 600, (1, 10, 30, 120)
DECODE, BACKBONE, SHARED, RECOMPUTED = "decode alone", "backbone alone", "windows, shared", "windows, recomputed"
Models = dict[str, ModelConfig]
# The last layer of the bundled backbone makes 1280 channels of 320: a ConvGRU then spends most of its time on them.
MODELS: Models = {
    "lite0, ConvGRU 128": ModelConfig(),
    "lite0 without its last layer, ConvGRU 64": ModelConfig(num_stages=8, hidden_channels=64),
    "lite0, GRU 128": ModelConfig(heads=("gru",)),
}
_CONTESTANTS = (
    "Shared: the engine. Recomputed: the same code, every window from its own frames. Alone: decoding and fitting the "
    "grid frames, and the backbone over them, each by itself; on a CPU their sum, on a GPU the larger."
)
LONG_NAME = "lite0 without its last layer, ConvGRU 64"


def make_file(config: ModelConfig, size_px: int, device: str) -> ModelFile:
    """Untrained heads: weights do not matter for time."""
    recognizer = Recognizer(config, num_classes=10).eval().to(device)
    transform = TransformConfig(fit_size_px=size_px, input_size_px=size_px)
    return ModelFile(recognizer, tuple("0123456789"), SamplingConfig(), transform, DecodeConfig())


def model_of(config: ModelConfig, size_px: int, device: str) -> Model:
    """The same, at work."""
    return Model(make_file(config, size_px, device))


def make_video(path: Path, seconds: int, fps: int = 25, seed: int = 0) -> None:
    """A 320x240 H.264 video of moving noise."""
    base = np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(seconds * fps):
            picture = np.roll(base // 4 + 96, number % 320, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


class Task:
    """One video, one model: the four things that are timed. Each returns when all its work is done."""

    def __init__(self, model: Model, path: Path, stride: int, device: str) -> None:
        assert isinstance(model.file, ModelFile)
        assert isinstance(model.embed, Embedder)
        self.model, self.path, self.device = model, path, device
        self.recognizer, self.backbone_network = model.file.recognizer, model.embed.backbone
        self.config = InferenceConfig(stride_frames=stride, batch_size=BATCH_SIZE)
        self.transform = ClipTransform(model.file.transform, model.file.normalization)
        self.fitted = list(self._grid())

    def contestants(self) -> dict[str, Callable[[], object]]:
        return {
            DECODE: self.decode,
            BACKBONE: self.backbone,
            SHARED: self.shared,
            RECOMPUTED: self.recomputed,
        }

    def _grid(self) -> Iterator[Tensor]:
        file = self.model.file
        with open_video(self.path) as reader:
            frames = grid_frames(reader, file.sampling, self.model.fit, 1, RunStats())
            with closing(frames):
                yield from map(torch.from_numpy, frames)

    def decode(self) -> None:
        for _ in self._grid():
            pass

    @torch.inference_mode()
    def backbone(self) -> None:
        """Over the fitted frames, in memory already, in the batches of a run."""
        for start in range(0, len(self.fitted), BATCH_SIZE):
            frames = torch.stack(self.fitted[start : start + BATCH_SIZE])
            self.model.cores.map(self._features, frames)

    def _features(self, frames: Tensor) -> Tensor:
        """uint8 ``[n, 3, S, S]`` -> ``[n, D, ...]``."""
        pictures = self.transform.evaluate(frames.to(self.device))
        return self.recognizer.embed(pictures, self.backbone_network)

    def shared(self) -> None:
        with open_video(self.path) as reader, closing(self.model.score_windows(reader, self.config)) as scored:
            for _ in scored:
                pass

    @torch.inference_mode()
    def recomputed(self) -> None:
        """Every window cut out and run whole; as many at a time as make the same batches for the backbone."""
        num_frames, stride = self.model.file.sampling.num_frames, self.config.stride_frames or 1
        frames, recognizer = list(self._grid()), self.recognizer
        starts = iter(range(0, len(frames) - num_frames + 1, stride))
        while some := list(itertools.islice(starts, BATCH_SIZE // num_frames)):
            pictures = torch.stack([frame for start in some for frame in frames[start : start + num_frames]])
            features = self.model.cores.map(self._features, pictures)
            clips = features.unflatten(0, (len(some), num_frames))  # [B T, ...] -> [B, T, ...]
            recognizer.classify(clips).softmax(dim=-1).cpu()


def compare(path: Path, name: str, stride: int, device: str, rounds: int) -> dict[str, float | None]:
    """One row: milliseconds a grid frame, and ratios."""
    task = Task(model_of(MODELS[name], SIZE_PX, device), path, stride, device)
    times = interleaved(task.contestants(), rounds, device, num_warm_ups=1)
    row: dict[str, float | None] = {
        f"{way}, ms a frame": times.milliseconds(way) / len(task.fitted) for way in task.contestants()
    }
    row["recomputed / shared"] = times.ratio(RECOMPUTED, SHARED)
    row["shared / alone"] = _share(times, device)
    task.shared()
    stats = task.model.stats
    row |= {"frames": len(task.fitted), "embedded": stats.frames_embedded, "windows": stats.windows}
    return row


def _share(times: Times, device: str) -> float:
    return times.share_of_parts(SHARED, [DECODE, BACKBONE], overlap=device != "cpu")


def long_rows(name: str, device: str, rounds: int) -> dict[str, dict[str, float | None]]:
    """Ten minutes at each stride: counts. And all times at the stride in the middle, as the way without shared features
    takes a frame 16 / stride times."""
    rows: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ten_minutes.mp4"
        make_video(path, LONG_SECONDS)
        for stride in STRIDES:
            task = Task(model_of(MODELS[name], SIZE_PX, device), path, stride, device)
            ways = task.contestants() if stride == STRIDES[1] else {SHARED: task.shared}
            times = interleaved(ways, rounds if len(ways) > 1 else 1, device, num_warm_ups=0)
            timed = {way: times.milliseconds(way) / 1e3 for way in ways}
            stats = task.model.stats
            rows[f"stride {stride}"] = {
                "grid frames": len(task.fitted),
                "decoded": stats.frames_decoded,
                "embedded": stats.frames_embedded,
                "windows": stats.windows,
                "reused": stats.frames_reused,
                **{f"{way}, s": timed.get(way) for way in task.contestants()},
                "recomputed / shared": times.ratio(RECOMPUTED, SHARED) if len(ways) > 1 else None,
                "shared / alone": _share(times, device) if len(ways) > 1 else None,
            }
    return rows


def lengths(device: str) -> dict[str, dict[str, float | None]]:
    """Rows over the length of the video: seconds a minute of video, and growth of memory."""
    model = model_of(ModelConfig(num_stages=3, hidden_channels=16), 64, device)
    rows: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes in LENGTHS_MINUTES:
            path = Path(folder) / f"{minutes}.mp4"
            make_video(path, 60 * minutes)
            start = perf_counter()

            def run(path: Path = path) -> None:
                with open_video(path) as reader, closing(model.score_windows(reader)) as scored:
                    for _ in scored:
                        pass

            growth_mb = peak_growth_mb(run)
            seconds = perf_counter() - start
            stats = asdict(model.stats)
            rows[f"{minutes} min"] = {
                "seconds": seconds,
                "seconds a minute of video": seconds / minutes,
                "memory growth, MB": growth_mb,
                "frames embedded": stats["frames_embedded"],
            }
            path.unlink()
    return rows


def measure(device: str, rounds: int, compiles: bool) -> Findings:
    """Windows against recomputation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "minute.mp4"
        make_video(path, VIDEO_SECONDS)
        rows = {
            f"{name}, stride {stride}": compare(path, name, stride, device, rounds)
            for name in MODELS
            for stride in (STRIDES if name == LONG_NAME else (4,))
        }
    note = (
        f"{SIZE_PX} px, windows of 16 grid frames at 8 a second, batches of {BATCH_SIZE} frames, a generated video of "
        f"{VIDEO_SECONDS} s. {_CONTESTANTS}"
    )
    return Findings([Table("Windows that share features", note, rows)])


def measure_ten_minutes(device: str, rounds: int, compiles: bool) -> Findings:
    """The same for one model over ten minutes."""
    note = f"{LONG_NAME}, {SIZE_PX} px, windows of 16 grid frames at 8 a second, a generated video. {_CONTESTANTS}"
    return Findings([Table("Ten minutes", note, long_rows(LONG_NAME, device, rounds))])


def measure_lengths(device: str, rounds: int, compiles: bool) -> Findings:
    """Time and memory over the length of the video, once each."""
    note = "A small model over generated videos; memory is the most the process grew by while it ran."
    return Findings([Table("Time and memory over the length of the video", note, lengths(device))])
