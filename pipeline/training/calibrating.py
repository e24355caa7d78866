"""Calibration after a training: the validation clips, which no step was taken on, say how far to trust the scores."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.calibration import UNCALIBRATED, Calibration, fit_calibration
from pipeline.datasets.videos import ClipBatch
from pipeline.ranks import ALONE, Ranks
from pipeline.training.module import ClipClassifier


def calibrate(module: ClipClassifier, batches: Iterable[object], ranks: Ranks = ALONE) -> Calibration:
    """The calibration of a trained module from batches that it was not trained on; without any, none. Of several ranks,
    each has its own batches, and all get the calibration from all of them."""
    parts = ranks.gather(held_out_logits(module, batches))
    logits, truth, rows = (torch.cat(part) for part in zip(*parts, strict=True))
    order = rows.argsort(stable=True)  # as one process has them
    logits, truth = logits[order], truth[order]
    return fit_calibration(logits, truth) if len(truth) else UNCALIBRATED


@torch.inference_mode()
def held_out_logits(module: ClipClassifier, batches: Iterable[object]) -> tuple[Tensor, Tensor, Tensor]:
    """Of every clip that could be read: logits ``[N, K]``, its class and its row, int64 ``[N]`` each."""
    module.eval()
    found = [(torch.zeros(0, module.recognizer.classifier.out_features), *torch.zeros(2, 0, dtype=torch.int64))]
    for batch in batches:
        assert isinstance(batch, ClipBatch)
        if len(batch.labels):
            logits = module.logits(batch.to(module.device)).float().cpu()
            found.append((logits, batch.labels.cpu(), batch.rows.cpu()))
    logits, labels, rows = (torch.cat(part) for part in zip(*found, strict=True))
    return logits, labels, rows
