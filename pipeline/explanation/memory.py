"""Changes of a model's memory as a video runs, and the frames that decided its label.

A gated head makes each state of the one before and a candidate, ``h_t = (1 - g_t) . h_{t-1} + g_t . n_t``. The gate g
(one minus what torch calls z) says how open the memory is. An open gate lets in nothing where nothing is new, and much
of a trained memory stays half open everywhere; so beside the gate stands what it let in of what is new: the gate times
the change of the features since the frame before, ``g_t |x_t - x_{t-1}|``, each a mean over channels.

The video is scored in windows of the model's length, each from an empty memory, overlapping by half; a grid frame's
figures are means over the windows that cover it. The first step of a window knows no frame before it and counts only
in the video's first window.

The frames that decided: leave-one-frame-out. Each frame's features are taken out of its windows, one frame at a time,
and the label's probability falls by so much. It is occlusion (Zeiler and Fergus, 2014) in time: exact for the question
"what if the model had not seen this frame", blind to frames that only count together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile
from pipeline.decode import VideoReader
from pipeline.embedding.frames import FrameEmbedder
from pipeline.errors import UserError
from pipeline.inference import RunStats
from pipeline.inference.frames import grid_frames
from pipeline.inference.torch_runtime import Embedder, torch_runtime
from pipeline.models.temporal.stack import Stack
from pipeline.sampling import grid_seconds, window_starts

_FRAMES_A_CALL = 64


@dataclass(frozen=True)
class Writing:
    """Of a sequence, ``[B, T]`` or for a head of maps ``[B, T, H, W]``.

    Attributes:
        gate: how open the update gate was, 0 to 1, the mean over the state's channels.
        let_in: the gate times how much the features changed since the frame before; 0 at the first.
    """

    gate: Tensor
    let_in: Tensor


@torch.no_grad()
def writing_of(stack: Stack, features: Tensor) -> Writing:
    """Return what the first gated head of ``stack`` writes on ``features [B, T, D, ...]``, from its initial state.

    Raises:
        UserError: no head has an update gate, or they read both ways.
    """
    x = features
    for head in stack.heads:
        if x.ndim == 5 and not head.reads_maps:
            x = x.mean(dim=(3, 4))  # [B, T, C, H, W] -> [B, T, C]
        outputs, _ = head(x)
        start = torch.zeros_like(outputs[:, :1])  # every gated head begins with zeros
        gate = head.update_gate(x, torch.cat([start, outputs[:, :-1]], dim=1))
        if gate is not None:
            change = (x - torch.cat([x[:, :1], x[:, :-1]], dim=1)).abs().mean(dim=2)
            return Writing(gate.mean(dim=2), gate.mean(dim=2) * change)
        x = outputs
    names = ", ".join(type(head).__name__ for head in stack.heads)
    raise UserError(
        f"this model's temporal head ({names}) has no update gate to show, or reads both ways; train with model.heads "
        "convgru, convmingru (maps), gru or mingru (a strip), and model.bidirectional false"
    )


@dataclass(frozen=True)
class MemoryTrace:
    """A model's answer for a video's G grid frames, with their effect on its memory and on the label.

    Attributes:
        label: the best one, by the mean over the windows.
        score: its probability there.
        is_unknown: true if most windows are unknown to the model.
        times_seconds: of the grid frames, ``[G]``.
        gate: how open the update gate was, mean over channels and places, float32 ``[G]``.
        let_in: the gate times the change of the features since the frame before, float32 ``[G]``.
        maps: the same by place, less what was let in everywhere alike (the frame's median), float32 ``[G, h, w]``; None
            for a head of vectors.
        drops: fall of the label's probability without the frame, float32 ``[G]``.
    """

    label: str
    score: float
    is_unknown: bool
    times_seconds: list[float]
    gate: Tensor
    let_in: Tensor
    maps: Tensor | None
    drops: Tensor

    def top_frames(self, count: int) -> list[int]:
        """The grid frames that decided the label most, most first; none that spoke against it."""
        ranked = self.drops.argsort(descending=True, stable=True)[:count]
        return [place for place in ranked.tolist() if self.drops[place] > 0]


@torch.inference_mode()
def remember(model: ModelFile, reader: VideoReader) -> MemoryTrace:
    """Runs ``model`` over an open video and looks into its memory. Holds the features of the whole video.

    Raises:
        DecodeError: a frame cannot be decoded.
        UserError: the model's head has no update gate, or reads frames by parts.
    """
    if model.recognizer.config.scan != "none":
        raise UserError(
            f"this model reads each frame by its {model.recognizer.config.scan}; what a model lets into its memory "
            "from frame to frame can be shown where model.scan is none"
        )
    features = _features(model, reader)  # [G, D, ...]
    length, first_frame = model.sampling.num_frames, model.transform.frames_for(0)
    starts = list(window_starts(len(features), length, max(1, length // 2)))
    logits = torch.cat([model.recognizer.classify(features[None, start : start + length]) for start in starts])
    probabilities = model.calibration.finite_probabilities(logits).mean(dim=0)
    best = int(probabilities.argmax())
    gate, let_in, drops = (_FrameMeans(len(features)) for _ in range(3))
    for start in starts:
        window = features[None, start : start + length]
        writing = writing_of(model.recognizer.temporal, model.recognizer.normalize(window))
        drops.add(start, _drops_without(model, window, best))
        skip = 0 if start == 0 else 1  # the first step has an empty memory and no frame before it
        gate.add(start + skip, writing.gate[0, skip:])
        let_in.add(start + skip, writing.let_in[0, skip:])
    maps = let_in.means()
    return MemoryTrace(
        model.labels[best],
        float(probabilities[best]),
        bool(model.calibration.is_unknown(logits).float().mean() > 0.5),
        grid_seconds(range(first_frame, first_frame + len(features)), model.sampling.sample_fps),
        _over_places(gate.means()),
        _over_places(maps),
        _standing_out(maps) if maps.ndim == 3 else None,
        drops.means(),
    )


def _standing_out(maps: Tensor) -> Tensor:
    """Maps ``[G, h, w]`` less each one's median, and not below zero."""
    return (maps - maps.flatten(1).median(dim=1).values[:, None, None]).clamp_min(0)


def _over_places(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1) if values.ndim > 1 else values


class _FrameMeans:
    """Means over the windows that cover a grid frame."""

    def __init__(self, num_frames: int) -> None:
        self._sums: Tensor | None = None
        self._counts = torch.zeros(num_frames)

    def add(self, start: int, values: Tensor) -> None:
        """``values [t, ...]`` of the frames from ``start`` on."""
        values = values.float().cpu()
        if self._sums is None:
            self._sums = torch.zeros(len(self._counts), *values.shape[1:])
        self._sums[start : start + len(values)] += values
        self._counts[start : start + len(values)] += 1

    def means(self) -> Tensor:
        assert self._sums is not None
        return self._sums / self._counts.clamp_min(1).reshape(-1, *[1] * (self._sums.ndim - 1))


def _features(model: ModelFile, reader: VideoReader) -> Tensor:
    """Features of every grid frame ``[G, D, ...]``, at least a window of them."""
    runtime, device = torch_runtime(model), next(model.recognizer.parameters()).device
    num_needed = model.transform.frames_for(model.sampling.num_frames)
    frames, clips = grid_frames(reader, model.sampling, runtime.fit, num_needed, RunStats()), Embedder(model)
    embedder = FrameEmbedder(lambda inputs: clips.embed(inputs.to(device))[:, 0], model.transform)
    parts = iter(lambda: list(itertools.islice(frames, _FRAMES_A_CALL)), [])
    pushed = [embedder.push(torch.from_numpy(np.stack(part))) for part in parts]
    return torch.cat([features for features in pushed if features is not None])


def _drops_without(model: ModelFile, window: Tensor, label: int) -> Tensor:
    """``window [1, T, D, ...]`` -> by how much the label's probability falls without each frame, ``[T]``."""
    num_frames = window.shape[1]
    if num_frames == 1:
        return torch.zeros(1)
    others = [[place for place in range(num_frames) if place != left_out] for left_out in range(num_frames)]
    with_all = _probability(model, window, label)
    return with_all - _probability(model, window[0][torch.tensor(others)], label)


def _probability(model: ModelFile, clips: Tensor, label: int) -> Tensor:
    probabilities: Tensor = model.calibration.finite_probabilities(model.recognizer.classify(clips))
    return probabilities[:, label]
