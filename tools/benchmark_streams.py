"""Times the live way, and shows that nothing grows: one frame at a time, several sources, a source too fast.

    python tools/benchmark_streams.py step                     # milliseconds a frame, one source, one thread
    python tools/benchmark_streams.py memory --frames 100000   # the same way for long: memory
    ... memory --timeline                                      # a model of timelines, late and refined
    python tools/benchmark_streams.py parity --frames 10000    # such a model and its ONNX step, frame by frame
    python tools/benchmark_streams.py sources                  # four files in one process, and in four
    python tools/benchmark_streams.py slow --seconds 300       # 30 pictures a second, a model that can do 8
    ... --json benchmarks/streaming.json                       # add the figures to this file

The model is untrained but for the ImageNet weights of its backbone; pictures are noise of 320x240, as speed does not
depend on what is seen. ``slow`` makes each step last for an eighth of a second by waiting.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any

import av
import numpy as np
import torch

from pipeline.checkpoint import ModelFile, save_model
from pipeline.clip import Image, Segment
from pipeline.config import (
    DecodeConfig,
    InferenceConfig,
    ModelConfig,
    SamplingConfig,
    SequenceConfig,
    StreamingConfig,
    TransformConfig,
)
from pipeline.embedding.arrays import Features
from pipeline.export.files import export_onnx
from pipeline.inference import Model, load_model
from pipeline.models.recognizer import Recognizer
from pipeline.report.records import segment_record
from pipeline.streaming.feeds import LiveFeed, Portion
from pipeline.streaming.grabber import SourceEvent
from pipeline.streaming.sources import Source, parse_sources
from pipeline.streaming.status import SourceState
from pipeline.streaming.streams import StreamEvent, Streams

NUM_CLASSES = 12
RECOMMENDED = ModelConfig(num_stages=6, hidden_channels=64)
SMALL = ModelConfig(backbone="tiny", weights="none", hidden_channels=16)
LATE = SequenceConfig(labels="one", delay_frames=8)
STREAM = InferenceConfig(mode="stream")


def make_file(config: ModelConfig, sample_fps: float = 8.0, input_px: int = 112) -> ModelFile:
    """Untrained heads on the backbone, 12 classes."""
    torch.manual_seed(0)
    recognizer = Recognizer(config, NUM_CLASSES).eval()
    labels = tuple(f"class {number}" for number in range(NUM_CLASSES))
    transform = TransformConfig(fit_size_px=input_px * 8 // 7, input_size_px=input_px)
    return ModelFile(recognizer, labels, SamplingConfig(sample_fps=sample_fps), transform, DecodeConfig())


def make_timeline_file(config: ModelConfig, input_px: int) -> ModelFile:
    """A model of timelines on the backbone, whose answers come a second late and are refined."""
    file = make_file(replace(config, heads=("gru",), refinement_stages=1), input_px=input_px)
    return replace(file, task="timeline", sequence=LATE)


def make_model(config: ModelConfig, sample_fps: float = 8.0, input_px: int = 112) -> Model:
    """The same, at work."""
    return Model(make_file(config, sample_fps, input_px))


def noise(count: int) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (240, 320, 3), np.uint8) for _ in range(count)]


class EndlessFeed:
    """Decoded pictures, one a step, always there."""

    is_lossless, end_seconds = False, math.inf
    state: SourceState = "live"

    def __init__(self, model: Model) -> None:
        self.num_in = 0
        self.origin_seconds: float | None = time.monotonic()
        self._fit, self._pictures = model.fit, noise(8)

    def take(self, now_seconds: float, max_frames: int) -> Portion:
        picture = self._pictures[self.num_in % len(self._pictures)]
        self.num_in += 1
        return Portion(
            self.num_in - 1, 0, self._fit(picture, Fraction(1))[None], self.num_in == 1, 0, picture, now_seconds
        )

    def due_seconds(self) -> float:
        return -math.inf

    def poll(self, now_seconds: float) -> list[SourceEvent]:
        return []

    def stop(self) -> None:
        """Nothing to stop."""

    def close(self, timeout_seconds: float = 0.0) -> None:
        """Nothing to close."""


def ignore(name: str, event: StreamEvent) -> None:
    """Nobody listens."""


def endless_streams(model: Model) -> Streams:
    streams = Streams(model, ignore, STREAM)
    streams.add_feed(Source("camera", "", "noise"), EndlessFeed(model))
    return streams


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_step(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of ``Streams.step``: fit, transform, backbone, ConvGRU, classifier, softmax, timeline."""
    torch.set_num_threads(1)
    streams = endless_streams(make_model(RECOMMENDED, input_px=112))
    times, cpu_times = [], []
    for _ in range(args.frames or 2000):
        start, cpu_start = time.perf_counter(), time.thread_time()
        streams.step()
        times.append(1e3 * (time.perf_counter() - start))
        cpu_times.append(1e3 * (time.thread_time() - cpu_start))
    (status,) = streams.statuses()
    quarters = np.percentile(times, [5, 25, 50, 75, 95]).round(2).tolist()
    return {
        "what": "tf_efficientnet_lite0, 6 stages, 112 px, ConvGRU 64; 320x240 pictures, batch 1, one thread",
        "frames": len(times),
        "milliseconds_p5_p25_p50_p75_p95": quarters,
        "cpu_milliseconds_p5_p25_p50_p75_p95": np.percentile(cpu_times, [5, 25, 50, 75, 95]).round(2).tolist(),
        "milliseconds_by_stage": {stage: status.stage_ms[stage] for stage in ("take", "embed", "score")},
    }


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Resident memory after the first hundredth of the frames, and the most after that."""
    torch.set_num_threads(1)
    file = make_timeline_file(SMALL, 64) if args.timeline else make_file(SMALL, input_px=64)
    streams = endless_streams(Model(file))
    num_frames = args.frames or 100_000
    first, most = 0.0, 0.0
    for number in range(num_frames):
        streams.step()
        if number == num_frames // 100:
            first = resident_mb()
        if number % 100 == 0 and first:
            most = max(most, resident_mb())
    return {
        "model": "tiny, GRU, one refinement, 8 frames late" if args.timeline else "tiny, ConvGRU",
        "frames": num_frames,
        "first_mb": round(first, 1),
        "most_mb": round(most, 1),
        "grown_mb": round(most - first, 1),
    }


def measure_parity(args: argparse.Namespace) -> dict[str, Any]:
    """The greatest difference between the scores of a model of timelines in torch and those of its ONNX step, each with
    its own state carried on, one frame at a time through a published backbone."""
    torch.set_num_threads(1)
    file = make_timeline_file(RECOMMENDED, input_px=64)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(file, Path(folder) / "model")
        models = [Model(file), load_model(Path(folder) / "model.step.onnx")]
    scorers, embedders = [model.scorer(STREAM) for model in models], [model.embedder() for model in models]
    pictures, num_frames, differences = noise(97), args.frames or 10_000, [0.0]
    for number in range(num_frames):
        scored = []
        for model, scorer, embedder in zip(models, scorers, embedders, strict=True):
            frame = model.fit(pictures[number * number % 97], Fraction(1))
            scored.append(scorer.push(embedder.push(frame[None])))
        for ours, theirs in zip(*scored, strict=True):
            differences.append(float(np.abs(ours.probabilities - theirs.probabilities).max()))
    last = differences[-num_frames // 10 :]
    return {
        "model": "tf_efficientnet_lite0, 6 stages, 64 px, GRU 64, one refinement, 8 frames late; untrained heads",
        "frames": num_frames,
        "greatest_difference": max(differences),
        "greatest_difference_in_the_last_tenth": max(last),
    }


class Camera:
    """A capture of noise at a steady rate, whoever reads it or not."""

    def __init__(self, fps: float) -> None:
        self._fps, self._pictures, self._start, self._number = fps, noise(8), time.monotonic(), 0

    def read(self) -> tuple[Image | None, float]:
        due = self._start + self._number / self._fps
        time.sleep(max(0.0, due - time.monotonic()))
        self._number += 1
        return self._pictures[self._number % len(self._pictures)].copy(), time.monotonic()

    def close(self) -> None:
        """Nothing to close."""


def slowed(embed: Callable[[Image], Features], step_seconds: float) -> Callable[[Image], Features]:
    """The same function, which takes that long."""

    def call(frames: Image) -> Features:
        start = time.monotonic()
        answer = embed(frames)
        time.sleep(max(0.0, start + step_seconds - time.monotonic()))
        return answer

    return call


def measure_slow(args: argparse.Namespace) -> dict[str, Any]:
    """A camera of 30 pictures a second, a grid of 30, steps of 1/8 s."""
    torch.set_num_threads(1)
    model = make_model(RECOMMENDED, sample_fps=30.0)
    model.embed = slowed(model.embed, 1 / 8)
    streams = Streams(model, ignore, STREAM)

    def open_camera(given_up: Event) -> Camera:
        return Camera(30.0)

    feed = LiveFeed(model, open_camera, StreamingConfig(), streams.changed)
    streams.add_feed(Source("camera", "", "noise"), feed)
    start, first, most = time.monotonic(), 0.0, 0.0
    while (passed := time.monotonic() - start) < args.seconds:
        if not streams.step():
            streams.wait()
        first = first or (resident_mb() if passed > args.seconds / 30 else 0.0)
        most = max(most, resident_mb())
    (status,) = streams.statuses()
    streams.close()
    step_ms = 1e3 * (time.monotonic() - start) / max(streams.num_steps, 1)
    return {
        "seconds": args.seconds,
        "frames_in": status.frames_in,
        "frames_used": status.frames_used,
        "grid_frames_dropped": status.frames_dropped,
        "latency_ms": status.latency_ms,
        "mean_step_ms": round(step_ms, 1),
        "p95_in_steps": round(status.latency_ms["p95"] / step_ms, 2),
        "grown_mb": round(most - first, 1),
    }


def write_video(path: Path, seconds: float, seed: int) -> None:
    """320x240 at 25 pictures a second, H.264: a texture that moves."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(0, 256, (30, 40, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(25), options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(round(25 * seconds)):
            image = np.roll(texture, (number * 3, number * (2 + seed)), axis=(0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def run_child(args: argparse.Namespace) -> None:
    """Loads, says "ready", waits for a line, runs the files through one ``Streams``, prints what came of it."""
    if args.threads:
        torch.set_num_threads(args.threads)
    segments: dict[str, list[dict[str, Any]]] = {path: [] for path in args.files}

    def on_event(name: str, event: StreamEvent) -> None:
        if isinstance(event, Segment):
            segments[name].append(segment_record(event))

    streams = Streams(load_model(args.model, "cpu"), on_event)
    for source in parse_sources(args.files, replay=True, fast=True):
        streams.add(source)
    print("ready", flush=True)
    sys.stdin.readline()
    start, cpu_start = time.perf_counter(), time.process_time()
    while streams.names:
        streams.step()
    seconds = time.perf_counter() - start
    streams.close()
    cpu_seconds = time.process_time() - cpu_start
    memory = {key: int(value.split()[0]) / 1e3 for key, value in _memory_lines() if key in ("Rss", "Pss")}
    frames = sum(status.frames_used for status in streams.final_statuses())
    answer = {"seconds": seconds, "cpu_seconds": cpu_seconds, "frames": frames, "segments": segments, **memory}
    print(json.dumps(answer), flush=True)


def _memory_lines() -> list[tuple[str, str]]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return [(key, value) for key, _, value in (line.partition(":") for line in lines)]


def run_group(args: argparse.Namespace) -> None:
    """A process for each file, or one for all, begun at once; prints the seconds until the last is done, and all that
    they print."""
    groups = [args.files] if args.together else [[file] for file in args.files]
    command = [sys.executable, __file__, "child", "--model", str(args.model), "--threads", str(args.threads), "--files"]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    children = [
        subprocess.Popen([*command, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for files in groups
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [json.loads(child.communicate()[0]) for child in children]
    print(json.dumps({"seconds": max(answer["seconds"] for answer in answers), "answers": answers}))


def run_way(model: Path, files: list[Path], way: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """In a session of its own: Linux shares the cores fairly between sessions, so that on a busy machine four processes
    get no more of them than one."""
    command = [sys.executable, __file__, "group", "--model", str(model), *way, "--files", *map(str, files)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True)
    answer = json.loads(result.stdout)
    return answer["seconds"], answer["answers"]


def measure_sources(args: argparse.Namespace) -> dict[str, Any]:
    """Four files of a minute each: one process, and four with one thread each or as many as there are cores."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.mp4" for number in range(4)]
        for seed, path in enumerate(files):
            write_video(path, args.seconds or 60, seed)
        model_path = Path(folder) / "model.safetensors"
        save_model(model_path, make_file(RECOMMENDED))
        ways = {
            "one_process": ["--together"],
            "four_processes": [],
            "four_processes_one_thread_each": ["--threads", "1"],
        }
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        labels: dict[str, Any] = {}
        for _ in range(args.rounds):
            for name, way in ways.items():
                seconds, answers = run_way(model_path, files, way)
                rows[name].append(_row(seconds, answers))
                labels[name] = {path: found for a in answers for path, found in a["segments"].items()}
    result: dict[str, Any] = {
        name: {key: round(median(row[key] for row in found), 2) for key in found[0]} for name, found in rows.items()
    }
    separate = [result["four_processes"], result["four_processes_one_thread_each"]]
    one = result["one_process"]
    return result | {
        "speed_against_four_processes": round(one["fps"] / max(row["fps"] for row in separate), 2),
        "memory_against_four_processes": round(one["rss_mb"] / min(row["rss_mb"] for row in separate), 2),
        "proportional_memory_against_four_processes": round(one["pss_mb"] / min(row["pss_mb"] for row in separate), 2),
        "same_segments": all(found == labels["one_process"] for found in labels.values()),
        "rounds": args.rounds,
    }


def _row(seconds: float, answers: list[dict[str, Any]]) -> dict[str, float]:
    frames = sum(answer["frames"] for answer in answers)
    return {
        "fps": frames / seconds,
        "cpu_ms_a_frame": 1e3 * sum(answer["cpu_seconds"] for answer in answers) / frames,
        "rss_mb": sum(answer["Rss"] for answer in answers),
        "pss_mb": sum(answer["Pss"] for answer in answers),
    }


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "step": measure_step,
    "memory": measure_memory,
    "parity": measure_parity,
    "sources": measure_sources,
    "slow": measure_slow,
}
# What the measures run in processes of their own.
INNER: dict[str, Callable[[argparse.Namespace], None]] = {"child": run_child, "group": run_group}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=[*MEASURES, *INNER])
    parser.add_argument("--frames", type=int, help="step, memory, parity: how many")
    parser.add_argument("--timeline", action="store_true", help="memory: of a model of timelines")
    parser.add_argument("--seconds", type=float, default=60.0, help="slow: how long; sources: of each video")
    parser.add_argument("--rounds", type=int, default=3, help="sources: how often; the median counts")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--together", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what in INNER:
        INNER[args.what](args)
        return 0
    found = MEASURES[args.what](args)
    print(json.dumps(found, indent=1))
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        name = f"{args.what}_timeline" if args.timeline else args.what
        args.json.write_text(json.dumps(known | {name: found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
