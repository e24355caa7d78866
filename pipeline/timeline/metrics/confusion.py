"""Labels taken for one another, by frames and by segments, and F1 over the overlap that is asked for. For pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline.labelled import Span
from pipeline.timeline.metrics.average_precision import Weights, ratio
from pipeline.timeline.metrics.frames import is_covered
from pipeline.timeline.metrics.pairs import VideoPair
from pipeline.timeline.metrics.segments import bounds, temporal_iou

NOTHING = ""
"""The label of no segment: what a missed action is taken for, and the truth of a false alarm."""
_MIN_IOU = 0.1  # below it a segment and an answer have nothing to do with one another


def confuse_frames(pairs: Sequence[VideoPair], labels: Sequence[str]) -> NDArray[np.int64]:
    """Count grid frames by true and by predicted label, ``[K + 1, K + 1]``; the last is none, the background. For
    videos of one label at a time: of overlapping ones the last in ``labels`` counts."""
    counts = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)
    for pair in pairs:
        truth, found = (label_places(pair, spans, labels) for spans in (pair.truth, pair.predicted))
        np.add.at(counts, (truth[pair.known_frames], found[pair.known_frames]), 1)
    return counts


def label_places(pair: VideoPair, spans: Sequence[Span], labels: Sequence[str]) -> NDArray[np.intp]:
    """Return the place in ``labels`` of each grid frame's label, ``[num_frames]``; K where there is none."""
    places = np.full(pair.num_frames, len(labels), np.intp)
    for place, label in enumerate(labels):
        places[is_covered(pair, spans, label)] = place
    return places


def confuse_segments(pair: VideoPair) -> Counter[tuple[str, str]]:
    """Count (true label, predicted label) over the segments of a video.

    A true segment and an answer belong together if they overlap by a tenth (IoU); of several the answer of the right
    label, then the one that overlaps most; none belongs to two. ``NOTHING`` stands for the other side of what is left.
    """
    truth, found = pair.truth, pair.predicted
    counts: Counter[tuple[str, str]] = Counter()
    left = [set(range(len(truth))), set(range(len(found)))]
    if truth and found:
        overlaps = np.nan_to_num(temporal_iou(bounds(truth), bounds(found)))
        near = [(i, j) for i, j in np.argwhere(overlaps >= _MIN_IOU).tolist()]
        for i, j in sorted(near, key=lambda pair: (truth[pair[0]].label != found[pair[1]].label, -overlaps[pair])):
            if i in left[0] and j in left[1]:
                counts[truth[i].label, found[j].label] += 1
                left[0].remove(i)
                left[1].remove(j)
    counts.update((truth[i].label, NOTHING) for i in left[0])
    counts.update((NOTHING, found[j].label) for j in left[1])
    return counts


def f1_over_overlap(pairs: Sequence[VideoPair], min_ious: Sequence[float], weights: Weights) -> NDArray[np.float64]:
    """F1 of the segments of all videos, counted together, at each least IoU: ``[R, I]`` for weights ``[R, V]``. The
    matching is that of ``match_segments``."""
    hits = np.array([_hits(pair, min_ious) for pair in pairs], np.float64)  # [V, I]
    totals = np.array([len(pair.truth) + len(pair.predicted) for pair in pairs], np.float64)  # [V]
    return ratio(2 * weights @ hits, (weights @ totals)[:, None])


def _hits(pair: VideoPair, min_ious: Sequence[float]) -> list[int]:
    """At each least IoU, the true segments that are the best match of some answer of their label."""
    best: list[tuple[int, float]] = []
    labels = {span.label for span in pair.predicted}
    for label in labels:
        places = [place for place, span in enumerate(pair.truth) if span.label == label]
        if places:
            found = bounds([span for span in pair.predicted if span.label == label])
            overlaps = np.nan_to_num(temporal_iou(found, bounds([pair.truth[place] for place in places]))).round(9)
            best += [(places[k], float(row[k])) for row, k in zip(overlaps, overlaps.argmax(axis=1), strict=True)]
    return [len({place for place, iou in best if iou >= least}) for least in min_ious]
