"""``Teacher``: learns from what is labelled, drafts the rest, says what to label next; in the learner's process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.calibration import UNCALIBRATED, Calibration
from pipeline.checkpoint import ModelFile, provenance_of, save_model
from pipeline.config import Experiment, TimelineConfig, TimelineNumbers
from pipeline.datasets.identities import Contents
from pipeline.datasets.sequences import has_target, timeline_labels
from pipeline.known_videos import KnownVideos
from pipeline.labelling.messages import WINDOW_SECONDS, LearnJob, News, StageClock, VideoDrafts, as_bytes
from pipeline.labelling.proposals import FrameEvidence, Offer, random_offers, rank_offers
from pipeline.learning.timelines import (
    Basis,
    Example,
    HeldOutFigures,
    fit_basis,
    fold_in,
    hold_out,
    make_examples,
    require_labels,
    timeline_scores,
    train_small,
)
from pipeline.models.recognizer import Recognizer
from pipeline.sampling import Window
from pipeline.timeline.scores import WindowScores
from pipeline.timeline.segments import Timeline
from pipeline.timeline.tracks import Tracks

_SHORTEST_SECONDS = 0.75
"""Of drafts, and of the segments that the model file makes."""
_DRAFT_TIMELINE = TimelineConfig(smoothing_seconds=0.5, min_seconds=_SHORTEST_SECONDS)


class FeatureSource(Protocol):
    """Has the features of videos, or not."""

    experiment: Experiment
    """Settings of the features, and of heads on them."""

    def find(self, path: Path) -> Tensor | None:
        """Return the features of a video, ``[G, D]``, if they are there."""


class Teacher:
    """Keeps projected features, and the last model, from one job to the next.

    Args:
        maker: has the features of videos, and the settings.
        tell: called with news.
    """

    def __init__(self, maker: FeatureSource, tell: Callable[[News], None]) -> None:
        self._maker, self._tell = maker, tell
        self._transform = self._maker.experiment.transform
        self._basis: Basis | None = None
        self._projected: dict[str, Tensor] = {}
        self._model: Recognizer | None = None
        self._labels: tuple[str, ...] = ()
        self._calibration = UNCALIBRATED
        self._experiment = maker.experiment

    def learn(self, job: LearnJob) -> None:
        """Train on the labelled stretches of the videos that have features, draft all, judge, and offer.

        Raises:
            UserError: nothing is labelled.
        """
        experiment = self._maker.experiment
        sequence = replace(experiment.sequence, labels="several" if job.may_overlap else "one")
        experiment = replace(experiment, sequence=sequence)
        clock, self._experiment = StageClock(self._tell), experiment
        with clock.stage("features", 0.05):
            self._take_features(job.paths)
        names = {row.label for row in job.rows}
        labels = timeline_labels(sorted(names), experiment.sequence)
        require_labels([label for label in labels if label != experiment.sequence.background_label])
        with clock.stage("targets", 0.1):
            examples = make_examples(job.rows, self._projected, labels, experiment, job.rejected)
            taught = [example for example in examples if has_target(example.targets).any()]
            require_labels([example.name for example in taught])
        with clock.stage("training", 0.15):
            self._model = train_small(taught, labels, experiment, job.seed)
            self._labels, self._calibration = labels, UNCALIBRATED
        with clock.stage("drafts", 0.45):
            self._draft_all(job)
        self._tell(News("learned", seconds=dict(clock.seconds)))
        with clock.stage("held-out figures", 0.5):
            held_out = hold_out(taught, labels, experiment)
            self._calibration = held_out.calibration
        with clock.stage("offers", 0.9):
            offers = self._offers(job, {e.name: e for e in examples}, held_out)
        if job.output is not None:
            with clock.stage("model file", 0.95):
                self._save(job, job.output, held_out)
        self._tell(News("learned", seconds=dict(clock.seconds), figures=held_out.figures, offers=tuple(offers)))

    def draft(self, name: str, path: Path) -> None:
        """Draft one more video, whose features have been made since."""
        if self._model is not None:
            self._take_features({name: path})
            if name in self._projected:
                self._tell(News("drafts", name, drafts=self._drafts(name)))

    def _take_features(self, paths: Mapping[str, Path]) -> None:
        found = {name: self._maker.find(path) for name, path in paths.items() if name not in self._projected}
        features = {name: some for name, some in found.items() if some is not None}
        if features and self._basis is None:
            self._basis = fit_basis(list(features.values()))
        for name, some in features.items():
            assert self._basis is not None
            # The cache ends with features of a frame that stands still, which a stream never shows.
            self._projected[name] = self._basis.project(some[: len(self._transform.grid_of_features(len(some)))])

    def _draft_all(self, job: LearnJob) -> None:
        for name in job.paths:
            if name in self._projected:
                self._tell(News("drafts", name, drafts=self._drafts(name)))

    def _probabilities(self, model: Recognizer, name: str, calibration: Calibration) -> Tensor:
        sequence = self._experiment.sequence
        logits = timeline_scores(model, self._projected[name], sequence.delay_frames)
        return (
            calibration.each_probability(logits) if sequence.labels == "several" else calibration.probabilities(logits)
        )

    def _drafts(self, name: str) -> VideoDrafts:
        assert self._model is not None
        fps = self._maker.experiment.sampling.sample_fps
        scores = self._probabilities(self._model, name, self._calibration).numpy()
        grid = self._transform.grid_of_features(self._transform.frames_for(len(scores)))
        windows = (WindowScores(Window(k, k + 1), values) for k, values in zip(grid, scores, strict=True))
        is_several = self._experiment.sequence.labels == "several"
        tracks = (Tracks if is_several else Timeline)(self._labels, fps, _DRAFT_TIMELINE, grid.stop / fps)
        segments = [segment for window in windows for segment in tracks.push(window)] + tracks.finish()
        found = tuple((s.label, s.start_seconds, s.end_seconds, float(s.score)) for s in segments)
        scores = np.pad(scores, ((grid.start, 0), (0, 0)))
        return VideoDrafts(self._labels, fps, as_bytes(scores), found)

    def _offers(self, job: LearnJob, examples: Mapping[str, Example], held_out: HeldOutFigures) -> list[Offer]:
        fps = self._maker.experiment.sampling.sample_fps
        names = [name for name in job.paths if name in self._projected]
        videos = {name: self._evidence(name, examples.get(name), held_out) for name in names}
        if job.order == "random":
            return random_offers(videos, fps, WINDOW_SECONDS, job.seed)
        return rank_offers(videos, fps, WINDOW_SECONDS)

    def _evidence(self, name: str, example: Example | None, held_out: HeldOutFigures) -> FrameEvidence:
        """By the model, and by those of another seed that have not seen the video."""
        assert self._model is not None
        group = example.group if example else name
        others = [m for m, unseen in zip(held_out.models, held_out.groups, strict=True) if group in unseen]
        models = [self._model, *(others or held_out.models)]
        probabilities = torch.stack([self._probabilities(model, name, self._calibration) for model in models])
        count = len(self._projected[name])
        is_labelled = np.zeros(count, bool) if example is None else has_target(example.targets).numpy()
        if self._experiment.sequence.labels == "several":  # each label is there or not
            probabilities = torch.stack([probabilities, 1 - probabilities], dim=-1)
        return FrameEvidence(self._projected[name].numpy(), probabilities.numpy(), is_labelled)

    def _save(self, job: LearnJob, path: Path, held_out: HeldOutFigures) -> None:
        assert self._model is not None
        assert self._basis is not None
        experiment = self._experiment
        contents = Contents(experiment.data)
        contents.digest_all(job.rows)
        model = ModelFile(
            fold_in(self._model, self._basis, experiment, len(self._labels)),
            self._labels,
            experiment.sampling,
            experiment.transform,
            experiment.decode,
            provenance_of(experiment) | {"num_training_videos": len({row.path for row in job.rows})},
            {f"held_out_{name.replace(' ', '_')}": value for name, value in held_out.figures.items()},
            self._calibration,
            KnownVideos(contents.known(job.rows)),
            "timeline",
            experiment.sequence,
            TimelineNumbers(min_seconds=_SHORTEST_SECONDS),
        )
        save_model(path, model)
