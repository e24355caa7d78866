"""Numbers for segments after a training: the validation videos, which no step was taken on, choose them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from pipeline.calibration import UNCALIBRATED
from pipeline.config import SequenceConfig, TimelineNumbers
from pipeline.datasets.annotations import VideoRow, as_stretch
from pipeline.datasets.sequences import scored_video
from pipeline.datasets.walks import SequenceBatch
from pipeline.timeline.tuning import ScoredVideo, choose_numbers, numbers_by_length
from pipeline.training.timelines import TimelineLearner


def choose_for(
    module: TimelineLearner, batches: Iterable[object], taught: Iterable[VideoRow]
) -> TimelineNumbers | None:
    """The numbers that are best for whole videos that a trained module has not learned from; without any, those by the
    lengths of the stretches that it was taught."""
    experiment = module.experiment
    background = None if experiment.sequence.labels == "several" else module.recognizer.classifier.out_features - 1
    videos = [video for part in module.ranks.gather(list(_held_out(module, batches))) for video in part]
    chosen = choose_numbers(videos, experiment.sampling.sample_fps, background)
    return chosen or numbers_by_length(list(_lengths_seconds(taught, experiment.sequence)))


def _lengths_seconds(rows: Iterable[VideoRow], config: SequenceConfig) -> Iterator[float]:
    for row in rows:
        if as_stretch(row, config).label and row.end_seconds is not None:
            yield row.end_seconds - row.start_seconds


@torch.inference_mode()
def _held_out(module: TimelineLearner, batches: Iterable[object]) -> Iterator[ScoredVideo]:
    module.eval()
    delay_frames = module.experiment.sequence.delay_frames
    is_several = module.experiment.sequence.labels == "several"
    read = UNCALIBRATED.each_probability if is_several else UNCALIBRATED.probabilities
    for batch in batches:
        assert isinstance(batch, SequenceBatch)
        scored = module.scored(batch.to(module.device))
        if scored is not None:
            logits, targets = (part[delay_frames:] for part in scored)  # an answer speaks of the frame so many before
            yield scored_video(read(logits).numpy(), targets.numpy())
