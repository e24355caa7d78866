"""A stream's step exported: PyTorch, ONNX Runtime in float32 and in 8 bits, one thread; and whether states drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmark_streams import RECOMMENDED, make_file

from benchmarks.tables import Findings, Table
from benchmarks.timing import interleaved
from pipeline.checkpoint import ModelFile
from pipeline.description import StateDescription
from pipeline.export.assembly import assemble
from pipeline.export.int8 import quantize
from pipeline.export.parity import step_differences
from pipeline.export.pieces import example_frames, make_pieces
from pipeline.inference.onnx_file import SCORES
from pipeline.inference.onnx_runtime import initial_states, open_session
from pipeline.inference.torch_runtime import torch_runtime

TORCH, FLOAT, INT8 = "PyTorch, eager", "ONNX Runtime, float32", "ONNX Runtime, int8"
NUM_FRAMES = 1000
_STEPS_A_ROUND = 50
_WHAT = (
    "tf_efficientnet_lite0 cut after 6 stages, 112 px, ConvGRU 64, untrained heads; one source, fitted uint8 pictures "
    "in memory, the state carried on; one thread"
)


def measure(device: str, rounds: int, compiles: bool) -> Findings:
    """Milliseconds a frame of each way, and the difference of scores and states after each of 1,000 frames."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(rounds)
    finally:
        torch.set_num_threads(before)


def _measure(rounds: int) -> Findings:
    file = make_file(RECOMMENDED)
    pieces = make_pieces(file)
    slots = tuple(slot.described() for slot in pieces.slots)
    plain = open_session(assemble(file, pieces)["step"], num_threads=1)
    small_pieces = quantize(file, pieces, [example_frames(file, 4, 4, seed=seed) for seed in range(4)])
    small = open_session(assemble(file, small_pieces)["step"], num_threads=1)
    frames = example_frames(file, 1, _STEPS_A_ROUND)
    contestants = {
        TORCH: _torch_steps(file, frames),
        FLOAT: _onnx_steps(plain, slots, frames),
        INT8: _onnx_steps(small, slots, frames),
    }
    times = interleaved(contestants, rounds, "cpu")
    rows = {
        name: {
            "ms a frame": times.milliseconds(name) / _STEPS_A_ROUND,
            "times as fast as PyTorch": times.ratio(TORCH, name),
            "times as fast as float32": times.ratio(FLOAT, name),
        }
        for name in contestants
    }
    with torch.inference_mode():
        differences = step_differences(file, plain, pieces.slots, example_frames(file, 1, NUM_FRAMES, seed=1))
    drift = {
        f"after {count:,} frames": {"greatest difference so far": max(differences[:count])}
        for count in (10, 100, NUM_FRAMES)
        if count <= len(differences)
    }
    note = "Scores and states, float32 against PyTorch on the same noise, both carrying their own state on."
    return Findings([Table("A step of a stream", _WHAT, rows), Table("States carried on", note, drift)])


def _torch_steps(file: ModelFile, frames: torch.Tensor) -> Callable[[], object]:
    """As ``clipgru webcam`` runs a model file."""
    runtime = torch_runtime(file)

    def run() -> None:
        state: Any = None
        for number in range(frames.shape[1]):
            features = runtime.embed(frames[:, number : number + 1].numpy())
            _, state = runtime.heads.score_steps(features[0], state)

    return run


def _onnx_steps(step: Any, slots: tuple[StateDescription, ...], frames: torch.Tensor) -> Callable[[], object]:
    pictures = np.ascontiguousarray(frames[0].numpy())

    def run() -> None:
        states = initial_states(slots, 1)
        outputs = [SCORES, *(f"next_{name}" for name in states)]
        for number in range(len(pictures)):
            _, *following = step(outputs, {"frame": pictures[number : number + 1], **states})
            states = dict(zip(states, following, strict=True))

    return run
