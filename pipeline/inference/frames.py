"""Grid frames of a video, and what the temporal heads read of them."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile
from pipeline.config import SamplingConfig, TransformConfig
from pipeline.decode import VideoReader
from pipeline.inference.folding import fold_batch_norm
from pipeline.inference.stats import RunStats
from pipeline.sampling import grid_seconds, lengthen
from pipeline.transforms import ClipTransform, fit_frames


def grid_frames(
    reader: VideoReader, sampling: SamplingConfig, transform: TransformConfig, num_needed: int, stats: RunStats
) -> Generator[Tensor, None, None]:
    """Fitted grid frames uint8 ``[3, S, S]`` of an open video, in order; a video with fewer than ``num_needed`` is
    lengthened as ``sampling.short_video`` says. Counts what it decodes, and the time that takes, in ``stats``."""
    frames = _fitted(reader, sampling.sample_fps, transform, stats)
    first = list(itertools.islice(frames, num_needed))
    if len(first) < num_needed:
        first = [first[i] for i in lengthen(range(len(first)), num_needed, sampling.short_video)]
    yield from first
    yield from frames


def _fitted(
    reader: VideoReader, sample_fps: float, transform: TransformConfig, stats: RunStats
) -> Generator[Tensor, None, None]:
    times = (time for k in itertools.count() for time in grid_seconds([k], sample_fps))
    source = reader.stream_at(times)
    while True:
        with stats.timed("decode"):
            shown = next(source, None)
            if shown is None:
                return
            stats.frames_decoded += 1
            fitted = fit_frames(shown[0].unsqueeze(0), transform)[0]
        yield fitted


class Embedder:
    """Fitted frames -> what the temporal heads' recurrence reads: transforms, backbone, and the heads' first half.

    Attributes:
        backbone: as the file's, with the batch norms folded away.
    """

    def __init__(self, file: ModelFile) -> None:
        self.num_context_frames = file.transform.num_context_frames
        self._recognizer = file.recognizer
        self.backbone = fold_batch_norm(file.recognizer.backbone)
        self._transform = ClipTransform(file.transform, file.normalization)
        self._device = next(file.recognizer.parameters()).device

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 ``[B, T + context, 3, S, S]`` -> ``[B, T, ...]``."""
        pictures = self._transform.evaluate(frames.to(self._device))  # [B, T, 3, I, I]
        features = self._recognizer.embed(pictures.flatten(0, 1), self.backbone)  # [B, T, ...] -> [B T, ...]
        return self._recognizer.project(features.reshape(*pictures.shape[:2], *features.shape[1:]))
