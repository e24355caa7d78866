"""``Teacher``: learns from what is labelled, drafts the rest, says what to label next; in the learner's process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.calibration import UNCALIBRATED, Calibration
from pipeline.checkpoint import ModelFile, provenance_of, save_model
from pipeline.config import DecodeConfig, TimelineConfig
from pipeline.datasets.identities import Contents
from pipeline.datasets.sequences import IGNORED, timeline_labels
from pipeline.known_videos import KnownVideos
from pipeline.labelling.features import FeatureMaker
from pipeline.labelling.messages import WINDOW_SECONDS, LearnJob, News, StageClock, VideoDrafts, as_bytes
from pipeline.labelling.proposals import FrameEvidence, Offer, apart, rank_offers
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
from pipeline.timeline.segments import merge_segments

_DRAFT_TIMELINE = TimelineConfig(smoothing_seconds=0.5, min_seconds=0.75)


class Teacher:
    """Keeps projected features, and the last model, from one job to the next.

    Args:
        decode: how files are read.
        tell: called with news.
    """

    def __init__(self, decode: DecodeConfig, tell: Callable[[News], None]) -> None:
        self._maker, self._tell = FeatureMaker(decode), tell
        self._transform = self._maker.experiment.transform
        self._basis: Basis | None = None
        self._projected: dict[str, Tensor] = {}
        self._model: Recognizer | None = None
        self._labels: tuple[str, ...] = ()
        self._calibration = UNCALIBRATED

    def learn(self, job: LearnJob) -> None:
        """Train on the labelled stretches of the videos that have features, draft all, judge, and offer.

        Raises:
            UserError: nothing is labelled.
        """
        clock, experiment = StageClock(self._tell), self._maker.experiment
        with clock.stage("features", 0.05):
            self._take_features(job.paths)
        names = {row.label for row in job.rows}
        labels = timeline_labels(sorted(names), experiment.sequence)
        require_labels(labels[:-1])
        with clock.stage("targets", 0.1):
            examples = make_examples(job.rows, self._projected, labels, experiment, job.rejected)
            taught = [example for example in examples if (example.targets != IGNORED).any()]
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
        delay = self._maker.experiment.sequence.delay_frames
        return calibration.probabilities(timeline_scores(model, self._projected[name], delay))

    def _drafts(self, name: str) -> VideoDrafts:
        assert self._model is not None
        fps = self._maker.experiment.sampling.sample_fps
        scores = self._probabilities(self._model, name, self._calibration).numpy()
        grid = self._transform.grid_of_features(self._transform.frames_for(len(scores)))
        windows = (WindowScores(Window(k, k + 1), values) for k, values in zip(grid, scores, strict=True))
        segments = merge_segments(windows, self._labels, fps, grid.stop / fps, _DRAFT_TIMELINE)
        found = tuple((s.label, s.start_seconds, s.end_seconds, float(s.score)) for s in segments)
        scores = np.pad(scores, ((grid.start, 0), (0, 0)))
        return VideoDrafts(self._labels, fps, as_bytes(scores), found)

    def _offers(self, job: LearnJob, examples: Mapping[str, Example], held_out: HeldOutFigures) -> list[Offer]:
        fps = self._maker.experiment.sampling.sample_fps
        videos = {name: self._evidence(name, examples.get(name), held_out) for name in self._projected}
        offers = rank_offers(videos, fps, WINDOW_SECONDS)
        if job.order == "random":
            order = np.random.default_rng(job.seed).permutation(len(offers))
            offers = apart([replace(offers[place], why="by chance") for place in order])
        return offers

    def _evidence(self, name: str, example: Example | None, held_out: HeldOutFigures) -> FrameEvidence:
        """By the model, and by those of another seed that have not seen the video."""
        assert self._model is not None
        group = example.group if example else name
        others = [m for m, unseen in zip(held_out.models, held_out.groups, strict=True) if group in unseen]
        models = [self._model, *(others or held_out.models)]
        probabilities = torch.stack([self._probabilities(model, name, self._calibration) for model in models])
        count = len(self._projected[name])
        is_labelled = np.zeros(count, bool) if example is None else (example.targets != IGNORED).numpy()
        return FrameEvidence(self._projected[name].numpy(), probabilities.numpy(), is_labelled)

    def _save(self, job: LearnJob, path: Path, held_out: HeldOutFigures) -> None:
        assert self._model is not None
        assert self._basis is not None
        experiment = self._maker.experiment
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
        )
        save_model(path, model)
