"""All figures of predicted timelines, each with the interval of a bootstrap over videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline.metrics.average_precision import RankedDetections, RankedFrames, Weights, mean_over_labels, ratio
from pipeline.timeline.metrics.detection import rank_detections, rank_spots
from pipeline.timeline.metrics.frames import count_frames, rank_frames
from pipeline.timeline.metrics.onsets import find_onsets
from pipeline.timeline.metrics.pairs import VideoPair
from pipeline.timeline.metrics.segments import SegmentCounts, edit_score, match_segments

_F1_IOUS = (0.1, 0.25, 0.5)
_DETECTION_IOUS = tuple(percent / 100 for percent in range(10, 100, 5))
_AVERAGED_IOUS = tuple(range(_DETECTION_IOUS.index(0.5), len(_DETECTION_IOUS)))  # ActivityNet's 0.5 to 0.95

_Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TimelineSettings:
    """Thresholds of the figures, and the resampling of their intervals."""

    spot_tolerances_seconds: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0)
    """Largest distances of a predicted from a true start, for spotting."""
    spot_fps: float | None = None
    """Rate to which starts are rounded for spotting; None: exact times."""
    has_clock: bool = True
    """False where steps were taken for seconds: figures in seconds and hours are then left out."""
    late_seconds: float = 2.0
    """Time after the end of a true segment in which an answer still finds it."""
    num_resamples: int = 1000
    """Resamples of the videos for the 95 % intervals; 0, or a single video: no intervals."""
    seed: int = 0


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class TimelineFigures:
    """Agreement of predicted timelines with the truth. Shares are from 0 to 1."""

    figures: Mapping[str, Figure]
    """Name with unit -> figure. ``f1_50`` adds the counts of all videos, ``f1_50_by_video`` is a mean over videos."""
    labels: Mapping[str, Mapping[str, float]]
    """Label that occurs in the truth -> name -> figure."""
    counts: Mapping[float, SegmentCounts]
    """Least IoU -> segments of all videos."""
    num_videos: int
    num_true_segments: int
    num_predicted_segments: int
    unknown_labels: tuple[str, ...] = field(default=())
    """Predicted labels that the truth never has: wrong wherever they stand, but no label of a mean over labels."""

    def summary(self) -> dict[str, Any]:
        """Everything as plain values for JSON: the figures by name, their intervals, the labels."""
        return {
            "num_videos": self.num_videos,
            "num_true_segments": self.num_true_segments,
            "num_predicted_segments": self.num_predicted_segments,
            **{name: figure.value for name, figure in self.figures.items()},
            "interval_95": {name: [figure.low, figure.high] for name, figure in self.figures.items()},
            "labels": {label: dict(figures) for label, figures in self.labels.items()},
            "unknown_labels": list(self.unknown_labels),
        }


def resample_videos(num_videos: int, num_resamples: int = 1000, seed: int = 0) -> Weights:
    """Times that each video is drawn in each resample with replacement, ``[num_resamples, num_videos]``."""
    draws = np.random.default_rng(seed).multinomial(num_videos, [1 / num_videos] * num_videos, num_resamples)
    return draws.astype(np.float64)


def judge_timelines(pairs: Sequence[VideoPair], settings: TimelineSettings | None = None) -> TimelineFigures:
    """Compute every figure of predicted timelines, each with a percentile bootstrap interval over the videos.

    Args:
        pairs: the videos, one at least.
        settings: thresholds and resampling.

    Raises:
        UserError: a score is not finite.
    """
    settings = settings or TimelineSettings()
    judged = _Judged(pairs, settings)
    values = judged.figures(np.ones((1, len(pairs))))
    num_resamples = settings.num_resamples if len(pairs) > 1 else 0  # one video alone has no spread
    resampled = judged.figures(resample_videos(len(pairs), num_resamples, settings.seed))
    predicted = {span.label for pair in pairs for span in pair.predicted}
    return TimelineFigures(
        {name: Figure(float(value[0]), *interval_of(resampled[name])) for name, value in values.items()},
        judged.by_label(),
        {iou: reduce(add, counts) for iou, counts in judged.counts.items()},
        len(pairs),
        sum(len(pair.truth) for pair in pairs),
        sum(len(pair.predicted) for pair in pairs),
        tuple(sorted(predicted - set(judged.labels))),
    )


def weigh_figures(
    pairs: Sequence[VideoPair], weights: Weights, settings: TimelineSettings | None = None
) -> dict[str, NDArray[np.float64]]:
    """Compute every figure of predicted timelines in which each video counts so many times, ``[R]`` each: NaN where
    there is none.

    Args:
        pairs: V videos.
        weights: ``[R, V]``.
        settings: thresholds; nothing is resampled.

    Raises:
        UserError: a score is not finite.
    """
    return _Judged(pairs, settings or TimelineSettings()).figures(weights)


def interval_of(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of resamples ``[R]``, by percentiles of those that have the figure."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


class _Judged:
    """Matches, counts and ranks, made once for the figures of any resample."""

    def __init__(self, pairs: Sequence[VideoPair], settings: TimelineSettings) -> None:
        self.labels = sorted({span.label for pair in pairs for span in pair.truth})
        self.counts = {iou: [match_segments(p.predicted, p.truth, iou) for p in pairs] for iou in _F1_IOUS}
        self._edits = np.array([edit_score(pair.predicted, pair.truth) for pair in pairs])
        self._frames = np.array(
            [(c.num_right, c.num_frames, c.num_right_in_action, c.num_in_action) for c in map(count_frames, pairs)],
            np.float64,
        )
        self._pairs, self._settings = pairs, settings
        tolerances, fps = settings.spot_tolerances_seconds, settings.spot_fps
        self._ranked: list[tuple[RankedFrames, RankedDetections, RankedDetections]] = [
            (
                rank_frames(pairs, label),
                rank_detections(pairs, label, _DETECTION_IOUS),
                rank_spots(pairs, label, tolerances, fps),
            )
            for label in self.labels
        ]
        self._onsets = find_onsets(pairs, settings.late_seconds)

    def figures(self, weights: Weights) -> _Values:
        """Name -> ``[R]``."""
        values = {**self._of_frames(weights), **self._of_segments(weights), **self._of_detections(weights)}
        return values | self._in_seconds(weights) if self._settings.has_clock else values

    def _of_frames(self, weights: Weights) -> _Values:
        right, total, right_in_action, total_in_action = self._frames.T
        precisions = [frames.average_precision(weights) for frames, *_ in self._ranked]
        return {
            "frame_accuracy": ratio(weights @ right, weights @ total),
            "frame_accuracy_by_video": _mean_over_videos(weights, ratio(right, total)),
            "frame_accuracy_without_background": ratio(weights @ right_in_action, weights @ total_in_action),
            "frame_map": mean_over_labels([plain for plain, _ in precisions], len(weights)),
            "frame_calibrated_map": mean_over_labels([calibrated for _, calibrated in precisions], len(weights)),
        }

    def _of_segments(self, weights: Weights) -> _Values:
        values = {"edit": _mean_over_videos(weights, self._edits)}
        for iou, counts in self.counts.items():
            hits = weights @ np.array([count.hits for count in counts], np.float64)
            wrong = weights @ np.array([count.false_alarms + count.missed for count in counts], np.float64)
            name = f"f1_{round(100 * iou)}"
            values[name] = np.where(hits + wrong > 0, ratio(2 * hits, 2 * hits + wrong), 1.0)
            values[f"{name}_by_video"] = _mean_over_videos(weights, np.array([count.f1 for count in counts]))
        return values

    def _of_detections(self, weights: Weights) -> _Values:
        num = len(weights)
        at_iou = [detections.average_precision(weights) for _, detections, _ in self._ranked]
        maps = [mean_over_labels([each[k] for each in at_iou], num) for k in range(len(_DETECTION_IOUS))]
        values = {f"map_iou_{round(100 * iou)}": maps[k] for k, iou in enumerate(_DETECTION_IOUS)}
        values["map_iou_50_to_95"] = np.mean([maps[k] for k in _AVERAGED_IOUS], axis=0)
        return values

    def _in_seconds(self, weights: Weights) -> _Values:
        spots = [spots.average_precision(weights) for *_, spots in self._ranked]
        maps = {
            f"spotting_map_within_{seconds:g}_seconds": mean_over_labels([each[k] for each in spots], len(weights))
            for k, seconds in enumerate(self._settings.spot_tolerances_seconds)
        }
        return maps | self._onsets.figures(weights)

    def by_label(self) -> dict[str, dict[str, float]]:
        """Label -> name -> figure, over all videos."""
        once = np.ones((1, len(self._pairs)))
        table = {}
        for label, (frames, detections, spots) in zip(self.labels, self._ranked, strict=True):
            plain, calibrated = frames.average_precision(once)
            at_iou = detections.average_precision(once)
            table[label] = {
                "num_true_segments": float(detections.num_truth.sum()),
                "num_predicted_segments": float(len(detections.videos)),
                "frame_ap": float(plain[0]),
                "frame_calibrated_ap": float(calibrated[0]),
                **{f"ap_iou_{round(100 * iou)}": float(at_iou[k, 0]) for k, iou in enumerate(_DETECTION_IOUS)},
                **(self._label_in_seconds(label, spots) if self._settings.has_clock else {}),
            }
        return table

    def _label_in_seconds(self, label: str, spots: RankedDetections) -> dict[str, float]:
        once = np.ones((1, len(self._pairs)))
        tolerances, near = self._settings.spot_tolerances_seconds, spots.average_precision(once)[:, 0]
        onsets = find_onsets(self._pairs, self._settings.late_seconds, label).figures(once)
        return {
            **{f"spotting_ap_within_{s:g}_seconds": float(value) for s, value in zip(tolerances, near, strict=True)},
            **{name: float(value[0]) for name, value in onsets.items()},
        }


def _mean_over_videos(weights: Weights, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[R]``, without the videos that have no value."""
    is_known = np.isfinite(values)
    return ratio(weights[:, is_known] @ values[is_known], weights[:, is_known].sum(axis=1))
