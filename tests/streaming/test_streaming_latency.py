"""Percentiles from a histogram against numpy's over all values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streaming.latency import BOUNDS_SECONDS, LatencyHistogram


@given(st.lists(st.floats(1e-5, 1e3), min_size=1, max_size=300), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_within_one_percent(values: list[float], percent: int) -> None:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    expected = np.percentile(values, percent, method="inverted_cdf")
    assert histogram.percentile_seconds(percent) == pytest.approx(expected, rel=0.0101)


@given(st.lists(st.floats(1e-5, 1e3), max_size=300))
def test_counts_up_to_a_bound_are_right_within_two_percent_of_it(values: list[float]) -> None:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    *counts, total = histogram.num_within()
    for bound, count in zip(BOUNDS_SECONDS, counts, strict=True):
        assert sum(value <= bound for value in values) <= count <= sum(value <= bound * 1.0201 for value in values)
    assert (total, histogram.total_seconds) == (len(values), pytest.approx(sum(values)))


def test_what_is_out_of_range_counts() -> None:
    histogram = LatencyHistogram()
    assert histogram.milliseconds() == {}
    for value in (-1.0, 0.0, 1e9):
        histogram.add(value)
    assert histogram.count == 3
    assert histogram.percentile_seconds(50) == pytest.approx(1e-5, rel=0.02)
    assert histogram.percentile_seconds(99) == pytest.approx(1e4, rel=0.02)
    assert list(histogram.milliseconds()) == ["p50", "p95", "p99"]
