"""Calibration after a training: the validation clips, which no step was taken on, say how far to trust the scores."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.calibration import UNCALIBRATED, Calibration, fit_calibration
from pipeline.datasets.videos import ClipBatch
from pipeline.training.module import ClipClassifier


def calibrate(module: ClipClassifier, batches: Iterable[object]) -> Calibration:
    """The calibration of a trained module from batches that it was not trained on; without any, none."""
    logits, truth = held_out_logits(module, batches)
    return fit_calibration(logits, truth) if len(truth) else UNCALIBRATED


@torch.inference_mode()
def held_out_logits(module: ClipClassifier, batches: Iterable[object]) -> tuple[Tensor, Tensor]:
    """Logits of every clip that could be read, ``[N, K]``, and its class, int64 ``[N]``."""
    module.eval()
    found = []
    for batch in batches:
        assert isinstance(batch, ClipBatch)
        if len(batch.labels):
            found.append((module.logits(batch.to(module.device)).float().cpu(), batch.labels))
    if not found:
        return torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])
