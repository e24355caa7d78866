"""Evaluation of a model of timelines: whole videos through the engine, in the mode that it was trained for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Segment
from pipeline.config import InferenceConfig, TimelineConfig, TimelineNumbers
from pipeline.datasets.annotations import VideoRow, as_stretch
from pipeline.datasets.sequences import (
    TimelineVideo,
    frame_targets,
    scored_video,
    timeline_videos,
    unlabelled_stretches,
)
from pipeline.errors import DecodeError, UserError
from pipeline.inference import Model
from pipeline.report.strip import ScoreStrip
from pipeline.sampling import grid_range
from pipeline.timeline.metrics import frame_average_precision
from pipeline.timeline.scores import FrameMeans, FrameScore
from pipeline.timeline.tuning import ScoredVideo, choose_numbers
from pipeline.timeline_results import ScoreCurves, TimelineEvaluation, TimelineResult

_NUM_CURVES = 8
"""Labels whose curves are kept of a video, besides those that are true or predicted in it."""


def evaluate_timelines(
    model: Model,
    rows: Sequence[VideoRow],
    *,
    inference: InferenceConfig | None = None,
    timeline: TimelineConfig | None = None,
    progress: Callable[[], None] = lambda: None,
) -> TimelineEvaluation:
    """Runs a model over every video of the rows, as ``predict`` does.

    Args:
        model: of task timeline, or of clips, by windows.
        rows: labelled stretches; their labels are the model's, or background.
        inference: another mode than the model was trained for.
        timeline: how scores become segments.
        progress: called after each video.

    Raises:
        UserError: there are no rows, or a label is none of the model's.
    """
    return evaluate_and_score(model, rows, inference=inference, timeline=timeline, progress=progress)[0]


def evaluate_and_score(
    model: Model,
    rows: Sequence[VideoRow],
    *,
    inference: InferenceConfig | None = None,
    timeline: TimelineConfig | None = None,
    progress: Callable[[], None] = lambda: None,
) -> tuple[TimelineEvaluation, list[ScoredVideo]]:
    """Evaluate as ``evaluate_timelines``; return the scores at every grid frame of each readable video too."""
    config = model.file.sequence
    results, scored = _results(model, rows, inference or InferenceConfig(), timeline or TimelineConfig(), progress)
    evaluation = TimelineEvaluation(
        model.labels,
        model.file.sampling.sample_fps,
        tuple(results),
        config.labels,
        config.background_label,
        config.unlabelled_label,
        _frame_map(model, scored),
    )
    return evaluation, scored


def choose_timeline_numbers(
    model: Model, rows: Sequence[VideoRow], *, progress: Callable[[], None] = lambda: None
) -> tuple[TimelineNumbers | None, list[str]]:
    """Choose the numbers by which a model's scores become segments, as a training does at its end.

    Args:
        model: of task timeline.
        rows: labelled stretches of videos that it was not trained on.
        progress: called after each video.

    Returns:
        The numbers, None if nothing is known of the videos; and errors of those that could not be read.

    Raises:
        UserError: as ``evaluate_timelines``.
    """
    results, scored = _results(model, rows, InferenceConfig(), TimelineConfig(), progress)
    errors = [result.error for result in results if result.error]
    background = None if model.file.may_overlap else len(model.labels) - 1
    return choose_numbers(scored, model.file.sampling.sample_fps, background), errors


def _frame_map(model: Model, scored: Sequence[ScoredVideo]) -> float | None:
    """Mean average precision over the grid frames of all videos, background left out."""
    if not scored:
        return None
    actions = [place for place, label in enumerate(model.labels) if label != model.file.sequence.background_label]
    scores, truth = (np.concatenate([getattr(v, side)[v.is_known] for v in scored]) for side in ("scores", "truth"))
    precisions = frame_average_precision(scores[:, actions], truth[:, actions])
    return None if np.isnan(precisions).all() else float(np.nanmean(precisions))


def _results(
    model: Model,
    rows: Sequence[VideoRow],
    inference: InferenceConfig,
    timeline: TimelineConfig,
    progress: Callable[[], None],
) -> tuple[list[TimelineResult], list[ScoredVideo]]:
    config = model.file.sequence
    videos = timeline_videos([as_stretch(row, config) for row in rows])
    known = {*model.labels, config.background_label, config.unlabelled_label}
    unknown = sorted({row.label for row in rows if row.label} - known)
    if unknown or not videos:
        said = f"the data has labels the model does not know: {', '.join(unknown[:5])}" if unknown else "no videos"
        raise UserError(f"{said}; it knows {', '.join(model.labels[:8])}")
    results: list[TimelineResult] = []
    scored: list[ScoredVideo] = []
    for video in videos:
        results.append(_result(model, video, inference, timeline, scored))
        progress()
    return results, scored


def _result(
    model: Model, video: TimelineVideo, inference: InferenceConfig, timeline: TimelineConfig, seen: list[ScoredVideo]
) -> TimelineResult:
    file, fps = model.file, model.file.sampling.sample_fps
    name, path = video.row.name or video.row.path.name, str(video.row.path)
    try:
        end_seconds, frames, segments = _run(model, video, inference, timeline)
    except DecodeError as error:
        truth = _segments(video, None)
        end_seconds = max((segment.end_seconds for segment in truth), default=0.0)
        return TimelineResult(name, path, end_seconds, _num_grid_frames(fps, end_seconds), truth, (), error=str(error))
    num_frames = _num_grid_frames(fps, end_seconds)  # windows of a short video go on behind its end
    unknown = unlabelled_stretches(video, end_seconds, file.sequence)
    truth = (*_segments(video, end_seconds), *(Segment(*times, file.sequence.unlabelled_label) for times in unknown))
    scores = _by_frame(frames, len(model.labels))[:num_frames]
    seen.append(scored_video(scores, frame_targets(video, len(scores), fps, model.labels, file.sequence).numpy()))
    silent = {timeline.unknown_label} - set(model.labels)
    abstained, predicted = (tuple(s for s in segments if (s.label in silent) == is_one) for is_one in (True, False))
    shown = {segment.label for segment in (*truth, *predicted)}
    return TimelineResult(
        name,
        path,
        end_seconds,
        num_frames,
        truth,
        predicted,
        abstained,
        _curves(frames, fps, model.labels, shown),
        is_features=bool(model.feature_form),
    )


def _num_grid_frames(sample_fps: float, end_seconds: float) -> int:
    return len(grid_range(sample_fps, 0.0, end_seconds)) if end_seconds > 0 else 0


def _run(
    model: Model, video: TimelineVideo, inference: InferenceConfig, timeline: TimelineConfig
) -> tuple[float, list[FrameScore], list[Segment]]:
    """Duration of a video, the scores at its grid frames, and its segments, those without an answer among them."""
    if model.file.sequence.labels == "one":
        timeline = replace(timeline, report_unknown=True)
    with model.opener.open(video.row.source) as reader:
        end_seconds = reader.info.duration_seconds
        tracks, means = model.timeline(timeline, end_seconds), FrameMeans()
        frames: list[FrameScore] = []
        segments: list[Segment] = []
        with closing(model.score_windows(reader, inference)) as windows:
            for scored in windows:
                frames += means.push(scored)
                segments += tracks.push(scored)
        return end_seconds, frames + means.flush(), segments + tracks.finish()


def _by_frame(scored: Sequence[FrameScore], num_labels: int) -> NDArray[np.float32]:
    """``[G, K]``; 0 where there is none, as before the second frame of a model of changes."""
    means = np.zeros((scored[-1][0] + 1 if scored else 0, num_labels), np.float32)
    for index, scores in scored:
        means[index] = scores
    return means


def _curves(frames: Sequence[FrameScore], sample_fps: float, labels: Sequence[str], shown: set[str]) -> ScoreCurves:
    if not frames:
        return ScoreCurves()
    strip = ScoreStrip()
    for index, scores in frames:
        strip.add(index / sample_fps, scores)
    best = [labels[place] for place in strip.top_labels(_NUM_CURVES)]
    means = strip.means().round(2)
    kept = {label: tuple(means[:, k].tolist()) for k, label in enumerate(labels) if label in {*shown, *best}}
    return ScoreCurves(tuple(round(time, 3) for time in strip.times_seconds), kept)


def _segments(video: TimelineVideo, end_seconds: float | None) -> tuple[Segment, ...]:
    """The stretches with a label, cut off where the video ends."""
    found = []
    for row in video.stretches:
        end = end_seconds if row.end_seconds is None else min(row.end_seconds, end_seconds or row.end_seconds)
        if row.label and end is not None and end > row.start_seconds:
            found.append(Segment(row.start_seconds, end, row.label))
    return tuple(found)
