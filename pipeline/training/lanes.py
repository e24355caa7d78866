"""Frames of a batch of sequences through a backbone that learns from some of them."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.datasets.walks import LaneFrames
from pipeline.embedding.clips import ClipEmbedder
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.augmentation import TrainTransform

FRAMES_A_CALL = 128
"""Frames without a gradient that pass the backbone at once, where none has one."""


def embed_lanes(recognizer: Recognizer, transform: TrainTransform, lanes: LaneFrames) -> Tensor:
    """Features of each grid frame, ``[B, T, D, ...]``, with a gradient to the backbone from those that it learns from.
    In training each lane is augmented by a draw of its own; torch's global generators stay as they are."""
    pictures = [
        _pictures(transform, frames, draw, is_training=recognizer.training)
        for frames, draw in zip(lanes.frames.split(lanes.counts), lanes.draws, strict=True)
    ]
    embedder = ClipEmbedder(recognizer, transform)
    return _embed(embedder, torch.cat(pictures), lanes.learning)[lanes.places]


def _pictures(transform: TrainTransform, frames: Tensor, draw: int, *, is_training: bool) -> Tensor:
    """uint8 ``[n + L, 3, S, S]`` -> ``[n, 3 P, I, I]``."""
    if not is_training:
        return transform.evaluate(frames[None])[0]
    with torch.random.fork_rng(devices=[frames.device] if frames.is_cuda else []):
        torch.manual_seed(draw)
        return transform.train(frames[None])[0]


def _embed(embedder: ClipEmbedder, pictures: Tensor, learning: Tensor) -> Tensor:
    """Pictures ``[N, 3 P, I, I]`` -> features ``[N, D, ...]``, those at the places ``learning`` with a gradient."""
    is_learning = torch.zeros(len(pictures), dtype=torch.bool, device=pictures.device)
    is_learning[learning] = True
    (with_gradient,), (without,) = is_learning.nonzero(as_tuple=True), (~is_learning).nonzero(as_tuple=True)
    parts = []
    if len(with_gradient):
        parts.append(embedder.embed_pictures(pictures[with_gradient][None])[0])
    if len(without):
        with torch.no_grad():
            rest = pictures[without].split(len(with_gradient) or FRAMES_A_CALL)
            parts += [embedder.embed_pictures(some[None])[0] for some in rest]
    return torch.cat(parts)[torch.cat([with_gradient, without]).argsort()]
