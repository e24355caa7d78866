"""The timeline on whole lists, a rule at a time: what the incremental one must give."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np

Stretch = list  # [label, first frame, stop frame]


def naive_frames(windows: list[tuple[int, int, np.ndarray]], num_frames: int) -> np.ndarray:
    """``[num_frames, K]``: the mean over the windows (start, stop, scores) that cover each frame."""
    return np.array(
        [np.mean([scores for start, stop, scores in windows if start <= k < stop], axis=0) for k in range(num_frames)]
    )


def naive_smooth(scores: np.ndarray, reach: int) -> np.ndarray:
    """Each frame with ``reach`` neighbours on either side, as far as there are any."""
    return np.array([scores[max(0, k - reach) : k + reach + 1].mean(axis=0) for k in range(len(scores))])


def naive_labels(scores: np.ndarray, enter: float, leave: float) -> list[int]:
    """A label a frame; K is unknown."""
    labels: list[int] = []
    for row in scores:
        unknown = len(row)
        before = labels[-1] if labels else unknown
        if row.max() >= enter:
            labels.append(int(row.argmax()))
        elif before != unknown and row[before] >= leave:
            labels.append(before)
        else:
            labels.append(unknown)
    return labels


def naive_stretches(scores: np.ndarray, labels: list[int], fps: float, min_seconds: float, end: float) -> list[Stretch]:
    """Equal labels joined; then, as long as one is too short, the first such goes to a neighbour."""
    scores = np.concatenate([scores, 1 - scores.max(axis=1, keepdims=True)], axis=1).astype(np.float64)
    stretches: list[Stretch] = []
    for label, places in groupby(range(len(labels)), key=lambda k: labels[k]):
        frames = list(places)
        stretches.append([label, frames[0], frames[-1] + 1])

    def seconds(stretch: Stretch) -> float:
        return min(stretch[2] / fps, end) - stretch[1] / fps

    while len(stretches) > 1:
        short = next((i for i, stretch in enumerate(stretches) if seconds(stretch) < min_seconds - 1e-6), None)
        if short is None:
            break
        mean = scores[stretches[short][1] : stretches[short][2]].mean(axis=0)
        before = mean[stretches[short - 1][0]] if short > 0 else -math.inf
        after = mean[stretches[short + 1][0]] if short + 1 < len(stretches) else -math.inf
        neighbour = stretches[short - 1] if before >= after else stretches[short + 1]
        neighbour[1], neighbour[2] = min(neighbour[1], stretches[short][1]), max(neighbour[2], stretches[short][2])
        del stretches[short]
        joined = stretches[:1]
        for stretch in stretches[1:]:
            if stretch[0] == joined[-1][0]:
                joined[-1][2] = stretch[2]
            else:
                joined.append(stretch)
        stretches = joined
    return stretches


def naive_levenshtein(a: list[str], b: list[str]) -> int:
    """By its definition."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return naive_levenshtein(a[1:], b[1:])
    return 1 + min(naive_levenshtein(a[1:], b), naive_levenshtein(a, b[1:]), naive_levenshtein(a[1:], b[1:]))
