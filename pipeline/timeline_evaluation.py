"""Evaluation of a model of timelines: whole videos through the engine, in the mode that it was trained for."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Segment
from pipeline.config import InferenceConfig, TimelineConfig
from pipeline.datasets.annotations import VideoRow, as_stretch
from pipeline.datasets.identities import LeftOut
from pipeline.datasets.sequences import IGNORED, TimelineVideo, frame_targets, timeline_videos, unlabelled_stretches
from pipeline.errors import DecodeError, UserError
from pipeline.files.writing import write_atomically
from pipeline.inference import Model
from pipeline.schema import to_json
from pipeline.timeline.labelled import LabelledVideo
from pipeline.timeline.metrics import (
    TimelineFigures,
    TimelineSettings,
    frame_average_precision,
    judge_timelines,
    pair_videos,
)
from pipeline.timeline.scores import FrameMeans, FrameScore

TIMELINE_FILES = ("summary.json", "segments.csv")


@dataclass(frozen=True)
class _TimelineResult:
    """A video, what is true of it, and the answer."""

    name: str
    duration_seconds: float
    truth: tuple[Segment, ...]
    predicted: tuple[Segment, ...]
    scores: NDArray[np.float32]
    """``[G, K]``: probabilities at each grid frame."""
    targets: NDArray[Any]
    """int64 ``[G]`` or float32 ``[G, K]``, as ``frame_targets`` gives them."""
    error: str = ""


@dataclass(frozen=True)
class TimelineEvaluation:
    """Results of every video, and what follows from them. Shares are 0 to 1."""

    labels: tuple[str, ...]
    results: tuple[_TimelineResult, ...]
    figures: TimelineFigures
    """By the times of true and predicted segments."""
    on_grid: TimelineFigures
    """By the labels at the grid frames alone, as published figures of feature sets are."""
    left_out: tuple[LeftOut, ...] | None = None

    @property
    def num_errors(self) -> int:
        """Videos that could not be read; they count as empty."""
        return sum(bool(result.error) for result in self.results)

    def summary(self) -> dict[str, Any]:
        """All figures, with 95 % intervals over videos."""
        scored = [result for result in self.results if not result.error]
        more: dict[str, Any] = {"frame_map_by_score": self._frame_map(scored)} if scored else {}
        more["on_grid"] = {name: figure.value for name, figure in self.on_grid.figures.items()}
        return self.figures.summary() | more | {"num_errors": self.num_errors}

    def _frame_map(self, results: Sequence[_TimelineResult]) -> float:
        """Mean over labels, background left out, of the average precision of the scores at each grid frame."""
        scores, targets = (np.concatenate([getattr(r, name) for r in results]) for name in ("scores", "targets"))
        if targets.ndim == 1:
            known = targets != IGNORED
            scores, targets = scores[known, :-1], np.eye(len(self.labels), dtype=bool)[targets[known], :-1]
        else:
            known = ~np.isnan(targets).any(axis=1)
            scores, targets = scores[known], targets[known] > 0.5
        return float(np.nanmean(frame_average_precision(scores, targets)))


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
    config = model.file.sequence
    videos = timeline_videos([as_stretch(row, config) for row in rows])
    unknown = sorted({row.label for row in rows if row.label} - {*model.labels, *chain(*_special(model))})
    if unknown or not videos:
        said = f"the data has labels the model does not know: {', '.join(unknown[:5])}" if unknown else "no videos"
        raise UserError(f"{said}; it knows {', '.join(model.labels[:8])}")
    silent = timeline or TimelineConfig(background_label=config.background_label)
    results = []
    for video in videos:
        results.append(_result(model, video, inference or InferenceConfig(), silent))
        progress()
    return TimelineEvaluation(model.labels, tuple(results), _figures(model, results), _figures_on_grid(model, results))


def _special(model: Model) -> tuple[tuple[str], tuple[str]]:
    return (model.file.sequence.background_label,), (model.file.sequence.unlabelled_label,)


def _figures(model: Model, results: Sequence[_TimelineResult]) -> TimelineFigures:
    sides = [
        [LabelledVideo(r.name, tuple(getattr(r, side)), r.duration_seconds) for r in results]
        for side in ("truth", "predicted")
    ]
    pairs = pair_videos(sides[0], sides[1], model.file.sampling.sample_fps, *_special(model))
    return judge_timelines(pairs)


def _figures_on_grid(model: Model, results: Sequence[_TimelineResult]) -> TimelineFigures:
    fps = model.file.sampling.sample_fps
    sides = []
    for side in ("truth", "predicted"):
        spans = [[_on_grid(segment, fps) for segment in getattr(r, side)] for r in results]
        sides.append(
            [
                LabelledVideo(r.name, tuple(filter(None, some)), len(r.scores) / fps)
                for r, some in zip(results, spans, strict=True)
            ]
        )
    return judge_timelines(pair_videos(sides[0], sides[1], fps, *_special(model)), TimelineSettings(num_resamples=0))


def _on_grid(segment: Segment, sample_fps: float) -> Segment | None:
    """The grid frames that a segment covers, each until the next; None if there is none between its ends."""
    first, stop = (math.ceil(time * sample_fps - 1e-6) for time in (segment.start_seconds, segment.end_seconds))
    return replace(segment, start_seconds=first / sample_fps, end_seconds=stop / sample_fps) if stop > first else None


def _result(
    model: Model, video: TimelineVideo, inference: InferenceConfig, timeline: TimelineConfig
) -> _TimelineResult:
    file, name = model.file, video.row.name or video.row.path.name
    try:
        with model.opener.open(video.row.source) as reader:
            end_seconds = reader.info.duration_seconds
            tracks, means = model.timeline(timeline, end_seconds), FrameMeans()
            frames: list[FrameScore] = []
            predicted: list[Segment] = []
            with closing(model.score_windows(reader, inference)) as windows:
                for scored in windows:
                    frames += means.push(scored)
                    predicted += tracks.push(scored)
            predicted += tracks.finish()
            frames += means.flush()
    except DecodeError as error:
        truth = _segments(video, None)
        end_seconds = max((segment.end_seconds for segment in truth), default=0.0)
        empty = np.zeros((0, len(model.labels)), np.float32)
        return _TimelineResult(name, end_seconds, truth, (), empty, np.zeros(0, np.int64), str(error))
    scores = _by_frame(frames, len(model.labels))
    targets = frame_targets(video, len(scores), file.sampling.sample_fps, model.labels, file.sequence).numpy()
    unknown = unlabelled_stretches(video, end_seconds, file.sequence)
    truth = (*_segments(video, end_seconds), *(Segment(*times, file.sequence.unlabelled_label) for times in unknown))
    return _TimelineResult(name, end_seconds, truth, tuple(predicted), scores, targets)


def _by_frame(scored: Sequence[FrameScore], num_labels: int) -> NDArray[np.float32]:
    """``[G, K]``; 0 where there is none, as before the second frame of a model of changes."""
    means = np.zeros((scored[-1][0] + 1 if scored else 0, num_labels), np.float32)
    for index, scores in scored:
        means[index] = scores
    return means


def _segments(video: TimelineVideo, end_seconds: float | None) -> tuple[Segment, ...]:
    """The stretches with a label, cut off where the video ends."""
    found = []
    for row in video.stretches:
        end = end_seconds if row.end_seconds is None else min(row.end_seconds, end_seconds or row.end_seconds)
        if row.label and end is not None and end > row.start_seconds:
            found.append(Segment(row.start_seconds, end, row.label))
    return tuple(found)


def write_timelines(evaluation: TimelineEvaluation, folder: Path, summary: dict[str, Any]) -> list[Path]:
    """Writes ``summary.json`` and ``segments.csv``, true and predicted segments of every video. Returns what it
    wrote."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "side", "start_seconds", "end_seconds", "label", "score"])
    for result in evaluation.results:
        for side in ("truth", "predicted"):
            for segment in getattr(result, side):
                times = f"{segment.start_seconds:.3f}", f"{segment.end_seconds:.3f}"
                writer.writerow([result.name, side, *times, segment.label, f"{segment.score:.6f}"])
    contents = to_json(summary, indent=1, ensure_ascii=False), text.getvalue()
    for name, content in zip(TIMELINE_FILES, contents, strict=True):
        write_atomically(folder / name, content)
    return [folder / name for name in TIMELINE_FILES]
