"""A cold start: ``clipgru predict`` on a 10-second video as a process of its own, against what it has to import."""

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
    return Findings([Table("From nothing to an answer", _WHAT, rows)])


def _process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
