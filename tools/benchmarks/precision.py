"""Whole training steps of the shipped configs in fp32 and bf16, on this processor and on those that it can imitate.

What ``training.precision auto`` chooses on a CPU (``pipeline/machine.py``) rests on this table. A processor with fewer
instructions is imitated by the limits that oneDNN and ATen read from the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.tables import Findings, Table
from benchmarks.timing import interleaved
from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment
from pipeline.datasets.videos import ClipBatch
from pipeline.machine import keep_freed_memory
from pipeline.models.backbones import FILE_FEATURES
from pipeline.training.module import ClipClassifier, parameter_groups
from pipeline.training.precision import settle_precision

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Environment -> the newest instructions it leaves; oneDNN ignores limits above what the processor has.
PROCESSORS: dict[str, dict[str, str]] = {
    "this processor": {},
    "AVX-512 with bf16, no AMX": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "AVX-512 without bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2 alone": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
PRECISIONS = ("fp32", "bf16")
_PIXELS_A_STEP = 2**20  # of all frames together: batches are cut, so that a slow step does not take minutes
_NUM_CLASSES = 101
_HOPELESS_SECONDS = 4.0


def measure(device: str, rounds: int, compiles: bool) -> Findings:
    """One table a processor, each measured in a process of its own."""
    processors = PROCESSORS if device == "cpu" else {"this GPU": {}}
    tables = []
    for name, limits in processors.items():
        print(f"precision: {name}", file=sys.stderr)
        code = f"from benchmarks.precision import print_rows; print_rows({device!r}, {rounds})"
        places = os.pathsep.join(str(Path(__file__).resolve().parents[up]) for up in (1, 2))
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | limits | {"PYTHONPATH": places},
            stdout=subprocess.PIPE,
            check=True,
        )
        note = (
            "Milliseconds of one training step (forward, backward, optimiser), batches cut to fit the time. The last "
            "column is what auto takes over the better of the two."
        )
        tables.append(Table(name, note, json.loads(done.stdout)))
    return Findings(tables)


def print_rows(device: str, rounds: int) -> None:
    """The rows of one processor, as JSON on standard output."""
    keep_freed_memory()  # as a training does
    torch.manual_seed(0)
    rows = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        experiment = read_experiment(path)
        if experiment.model.backbone == FILE_FEATURES:
            continue  # their number is in files that are not here, and the step is that of a small head
        rows[path.stem] = _row(experiment, experiment.data.cache == "features", device, rounds)
        if path.stem in ("folder", "ucf101_gru"):
            rows[f"{path.stem}, cached features"] = _row(_frozen(experiment), True, device, rounds)
    print(json.dumps(rows))


def _frozen(experiment: Experiment) -> Experiment:
    return replace(experiment, training=replace(experiment.training, backbone_lr_scale=0.0))


def _row(experiment: Experiment, from_features: bool, device: str, rounds: int) -> dict[str, float | None]:
    print(f"  {experiment.name}", file=sys.stderr)
    steps = {precision: _step(experiment, from_features, precision, device) for precision in PRECISIONS}
    seconds = _seconds(steps, rounds, device)
    settled, _ = settle_precision(experiment, ClipClassifier(experiment, 2).recognizer, torch.device(device))
    chosen = settled.training.precision
    ratio = median(a / b for a, b in zip(seconds["bf16"], seconds["fp32"], strict=True))
    best = min(1.0, ratio)
    return {
        "fp32": 1e3 * median(seconds["fp32"]),
        "bf16": 1e3 * median(seconds["bf16"]),
        "bf16 / fp32": ratio,
        "auto is bf16": float(chosen == "bf16"),
        "auto / better": (ratio if chosen == "bf16" else 1.0) / best,
    }


def _seconds(steps: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    once = interleaved(steps, 1, device, num_warm_ups=1).seconds
    if max(times[0] for times in once.values()) > _HOPELESS_SECONDS:  # no need to know it better
        return once
    return interleaved(steps, rounds, device, num_warm_ups=1).seconds


def _step(experiment: Experiment, from_features: bool, precision: str, device: str) -> Callable[[], object]:
    """One whole step as Lightning makes it, without a trainer."""
    torch.manual_seed(0)
    training = replace(experiment.training, initial_model="random weights, which cost the same")
    experiment = replace(experiment, model=replace(experiment.model, weights="none"), training=training)
    module = ClipClassifier(experiment, _NUM_CLASSES).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(module.recognizer, experiment.training))
    batch = _batch(module, experiment, from_features).to(device)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = module.loss(batch)
        loss.backward()
        optimizer.step()

    return run


def _batch(module: ClipClassifier, experiment: Experiment, from_features: bool) -> ClipBatch:
    sampling, transform = experiment.sampling, experiment.transform
    num_frames = sampling.num_frames if from_features else experiment.clips.num_frames
    most = max(2, _PIXELS_A_STEP // (num_frames * transform.fit_size_px**2))
    count = experiment.data.batch_size if from_features else min(experiment.data.batch_size, most)
    frames = torch.randint(0, 256, (count, num_frames, 3, *[transform.fit_size_px] * 2), dtype=torch.uint8)
    labels = torch.arange(count) % _NUM_CLASSES
    if from_features:
        size, depth = transform.input_size_px, 3 * transform.num_pictures
        with torch.no_grad():
            shape = module.recognizer.eval().embed(torch.zeros(1, depth, size, size)).shape[1:]
        module.train()
        frames = torch.randn(count, num_frames, *shape)
    return ClipBatch(frames, labels, torch.arange(count), ())
