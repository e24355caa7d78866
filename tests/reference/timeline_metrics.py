"""The metrics of timelines, slow and plain: one video, label, threshold and prediction at a time, no arrays.

Spans are tuples (start, end, label, score); several videos are a dict from name to spans.
"""

from __future__ import annotations

import math
from fractions import Fraction

Spans = list  # of tuples
Videos = dict  # name -> Spans


def naive_runs(steps: list[str], background: str) -> list[tuple[int, int, str]]:
    """First step, stop step and label of each stretch of equal labels that is not background."""
    runs: list[tuple[int, int, str]] = []
    for place, label in enumerate(steps):
        if runs and runs[-1][2] == label:
            runs[-1] = (runs[-1][0], place + 1, label)
        else:
            runs.append((place, place + 1, label))
    return [run for run in runs if run[2] != background]


def naive_segment_counts(predicted: Spans, truth: Spans, min_iou: Fraction) -> tuple[int, int, int]:
    """Right, false and missed, by exact fractions of whole steps."""
    found: list[int] = []
    for start, end, label, *_ in predicted:
        best, best_iou = None, Fraction(-1)
        for place, (true_start, true_end, true_label, *_) in enumerate(truth):
            shared = max(0, min(end, true_end) - max(start, true_start)) if label == true_label else 0
            iou = Fraction(shared, max(end, true_end) - min(start, true_start))
            if iou > best_iou:
                best, best_iou = place, iou
        if best is not None and best_iou >= min_iou and best not in found:
            found.append(best)
    return len(found), len(predicted) - len(found), len(truth) - len(found)


def naive_iou(a: tuple, b: tuple) -> float:
    """Of two spans; NaN where both are empty."""
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / union if union else math.nan


def naive_interpolated_ap(flags: list[bool], num_truth: int) -> float:
    """Area below the precision, at each recall the best that any longer list has."""
    precisions = [sum(flags[: place + 1]) / (place + 1) for place in range(len(flags))]
    return sum(max(precisions[place:]) for place, flag in enumerate(flags) if flag) / num_truth


def naive_detection_ap(truth: Videos, predictions: Videos, label: str, min_iou: float) -> float:
    """Of one label; scores differ."""
    ranked = sorted(
        ((span[3], name, span) for name, spans in predictions.items() for span in spans if span[2] == label),
        key=lambda item: -item[0],
    )
    free = {name: [span for span in spans if span[2] == label] for name, spans in truth.items()}
    num_truth, flags = sum(map(len, free.values())), []
    for _, name, span in ranked:
        near = [(naive_iou(span, true), true) for true in free.get(name, [])]
        near = [(iou, true) for iou, true in near if iou >= min_iou or math.isnan(iou)]
        flags.append(bool(near))
        if near:
            # Of equal ones the last.
            free[name].remove(max(reversed(near), key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])[1])
    return naive_interpolated_ap(flags, num_truth)


def naive_spotting_ap(truth: Videos, predictions: Videos, label: str, tolerance: int) -> float:
    """Of the starts of one label, in whole frames; scores differ."""
    ranked = sorted(
        ((span[3], name, span[0]) for name, spans in predictions.items() for span in spans if span[2] == label),
        key=lambda item: -item[0],
    )
    all_truth = [(name, span[0]) for name, spans in truth.items() for span in spans if span[2] == label]
    taken: set[tuple[str, int]] = set()
    flags = []
    for _, name, frame in ranked:
        free = [at for video, at in all_truth if video == name and (video, at) not in taken]
        closest = min(free, key=lambda at: abs(at - frame), default=None)
        flags.append(closest is not None and abs(closest - frame) <= tolerance)
        if flags[-1]:
            taken.add((name, closest))  # type: ignore[arg-type]
    return naive_interpolated_ap(flags, len(all_truth))


def naive_frame_ap(scores: list[float], targets: list[bool], calibrated: bool) -> float:
    """The mean, over the frames that have the label, of the precision among the frames that score as much or more."""
    num_positive = sum(targets)
    weight = (len(targets) - num_positive) / num_positive if calibrated else 1.0
    total = 0.0
    for score in (score for score, target in zip(scores, targets, strict=True) if target):
        above = [target for other, target in zip(scores, targets, strict=True) if other >= score]
        hits, false = sum(above), len(above) - sum(above)
        total += weight * hits / (weight * hits + false) if false else 1.0
    return total / num_positive


def naive_onsets(truth: Spans, predicted: Spans, late: int, ticks: int = 4) -> tuple[list[float], int]:
    """Delays of the segments that are found and the number of false alarms, by looking at every moment: times are whole
    numbers, moments lie between them."""

    def moments(start: float, end: float) -> set[int]:
        return {start * ticks} if start == end else set(range(int(start * ticks), int(end * ticks)))

    delays = []
    for start, end, label, *_ in truth:
        window = set(range(int(start * ticks), int((end + late) * ticks)))
        said = [moments(a, b) & window for a, b, other, *_ in predicted if other == label]
        if any(said):
            delays.append(min(min(each) for each in said if each) / ticks - start)
    false = 0
    for start, end, label, *_ in predicted:
        windows = [range(int(a * ticks), int((b + late) * ticks)) for a, b, other, *_ in truth if other == label]
        false += not any(moments(start, end) & set(window) for window in windows)
    return delays, false
