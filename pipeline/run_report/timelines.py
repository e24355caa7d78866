"""The sections of a page about timelines: figures, videos as strips, labels, confusions, overlap and delay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import DecodeConfig
from pipeline.report.charts import Axis, Series, axis_over
from pipeline.report.templates import Section, percent, section
from pipeline.run_report.records import TimelineRecord
from pipeline.run_report.results import part_section, title_of
from pipeline.run_report.strips import VideoFigures, make_strips, rank_videos
from pipeline.timeline.metrics import VideoPair
from pipeline.timeline.metrics.confusion import NOTHING, confuse_frames, confuse_segments, f1_over_overlap
from pipeline.timeline.metrics.figures import interval_of, resample_videos
from pipeline.timeline.metrics.onsets import find_onsets

_TEMPLATE = "run_report/timelines.html"
_IOUS = tuple(percent / 100 for percent in range(5, 100, 5))
_MAX_MATRIX_LABELS = 40
_MAX_PAIRS = 20
_MAX_LISTED = 2_000
_LATE_SECONDS = 2.0  # as the figures have it
_KINDS = {
    "model": "the model",
    "windows": "the same model by windows",
    "frame_by_frame": "one frame at a time, no time",
}
_LABEL_FIGURES = (
    "num_true_segments",
    "num_predicted_segments",
    "frame_ap",
    "ap_iou_25",
    "found_share",
)


def timeline_sections(record: TimelineRecord, folder: Path, decode: DecodeConfig, num_videos: int) -> list[Section]:
    """All sections about one evaluation but its headline, for a page in ``folder``."""
    ranked, pairs = rank_videos(record.evaluation), record.evaluation.pairs()
    return [
        *([_beside_section(record)] if record.summary.get("beside") else []),
        _strips_section(record, ranked, folder, decode, num_videos),
        _labels_section(record),
        _confusions_section(record, pairs),
        _quality_section(record, pairs),
        _list_section(record, ranked),
    ]


def timeline_headline_section(record: TimelineRecord) -> Section:
    """The figures, large."""
    title = f"On {title_of(record)}"
    return section(f"figures-{record.name}", title, "run_report/results.html", headline=_timeline_headline(record))


def _timeline_headline(record: TimelineRecord) -> dict[str, tuple[str, str]]:
    """Figure -> (value, what to know about it)."""
    given = record.summary
    others = f"F1@10 {_text(given, 'f1_10_by_video')}, F1@50 {_text(given, 'f1_50_by_video')}"
    found = {
        "frame mAP": (_text(given, "frame_map_by_score"), "mean over labels, by scores"),
        "frame accuracy": (_text(given, "frame_accuracy"), _interval(given, "frame_accuracy")),
        "F1 at 25\u00a0% overlap": (_text(given, "f1_25_by_video"), f"{_interval(given, 'f1_25_by_video')}; {others}"),
        "edit score": (_text(given, "edit"), _interval(given, "edit")),
        "actions found": (_text(given, "found_share"), _interval(given, "found_share")),
        "delay, median": (_text(given, "delay_median_seconds"), _interval(given, "delay_median_seconds")),
        "false alarms an hour": (_text(given, "false_alarms_per_hour"), _interval(given, "false_alarms_per_hour")),
    }
    if (given.get("answered_share") or 1.0) < 1:
        right = f"{_text(given, 'frame_accuracy_answered')} of the frames there are right"
        found["answered"] = (_text(given, "answered_share"), right)
    about = [f"{given['num_errors']} unreadable, counted as empty" if given.get("num_errors") else "all could be read"]
    about += [f"{given['num_left_out']} left out, which it had seen"] if given.get("num_left_out") else []
    about += [f"{given['num_true_segments']:,} true segments"]
    return found | {"videos": (f"{given['num_videos']:,}", "; ".join(about))}


def _text(given: Mapping[str, Any], name: str) -> str:
    return _shown(name, given.get(name))


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "\u2013"
    return f"{value:.1f}\u00a0s" if name.endswith("_seconds") else f"{value:.1f}" if "_per_" in name else percent(value)


def _interval(given: Mapping[str, Any], name: str) -> str:
    low, high = given.get("interval_95", {}).get(name, (None, None))
    return (
        "no interval: one video" if low is None else f"95\u00a0% interval {_shown(name, low)} to {_shown(name, high)}"
    )


def _beside_section(record: TimelineRecord) -> Section:
    """The model beside the same by windows and a head that sees one frame at a time."""
    figures = {"f1_10_by_video": "F1@10", "f1_25_by_video": "F1@25", "f1_50_by_video": "F1@50"}
    figures |= {"edit": "edit", "frame_accuracy": "frame accuracy"}
    kinds = {"model": record.summary, **record.summary["beside"]}
    rows = [
        [_KINDS.get(kind, kind), *(_with_interval(given, name) for name in figures)] for kind, given in kinds.items()
    ]
    gains = [
        (_KINDS.get(kind, kind), given["gain"]["f1_25_by_video"]) for kind, given in record.summary["beside"].items()
    ]
    columns = [(title, "interval") for title in figures.values()]
    return part_section(record, "beside", "Beside it", _TEMPLATE, columns=columns, rows=rows, gains=gains)


def _with_interval(given: Mapping[str, Any], name: str) -> Any:
    low, high = given["interval_95"][name]
    value = given[name]
    return None if value is None else (value, (low, high) if low is not None else None)


def _strips_section(
    record: TimelineRecord, ranked: Sequence[VideoFigures], folder: Path, decode: DecodeConfig, num_videos: int
) -> Section:
    strips = list(make_strips(ranked[:num_videos], record.evaluation, folder, decode))
    colours: dict[str, str] = {}
    for strip in strips:
        colours |= strip.colours
    several = record.evaluation.labels_at_once == "several"
    order = [label for label in record.evaluation.labels if label in colours]
    legend = [] if several else [(label, colours[label]) for label in order]
    values = {"strips": strips, "num_videos": len(ranked), "legend": legend, "several": several}
    return part_section(record, "strips", "Videos, the worst first", _TEMPLATE, **values)


def _labels_section(record: TimelineRecord) -> Section:
    """A row a label, in the order of how much of it is found."""
    rows = [[label, *map(found.get, _LABEL_FIGURES)] for label, found in record.summary["labels"].items()]
    rows.sort(key=lambda row: (-1.0 if row[5] is None else row[5], row[0]))
    return part_section(record, "labels", "Labels", _TEMPLATE, rows=rows)


def _confusions_section(record: TimelineRecord, pairs: Sequence[VideoPair]) -> Section:
    evaluation = record.evaluation
    background = evaluation.background_label
    labels = [label for label in evaluation.labels if label != background]
    is_one = evaluation.labels_at_once == "one"
    segments: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        segments.update(confuse_segments(pair))
    seconds = confuse_frames(pairs, labels) / evaluation.sample_fps if is_one else np.zeros((0, 0))
    shown = _most_confused(labels, segments)
    names = [*shown, NOTHING]
    wrong = Counter({pair: count for pair, count in segments.items() if pair[0] != pair[1]})
    places = [*(labels.index(label) for label in shown), len(labels)] if is_one else []
    return part_section(
        record,
        "mistakes",
        "Confusions",
        _TEMPLATE,
        segment_labels=[name or "nothing" for name in names],
        segments=[[segments[true, found] for found in names] for true in names],
        frame_labels=[name or background for name in names],
        frames=[[round(float(seconds[i, j])) for j in places] for i in places],
        frequent=[
            (true or "nothing", found or "nothing", count) for (true, found), count in wrong.most_common(_MAX_PAIRS)
        ],
        num_labels=len(labels),
    )


def _most_confused(labels: Sequence[str], segments: Counter[tuple[str, str]]) -> list[str]:
    """All labels, or of too many those that are in most errors."""
    errors: Counter[str] = Counter(dict.fromkeys(labels, 0))
    for (true, found), count in segments.items():
        if true != found:
            errors.update({true: count, found: count})
    chosen = {label for label, _ in errors.most_common(_MAX_MATRIX_LABELS) if label}
    return [label for label in labels if label in chosen]


def _quality_section(record: TimelineRecord, pairs: Sequence[VideoPair]) -> Section:
    """F1 at each least overlap, how soon true starts are answered, and false alarms by label."""
    lines, rows = _f1_lines(pairs)
    found, seconds = _found_line(pairs)
    names = ("false_alarms_per_hour", "delay_mean_seconds", "delay_median_seconds")
    alarms = [[label, *map(given.get, names)] for label, given in record.summary["labels"].items()]
    return part_section(
        record,
        "quality",
        "Overlap, delay, false alarms",
        _TEMPLATE,
        f1=lines,
        overlap=Axis("least overlap (IoU) of an answer that counts", 0, 1, "percent"),
        share=Axis("", 0, 1, "percent"),
        rows=rows,
        found=found,
        seconds=seconds,
        alarms=sorted(alarms, key=lambda row: (-(row[1] or 0.0), row[0])),
        unknown=record.summary.get("unknown_labels", ()),
    )


def _f1_lines(pairs: Sequence[VideoPair]) -> tuple[list[Series], list[tuple[float | None, ...]]]:
    """F1 over the least overlap with its interval over videos, as lines and as rows of a table."""
    num_resamples = 1000 if len(pairs) > 1 else 0
    weights = np.vstack([np.ones((1, len(pairs))), resample_videos(len(pairs), num_resamples)])
    values = f1_over_overlap(pairs, _IOUS, weights)
    ends = np.array([interval_of(values[1:, place]) for place in range(len(_IOUS))])
    titles = (("F1", "s0"), ("95\u00a0% interval, low", "s0 light"), ("95\u00a0% interval, high", "s0 light"))
    columns = [[_known(value) for value in column] for column in (values[0], *ends.T)]
    series = [
        Series(name, [(iou, value) for iou, value in zip(_IOUS, column, strict=True) if value is not None], style)
        for (name, style), column in zip(titles, columns, strict=True)
    ]
    rows = [row for row in zip(_IOUS, *columns, strict=True) if row[1] is not None]
    return [line for line in series if line.points], rows


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _found_line(pairs: Sequence[VideoPair]) -> tuple[Series, Axis]:
    """Share of the true segments that are answered within so many seconds, and the axis of these."""
    onsets = find_onsets(pairs, _LATE_SECONDS)
    delays, total = np.sort(onsets.delays_seconds), max(1.0, float(onsets.num_truth.sum()))
    longest = float(np.quantile(delays, 0.98)) if len(delays) else 1.0
    seconds = axis_over("seconds after the true start", [0.0, max(1.0, longest)], from_zero=True)
    times = [seconds.high * step / 40 for step in range(41)]
    reached = [(time, float(np.searchsorted(delays, time + 1e-9, side="right")) / total) for time in times]
    return Series("found", reached), seconds


def _list_section(record: TimelineRecord, ranked: Sequence[VideoFigures]) -> Section:
    """Every video in a table that can be sorted."""
    rows = [
        [
            v.result.name,
            v.f1[1],
            v.frame_accuracy,
            v.edit,
            len(v.result.truth),
            len(v.result.predicted),
            v.result.duration_seconds,
        ]
        for v in ranked[:_MAX_LISTED]
    ]
    return part_section(record, "listed", "Every video", _TEMPLATE, rows=rows, num_videos=len(ranked))
