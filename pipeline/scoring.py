"""Predicted timelines of any origin against the truth: reads both, joins them by video, tells what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets.annotations import name_some
from pipeline.datasets.timelines.frames import Clock, by_clock
from pipeline.datasets.timelines.names import rename_as
from pipeline.datasets.timelines.reading import read_timelines
from pipeline.errors import UserError
from pipeline.options import ScoreOptions
from pipeline.sources import shown_path
from pipeline.timeline.labelled import LabelledVideo
from pipeline.timeline.metrics import Figure, TimelineFigures, TimelineSettings, judge_timelines, pair_videos

_BACKGROUND = ("background",)

_SHOWN = {
    "frame_accuracy": "frame accuracy",
    "frame_accuracy_by_video": "frame accuracy, mean over videos",
    "frame_accuracy_without_background": "frame accuracy without background",
    "frame_map": "frame mAP",
    "frame_calibrated_map": "frame mAP, calibrated",
    "edit": "edit score, mean over videos",
    **{f"f1_{iou}_by_video": f"F1@{iou}, mean over videos" for iou in (10, 25, 50)},
    **{f"f1_{iou}": f"F1@{iou}, counted together" for iou in (10, 25, 50)},
    **{f"map_iou_{iou}": f"mAP at IoU 0.{iou}" for iou in (10, 30, 50, 75, 95)},
    "map_iou_50_to_95": "mAP, mean of IoU 0.5 to 0.95",
    "found_share": "true segments found",
    "delay_mean_seconds": "delay, mean",
    "delay_median_seconds": "delay, median",
    "false_alarms_per_hour": "false alarms an hour",
}
"""Figures that are printed, in their order, and their names for people; those of spotting follow detection."""


@dataclass(frozen=True)
class _Score:
    """Figures of a set of predictions, and what was missing on either side."""

    figures: TimelineFigures
    missing: tuple[str, ...]
    """True videos without prediction, which count as empty."""
    without_truth: tuple[str, ...]
    """Predicted videos that are left out."""
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        names = {"missing": self.missing, "without_truth": self.without_truth}
        shown = {key: [shown_path(name) for name in some] for key, some in names.items()}
        return self.figures.summary() | shown | {"notes": list(self.notes)}

    def lines(self) -> list[str]:
        """Return the figures as lines for people."""
        return figure_lines(self.figures)


def figure_lines(counts: TimelineFigures) -> list[str]:
    """Return figures as lines for people: name, value, 95 % interval over videos."""
    figures = counts.figures
    spotting = {name: _spotting_title(name) for name in figures if name.startswith("spotting_")}
    titles = {name: title for name, title in (_SHOWN | spotting).items() if name in figures}
    width = max(len(title) for title in titles.values())
    head = (
        f"{counts.num_videos} videos, {counts.num_true_segments} true segments, "
        f"{counts.num_predicted_segments} predicted"
    )
    return [head, *(f"{title:{width}}  {_shown(name, figures[name])}" for name, title in titles.items())]


def _spotting_title(name: str) -> str:
    return f"mAP of starts within {name.removeprefix('spotting_map_within_').removesuffix('_seconds')} s"


def _shown(name: str, figure: Figure) -> str:
    """``64.3 %  (57.7 to 70.2)``; a dash for what cannot be had."""
    unit, factor = (" s", 1) if name.startswith("delay_") else ("", 1) if "_per_" in name else (" %", 100)
    value, low, high = (
        "-" if number != number else f"{factor * number:.1f}" for number in (figure.value, figure.low, figure.high)
    )
    return f"{value:>6}{unit}" + ("" if low == "-" else f"  ({low} to {high})")


def score_files(predictions: Sequence[Path], truth: Path, options: ScoreOptions) -> _Score:
    """Compare predictions with the truth.

    Args:
        predictions: files or folders, which together have each video once.
        truth: a file or folder.
        options: formats, rate, background, thresholds.

    Raises:
        UserError: a file is malformed, or the two sides have no video in common.
    """
    right, found = _read_sides(predictions, truth, options)
    names, found_names = (dict.fromkeys(video.name for video in side) for side in (right, found))
    missing = tuple(name for name in names if name not in found_names)
    without_truth = tuple(name for name in found_names if name not in names)
    if found and len(missing) == len(names):
        raise UserError(
            f"no predicted video has truth: {found[0].name!r} and others here, {right[0].name!r} and others in "
            f"{truth}; name the videos alike"
        )
    background, has_steps = options.background or _BACKGROUND, any(video.steps is not None for video in right)
    has_clock = options.sample_fps is not None or not has_steps
    pairs = pair_videos(right, found, options.sample_fps, background)
    figures = judge_timelines(pairs, _settings(options, has_clock))
    stride = round((options.sample_fps or 1.0) / pairs[0].sample_fps) if has_steps else 1
    notes = [
        *_name_notes(missing, without_truth),
        *_time_notes(right, found, has_clock, stride),
        *_label_notes(figures, background),
    ]
    return _Score(figures, missing, without_truth, tuple(notes))


def _read_sides(
    predictions: Sequence[Path], truth: Path, options: ScoreOptions
) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """The truth, and the predictions under its names."""
    right = [_timed(video, options) for video in read_timelines(truth, options.truth_format, options.split)]
    found = [_timed(video, options) for path in predictions for video in read_timelines(path, options.format)]
    if not right:
        raise UserError(f"{truth}: no video" + (f" of the split {options.split!r}" if options.split else ""))
    return right, rename_as(right, found)


def _timed(video: LabelledVideo, options: ScoreOptions) -> LabelledVideo:
    """A video whose times are not frames."""
    if not video.in_frames:
        return video
    if options.sample_fps is None:
        raise UserError(
            f"{video.name}: its labels count frames; say their rate with --sample_fps, or turn the file into a "
            "manifest with clipgru convert, which looks the frames up in the video"
        )
    return by_clock(video, Clock((), options.sample_fps))


def _settings(options: ScoreOptions, has_clock: bool) -> TimelineSettings:
    return TimelineSettings(
        spot_tolerances_seconds=options.tolerance_seconds,
        spot_fps=options.sample_fps,
        has_clock=has_clock,
        late_seconds=options.late_seconds,
        num_resamples=options.resamples,
        seed=options.seed,
    )


def _name_notes(missing: Sequence[str], without_truth: Sequence[str]) -> list[str]:
    said = {
        "true videos have no prediction, and count as empty (--split takes a part of the truth)": missing,
        "predicted videos have no truth, and are left out": without_truth,
    }
    return [f"{text}. {name_some(names)}" for text, names in said.items() if names]


def _time_notes(
    right: Sequence[LabelledVideo], found: Sequence[LabelledVideo], has_clock: bool, stride: int
) -> list[str]:
    if stride > 1:
        return [
            f"predictions are of one step in {stride}, and compared at these",
            *_time_notes(right, found, has_clock, 1),
        ]
    if not has_clock:
        return ["the truth has a label a step, at no known rate: figures in seconds and hours need --sample_fps"]
    known = {video.name for side in (right, found) for video in side if video.steps or video.duration_seconds}
    unknown = [video.name for video in right if video.name not in known]
    text = "videos have no known duration: each is taken to end with its last segment"
    return [f"{text}. {name_some(unknown)}"] if unknown else []


def _label_notes(figures: TimelineFigures, background: Sequence[str]) -> list[str]:
    if not figures.unknown_labels:
        return []
    names = name_some(figures.unknown_labels)
    return [f"predicted labels that are never true ({', '.join(background)} is background; see --background). {names}"]
