"""Sliding windows with shared features against computing every window anew, over one long video.

    python tools/benchmark_windows.py LONG_VIDEO --output benchmarks/windows.json

The same model, code, batch size and machine; rounds are interleaved, so that a busy moment hits every row, and the
median counts. "Recomputed" embeds all frames of every window. "Decode alone" reads and fits the same grid frames;
"backbone alone" runs the backbone over them, already in memory, in the same batches. Weights do not matter for time;
the head's are random.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.config import DecodeConfig, InferenceConfig, ModelConfig, SamplingConfig, TransformConfig
from pipeline.decode import open_video
from pipeline.inference import Model, RunStats, pick_device
from pipeline.inference.frames import grid_frames
from pipeline.models.recognizer import Recognizer
from pipeline.transforms import ClipTransform


def bundled_model(size_px: int, num_stages: int | None, device: torch.device) -> ModelFile:
    """The bundled backbone with an untrained ConvGRU."""
    config = ModelConfig(num_stages=num_stages)
    recognizer = Recognizer(config, num_classes=10).eval().to(device)
    transform = TransformConfig(fit_size_px=size_px, input_size_px=size_px)
    return ModelFile(recognizer, tuple("0123456789"), SamplingConfig(), transform, DecodeConfig())


class Task:
    """One video, one model: the four things that are timed. Each returns when all its work is done."""

    def __init__(self, model: Model, path: Path, max_frames: int, stride: int, batch_size: int) -> None:
        self.model, self.path, self.max_frames = model, path, max_frames
        self.config = InferenceConfig(stride_frames=stride, batch_size=batch_size)
        self.fitted = list(self._grid(RunStats()))

    def _grid(self, stats: RunStats) -> Iterator[Tensor]:
        file = self.model.file
        with open_video(self.path) as reader:
            frames = grid_frames(reader, file.sampling, file.transform, 1, stats)
            with closing(frames):
                yield from itertools.islice(frames, self.max_frames)

    def decode(self) -> None:
        for _ in self._grid(RunStats()):
            pass

    @torch.inference_mode()
    def backbone(self) -> None:
        file, size = self.model.file, self.config.batch_size
        transform = ClipTransform(file.transform, file.normalization)
        for start in range(0, len(self.fitted), size):
            frames = torch.stack(self.fitted[start : start + size]).to(self.model.device)
            file.recognizer.embed(transform.evaluate(frames))
        self._synchronize()

    def shared(self) -> None:
        with open_video(self.path) as reader, closing(self.model.score_windows(reader, self.config)) as scored:
            for scores in scored:
                if scores.window.stop >= self.max_frames:
                    break

    @torch.inference_mode()
    def recomputed(self) -> None:
        """Every window cut out and run whole, two at a time, which makes the same batches for the backbone."""
        file = self.model.file
        num_frames, stride = file.sampling.num_frames, self.config.stride_frames or 1
        transform = ClipTransform(file.transform, file.normalization)
        starts = iter(range(0, len(self.fitted) - num_frames + 1, stride))
        at_once = max(1, self.config.batch_size // num_frames)
        frames = list(self._grid(RunStats()))
        while some := list(itertools.islice(starts, at_once)):
            clips = torch.stack([torch.stack(frames[start : start + num_frames]) for start in some])
            file.recognizer(transform.evaluate(clips.to(self.model.device))).softmax(dim=-1).cpu()

    def _synchronize(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


def measure(task: Task, rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    ways: dict[str, Callable[[], None]] = {
        "decode alone": task.decode,
        "backbone alone": task.backbone,
        "windows, shared": task.shared,
        "windows, recomputed": task.recomputed,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in sorted(ways, key=lambda name: hash((turn, name))):
            start = perf_counter()
            ways[name]()
            times[name].append(perf_counter() - start)
    return {name: round(median(values), 3) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path, help="a long video file")
    parser.add_argument("--model", help="a model file; unset: the bundled backbone with an untrained ConvGRU")
    parser.add_argument("--size", type=int, default=224, help="pixels a side, without --model")
    parser.add_argument("--stages", type=int, help="first stages of the bundled backbone, without --model")
    parser.add_argument("--strides", type=int, nargs="+", default=[4], help="grid frames between windows")
    parser.add_argument("--frames", type=int, default=10**9, help="stop after this many grid frames")
    parser.add_argument("--batch-size", type=int, default=32, help="frames in one call of the backbone")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    device = pick_device(args.device)
    file = load_model_file(args.model, device) if args.model else bundled_model(args.size, args.stages, device)
    results = {}
    for stride in args.strides:
        task = Task(Model(file), args.video, args.frames, stride, args.batch_size)
        seconds = measure(task, args.rounds)
        stats = task.model.stats
        alone = seconds["decode alone"] + seconds["backbone alone"]
        if device.type != "cpu":
            alone = max(seconds["decode alone"], seconds["backbone alone"])
        results[f"stride {stride}"] = {
            "seconds": seconds,
            "frames_embedded": stats.frames_embedded,
            "windows": stats.windows,
            "recomputed / shared": round(seconds["windows, recomputed"] / seconds["windows, shared"], 2),
            "shared / alone": round(seconds["windows, shared"] / alone, 3),
        }
        print(f"stride {stride}: {json.dumps(results[f'stride {stride}'])}", file=sys.stderr)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": args.device}
    record = {"video": args.video.name, "machine": machine | {"cpu": platform.machine()}, "results": results}
    print(json.dumps(record, indent=1))
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
