"""Choice of a head: cross-validation over groups, and the accuracy to expect of the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.confidence import with_unseen
from pipeline.config import Experiment
from pipeline.datasets.splits import group_folds
from pipeline.learning.features import VideoFeatures
from pipeline.learning.heads import loss_and_right
from pipeline.learning.trials import Trial, run_trials

_NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class HeldOut:
    """A candidate's answers for every video when it was held out, over all seeds.

    Attributes:
        loss: minus the log of the probability of each video's class, mean over seeds, ``[V]``.
        right: share of the seeds with which its best label is right, ``[V]``.
        logits: of every clip with every seed, ``[N, K]``.
        truth: their classes, int64 ``[N]``.
    """

    loss: Tensor
    right: Tensor
    logits: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Choice:
    """The candidates' figures and the best of them."""

    held_out: dict[str, HeldOut]
    groups: tuple[str, ...]
    """The source of each video, ``[V]``."""

    @property
    def best(self) -> str:
        """The most accurate candidate; of equals the one with the least loss."""
        found = self.held_out
        return max(found, key=lambda name: (round(float(found[name].right.mean()), 6), -float(found[name].loss.mean())))

    def expected_accuracy(self, seed: int = 0) -> tuple[float, float, float]:
        """Accuracy on new videos, and its 95 % interval.

        The best of several looks better than it is: it was chosen by these very videos. So the choice itself is
        repeated on resampled sources, and scored on those that were left out (BBC-CV: Tsamardinos, Greasidou and
        Borboudakis, "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation", Machine
        Learning, 2018).
        """
        right = torch.stack([found.right for found in self.held_out.values()]).numpy()  # [candidates, V]
        names, source = np.unique(np.array(self.groups), return_inverse=True)
        rng, accuracies = np.random.default_rng(seed), []
        for _ in range(_NUM_RESAMPLES):
            weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[source]
            if (weight == 0).any():
                chosen = int((right @ weight).argmax())
                accuracies.append(float(right[chosen, weight == 0].mean()))
        low, high = np.quantile(accuracies, [0.025, 0.975])
        accuracy = float(np.mean(accuracies))
        return accuracy, *with_unseen((float(low), float(high)), accuracy, len(names))


def num_folds_for(videos: Sequence[VideoFeatures], wanted: int) -> int:
    """Number of folds: as wanted, but at most the sources of the class with the fewest; at least two."""
    return max(2, min(wanted, *map(len, _sources_of(videos).values())))


def classes_of_one_source(videos: Sequence[VideoFeatures]) -> tuple[str, ...]:
    """Of which no source can be held out."""
    return tuple(sorted(label for label, sources in _sources_of(videos).items() if len(sources) == 1))


def _sources_of(videos: Sequence[VideoFeatures]) -> dict[str, set[str]]:
    """By class."""
    sources: dict[str, set[str]] = {}
    for video in videos:
        sources.setdefault(video.row.label, set()).add(video.row.group)
    return sources


def cross_validate(
    experiments: dict[str, Experiment],
    labels: Sequence[str],
    videos: Sequence[VideoFeatures],
    num_folds: int,
    num_seeds: int,
    progress: Callable[[], None],
    num_processes: int = 1,
) -> Choice:
    """Trains every candidate on each fold with each seed. ``progress`` is called after each training.

    Raises:
        UserError: a class has too few sources, or a process was lost.
    """
    by_row = {video.row: place for place, video in enumerate(videos)}
    folds = [
        tuple([by_row[row] for row in rows] for rows in fold)
        for fold in group_folds(by_row, num_folds, next(iter(experiments.values())).seed)
    ]
    trials = [
        Trial(replace(experiment, seed=experiment.seed + number), train, test)
        for experiment in experiments.values()
        for number in range(num_seeds)
        for train, test in folds
    ]
    found = run_trials(trials, labels, videos, num_processes)
    held_out: dict[str, HeldOut] = {}
    for name in experiments:
        loss, right = torch.zeros(2, num_seeds, len(videos))
        clips: list[tuple[Tensor, Tensor]] = []
        for number in range(num_seeds):
            for _, test in folds:
                logits, truth, places = next(found)
                loss[number, test], right[number, test] = loss_and_right(logits, truth, places, len(test))
                clips.append((logits, truth))
                progress()
        joined = [torch.cat(part) for part in zip(*clips, strict=True)]
        held_out[name] = HeldOut(loss.mean(dim=0), right.mean(dim=0), *joined)
    return Choice(held_out, tuple(video.row.group for video in videos))
