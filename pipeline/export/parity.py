"""The graphs in ONNX Runtime against the model in PyTorch, on noise, at several batch sizes and lengths: exporters have
been wrong in silence, and one size alone does not show a size that was written into a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile
from pipeline.embedding.clips import ClipEmbedder
from pipeline.errors import UserError
from pipeline.export.outcome import TOLERANCE
from pipeline.export.pieces import StateSlot, example_frames, frames_of_one, leaves
from pipeline.inference.onnx_file import CONTEXT, FEATURES, FRAMES, KNOWNNESS, SCORES
from pipeline.inference.onnx_runtime import RunGraph, initial_states, open_session
from pipeline.transforms.frames import ClipTransform

_BATCHES, _NUM_STEPS = (1, 3), 8


def check_parity(file: ModelFile, graphs: dict[str, Any], slots: Sequence[StateSlot]) -> dict[str, float]:
    """The greatest difference of each graph from the model.

    Raises:
        UserError: a graph does not compute what the model does.
    """
    differences = {kind: _CHECKS[kind](file, open_session(graph), slots) for kind, graph in graphs.items()}
    for kind, difference in differences.items():
        if not difference <= TOLERANCE:  # nan too
            raise UserError(
                f"the exported {kind} gives other numbers than the model: off by {difference:.2g}, allowed are "
                f"{TOLERANCE:g}. Nothing was written; this is a fault of the exporter for this architecture"
            )
    return differences


def _check_backbone(file: ModelFile, run: RunGraph, slots: Sequence[StateSlot]) -> float:
    differences = []
    for batch in _BATCHES:
        frames = example_frames(file, batch, 1, seed=batch)
        with torch.inference_mode():
            expected = _embedder(file)(frames)[:, 0]
        (got,) = run([FEATURES], {FRAMES: frames_of_one(file, frames).numpy()})
        differences.append(_difference(got, expected))
    return max(differences)


def _check_clip(file: ModelFile, run: RunGraph, slots: Sequence[StateSlot]) -> float:
    num_frames = file.sampling.num_frames
    lengths = (1, 3, num_frames) if file.recognizer.temporal.streams else (num_frames,)
    differences = []
    for batch in _BATCHES:
        for steps in lengths:
            frames = example_frames(file, batch, steps, seed=10 * steps + batch)
            with torch.inference_mode():
                logits = file.recognizer.classify(_embedder(file)(frames))
            differences += _reading_differences(file, run([SCORES, KNOWNNESS], {FRAMES: frames.numpy()}), logits)
    return max(differences)


def _check_step(file: ModelFile, run: RunGraph, slots: Sequence[StateSlot]) -> float:
    return max(
        difference
        for batch in _BATCHES
        for difference in step_differences(file, run, slots, example_frames(file, batch, _NUM_STEPS, seed=batch))
    )


_CHECKS: dict[str, Callable[[ModelFile, RunGraph, Sequence[StateSlot]], float]] = {
    "backbone": _check_backbone,
    "clip": _check_clip,
    "step": _check_step,
}


@torch.inference_mode()
def step_differences(file: ModelFile, run: RunGraph, slots: Sequence[StateSlot], frames: Tensor) -> list[float]:
    """The greatest difference of scores and states after each step, with the state carried on in both.

    Args:
        file: the model.
        run: the session of the step.
        slots: its states.
        frames: uint8 ``[B, T + L, 3, S, S]``.
    """
    num_before = file.transform.frames_for(0)
    names = [slot.name for slot in slots]
    states = initial_states(tuple(slot.described() for slot in slots), len(frames))
    if num_before:
        states[CONTEXT] = frames[:, :num_before].numpy()
    outputs = [SCORES, KNOWNNESS, *(f"next_{name}" for name in states)]
    state, differences = None, []
    for number in range(num_before, frames.shape[1]):
        features = _embedder(file)(frames[:, number - num_before : number + 1])
        logits, state = file.recognizer.score(features, state)
        scores, knownness, *following = run(outputs, {"frame": frames[:, number].numpy(), **states})
        states = dict(zip(states, following, strict=True))
        pairs = zip([states[name] for name in names], leaves(state), strict=True)
        read = _reading_differences(file, [scores, knownness], logits[:, 0])
        differences.append(max(*read, *(_difference(ours, theirs) for ours, theirs in pairs)))
    return differences


def _reading_differences(file: ModelFile, read: Sequence[Any], logits: Tensor) -> list[float]:
    """Of scores and of how known each clip looks."""
    if file.may_overlap:
        each = file.calibration.each_probability(logits)
        expected = (each, each.amax(dim=-1))
    else:
        expected = (file.calibration.probabilities(logits), file.calibration.knownness(logits))
    return [_difference(got, theirs) for got, theirs in zip(read, expected, strict=True)]


def _embedder(file: ModelFile) -> ClipEmbedder:
    """The model's own way, its batch norms unfolded."""
    return ClipEmbedder(file.recognizer, ClipTransform(file.transform, file.normalization))


def _difference(got: Any, expected: Tensor) -> float:
    return float(np.abs(got - expected.numpy()).max()) / max(1.0, float(expected.abs().max()))
