"""Confusions and F1 over the overlap against plain code."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from pipeline.timeline.labelled import LabelledSpan, spans_of_steps, without_labels
from pipeline.timeline.metrics import VideoPair
from pipeline.timeline.metrics.confusion import NOTHING, confuse_frames, confuse_segments, f1_over_overlap
from pipeline.timeline.metrics.segments import match_segments

LABELS = ("a", "b", "c")


def random_pair(rng: np.random.Generator) -> tuple[VideoPair, list[str], list[str]]:
    """A video of 60 steps, and the labels of both sides at each."""
    sides = [np.repeat(rng.choice(["a", "b", "c", "background"], 15), 4).tolist() for _ in range(2)]
    spans = [without_labels(spans_of_steps(side, 2.0), ["background"]) for side in sides]
    return VideoPair("v", spans[0], spans[1], 30.0, 2.0, 60), *sides


def test_frames_are_counted_as_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    made = [random_pair(rng) for _ in range(4)]
    truth, found = ([label for one in made for label in one[side]] for side in (1, 2))
    expected = confusion_matrix(truth, found, labels=[*LABELS, "background"])
    np.testing.assert_array_equal(confuse_frames([one[0] for one in made], LABELS), expected)


@pytest.mark.parametrize("seed", range(3))
def test_f1_over_the_overlap_matches_as_the_published_code_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng)[0] for _ in range(5)]
    ious = [0.05, 0.1, 0.25, 0.5, 0.95]
    weights = rng.integers(0, 3, (2, 5)).astype(float)
    for row, found in zip(weights, f1_over_overlap(pairs, ious, weights), strict=True):
        for iou, value in zip(ious, found, strict=True):
            counts = [match_segments(pair.predicted, pair.truth, iou) for pair in pairs]
            hits = sum(w * c.hits for w, c in zip(row, counts, strict=True))
            wrong = sum(w * (c.false_alarms + c.missed) for w, c in zip(row, counts, strict=True))
            assert value == pytest.approx(2 * hits / (2 * hits + wrong))


def test_segments_belong_to_one_answer_each() -> None:
    truth = [(0, 10, "a"), (10, 20, "b"), (30, 40, "a")]
    found = [(0, 6, "b"), (6, 10, "a"), (11, 20, "c"), (50, 60, "a")]
    sides = [tuple(LabelledSpan(float(s), float(e), label) for s, e, label in side) for side in (truth, found)]
    counts = confuse_segments(VideoPair("v", *sides, 60.0, 1.0, 60))
    # The right label comes before the larger overlap; the first answer is left over.
    assert counts == Counter({("a", "a"): 1, ("b", "c"): 1, ("a", NOTHING): 1, (NOTHING, "b"): 1, (NOTHING, "a"): 1})
