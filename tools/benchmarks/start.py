"""Whole commands as processes of their own: ``clipgru predict`` on a 10-second video, against what it has to import;
``clipgru learn`` on twelve clips."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import Findings, Table
from benchmarks.timing import interleaved
from benchmarks.windows import make_file, make_video
from pipeline.checkpoint import save_model
from pipeline.config import ModelConfig

_PREDICT = "clipgru predict, a 10-second video"
_ONNX = "the same from the exported ONNX file, without torch"
_TORCH = "python -c 'import torch'"
_PUBLISHED = "python -c 'import torch, torchvision, timm'"
_WHAT = (
    "Seconds from the start of a process to its end; files in the disk cache. The video has 250 frames of 320x240, the "
    "model is tf_efficientnet_lite0 at 224 px with a GRU, windows of 16 frames at 8 a second."
)
_LEARN, _LEARN_ALONE = "clipgru learn", "the same with --num_processes 1"
_WHAT_LEARN = (
    "Seconds from the start of a process to its end, three rounds. Twelve clips of 3 s and 320x240, two classes: each "
    "is read once, six heads are tried on five folds with two seeds, and the best is trained on all."
)
_NUM_CLIPS, _MOST_LEARN_ROUNDS = 12, 3


def measure(device: str, rounds: int, compiles: bool) -> Findings:
    """Seconds of each process, and how many times those of importing torch."""
    with tempfile.TemporaryDirectory() as folder:
        video, model = Path(folder) / "video.mp4", Path(folder) / "model.safetensors"
        make_video(video, 10)
        save_model(model, make_file(ModelConfig(weights="none", heads=("gru",)), 224, "cpu"))
        _process("-m", "pipeline", "export", str(model), "--format", "onnx", "--quiet")()
        onnx = str(model.with_suffix(".clip.onnx"))
        contestants = {
            _PREDICT: _process("-m", "pipeline", "predict", str(model), str(video), "--quiet", "--device", device),
            _ONNX: _process("-m", "pipeline", "predict", onnx, str(video), "--quiet"),
            _TORCH: _process("-c", "import torch"),
            _PUBLISHED: _process("-c", "import torch, torchvision, timm"),
        }
        times = interleaved(contestants, rounds, "cpu", num_warm_ups=1)
    rows = {
        name: {
            "seconds": times.milliseconds(name) / 1e3,
            "slowest round": max(times.seconds[name]),
            "times importing torch": times.ratio(name, _TORCH),
        }
        for name in contestants
    }
    return Findings([Table("From nothing to an answer", _WHAT, rows), _learning(min(rounds, _MOST_LEARN_ROUNDS))])


def _learning(rounds: int) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_NUM_CLIPS):
            path = Path(folder, "clips", "ab"[number % 2], f"{number}.mp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            make_video(path, 3, seed=number)
        words = "-m", "pipeline", "learn", f"{folder}/clips", "--output", f"{folder}/model.safetensors", "--quiet"
        contestants = {_LEARN: _process(*words), _LEARN_ALONE: _process(*words, "--num_processes", "1")}
        times = interleaved(contestants, rounds, "cpu", num_warm_ups=0)
    rows = {
        name: {"seconds": times.milliseconds(name) / 1e3, "slowest round": max(times.seconds[name])}
        for name in contestants
    }
    return Table("From twelve clips to a model", _WHAT_LEARN, rows)


def _process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
