"""Runs of equal labels in a sequence of frames, and how well two sequences' runs agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def frame_runs(labels: Sequence[int], background: int) -> list[tuple[int, int, int]]:
    """``(label, start, stop)`` of each run of one label but the background's."""
    runs, start = [], 0
    for label, run in groupby(labels):
        stop = start + len(list(run))
        if label != background:
            runs.append((label, start, stop))
        start = stop
    return runs


def segmental_f1(
    predicted: Sequence[tuple[int, int, int]], truth: Sequence[tuple[int, int, int]], min_iou: float = 0.25
) -> float:
    """F1 of one video's runs: each predicted one takes the true one of its label that it overlaps most, if nobody has
    it yet (Lea et al., CVPR 2017). 1 where there is nothing on both sides."""
    taken: set[int] = set()
    for label, start, stop in predicted:
        overlaps = [
            max(0, min(stop, other_stop) - max(start, other_start))
            / (max(stop, other_stop) - min(start, other_start))
            * (label == other)
            for other, other_start, other_stop in truth
        ]
        best = max(range(len(truth)), key=overlaps.__getitem__, default=-1)
        if best >= 0 and overlaps[best] >= min_iou:
            taken.add(best)
    total = len(predicted) + len(truth)
    return 2 * len(taken) / total if total else 1.0
