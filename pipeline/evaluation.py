"""Evaluation of a model: one row a video, and the figures made of those rows.

A video that cannot be read is a wrong answer with its reason beside it; it never leaves the denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from pipeline.calibration import NUM_BINS, UNCALIBRATED, Reliability, reliability
from pipeline.checkpoint import ModelFile
from pipeline.confidence import wilson_interval
from pipeline.config import ClipSettings, DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_feature_loader, make_loader, read_features
from pipeline.datasets.features import FeatureCache, FrozenBackbone
from pipeline.datasets.grids import cache_store
from pipeline.datasets.identities import LeftOut
from pipeline.datasets.loading import lost_workers
from pipeline.datasets.videos import BadVideo, ClipBatch, Sample, fixed_clips
from pipeline.errors import UserError
from pipeline.files.writing import write_atomically
from pipeline.ranks import ALONE, Ranks
from pipeline.report.tables import confusion_csv, confusion_picture, csv_text
from pipeline.schema import to_json
from pipeline.transforms.augmentation import TrainTransform
from pipeline.transforms.frames import ClipTransform

EVALUATION_FILES = ("summary.json", "videos.csv", "confusion.csv", "confusion.png", "reliability.csv", "left_out.csv")
_Classify = Callable[[Tensor], Tensor]
"""uint8 clips ``[B, T + L, 3, S, S]`` -> logits ``[B, K]`` on the CPU."""


@dataclass(frozen=True)
class VideoResult:
    """A video, the truth and the answer."""

    path: str
    label: str
    predicted: str | None
    """None if the video could not be read."""
    probabilities: tuple[float, ...]
    """``[K]``, the mean over the video's clips; empty if the video could not be read."""
    error: str = ""
    name: str = ""
    """The path below the data's root, by which two runs know the same video."""
    start_seconds: float = 0.0
    end_seconds: float | None = None
    """The labelled stretch; None: until the video ends."""
    uncalibrated: tuple[float, ...] = ()
    """``[K]``, as ``probabilities`` would be without the model's calibration; empty: they are the same."""
    is_unknown: bool = False
    """True if most clips are unknown by the model's rule."""

    def score_of(self, label: str | None, labels: Sequence[str]) -> str:
        """The probability of a label to six decimals, as tables have it; empty if the video could not be read."""
        return f"{self.probabilities[labels.index(label)]:.6f}" if label is not None and self.probabilities else ""


@dataclass(frozen=True)
class Evaluation:
    """Results of every video, and what follows from them. Shares are 0 to 1."""

    labels: tuple[str, ...]
    results: tuple[VideoResult, ...]
    left_out: tuple[LeftOut, ...] | None = None
    """Videos that the model may not be judged by; None if nobody looked for such."""

    @property
    def num_videos(self) -> int:
        """All of them, readable or not."""
        return len(self.results)

    @property
    def num_errors(self) -> int:
        """Videos that could not be read."""
        return sum(bool(result.error) for result in self.results)

    @property
    def top1(self) -> float:
        """Share of videos whose best label is right."""
        return sum(result.predicted == result.label for result in self.results) / max(1, self.num_videos)

    @property
    def top5(self) -> float:
        """Share of videos with the right label among the best five."""
        scores, truth = self._read_videos()
        if not len(truth):
            return 0.0
        k = min(5, len(self.labels))
        accuracy = multiclass_accuracy(scores, truth, len(self.labels), average="micro", top_k=k)
        return float(accuracy) * len(truth) / self.num_videos

    @property
    def class_recall(self) -> dict[str, float | None]:
        """Share of each class's videos that are right; None for a class without videos."""
        right: dict[str, list[bool]] = {label: [] for label in self.labels}
        for result in self.results:
            right.setdefault(result.label, []).append(result.predicted == result.label)
        return {label: sum(right[label]) / len(right[label]) if right[label] else None for label in self.labels}

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the recall of the classes that have videos."""
        present = [value for value in self.class_recall.values() if value is not None]
        return sum(present) / max(1, len(present))

    @property
    def confusion(self) -> Tensor:
        """int64 ``[K, K]`` counts of readable videos: true class down, predicted class across."""
        scores, truth = self._read_videos()
        return multiclass_confusion_matrix(scores.argmax(dim=1), truth, len(self.labels))

    def _read_videos(self, *, calibrated: bool = True) -> tuple[Tensor, Tensor]:
        """Scores ``[N, K]`` and classes ``[N]`` of the videos that could be read."""
        index = {label: place for place, label in enumerate(self.labels)}
        read = [result for result in self.results if not result.error]
        scores = [
            result.probabilities if calibrated else result.uncalibrated or result.probabilities for result in read
        ]
        truth = torch.tensor([index[result.label] for result in read], dtype=torch.int64)
        return torch.tensor(scores).reshape(len(read), len(self.labels)), truth

    def reliability(self, *, calibrated: bool = True) -> Reliability:
        """Confidence against accuracy over the videos that could be read; before the calibration if not after it."""
        return reliability(*self._read_videos(calibrated=calibrated))

    @property
    def known_share(self) -> float:
        """Share of videos that could be read and are not unknown by the model's rule."""
        read = [result for result in self.results if not result.error]
        return sum(not result.is_unknown for result in read) / max(1, len(read))

    def summary(self) -> dict[str, float]:
        """The figures by name; ``top1_low`` and ``top1_high`` are Wilson's 95 % interval."""
        low, high = wilson_interval(round(self.top1 * self.num_videos), self.num_videos)
        left_out = {} if self.left_out is None else {"num_left_out": len(self.left_out)}
        return {
            "top1": self.top1,
            "top1_low": low,
            "top1_high": high,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "num_videos": self.num_videos,
            "num_errors": self.num_errors,
            "calibration_error": self.reliability().expected_error,
            "calibration_error_before": self.reliability(calibrated=False).expected_error,
            "known_share": self.known_share,
        } | left_out


@lost_workers()
def evaluate_model(
    model: ModelFile,
    rows: Sequence[VideoRow],
    data: DataConfig,
    *,
    num_clips: int | None = None,
    classify: _Classify | None = None,
    mirror: bool = False,
    progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Runs a model over every row, each on one of the ranks; every rank gets the results of all.

    Args:
        model: on the device it should run on.
        rows: the videos with their true labels.
        data: batch size and workers.
        num_clips: clips a video; default as the model file says.
        classify: gives the answers in the model's place, for another form of it.
        mirror: each clip's mirror image counts as one more clip of its video.
        progress: called with the number of videos done in each batch of this rank.
        ranks: those that share the work; the batches are those of a single process.

    Raises:
        UserError: a row's label is none of the model's, or there are no rows.
    """
    check_known(rows, model.labels)
    if not rows:
        raise UserError("there are no videos to evaluate; set data.test_fraction above 0, or choose another split")
    settings = model.clips_on(data, num_clips)
    if mirror and data.cache == "features":
        raise UserError("cached features have no mirror image; evaluate with --data.cache none, or without --mirror")
    cached = data.cache == "features" and classify is None
    if cached:
        loader = _feature_loader(model, rows, settings, ranks)
    else:
        loader = make_loader(rows, model.labels, settings, fixed_clips, ranks)
    answers: dict[int, dict[str, Any]] = {}
    bad: dict[int, BadVideo] = {}
    for batch in loader:
        assert isinstance(batch, ClipBatch)
        answers.update(_video_answers(model, classify or partial(_classify, model), batch, mirror))
        bad.update(dict(batch.bad))
        if progress:
            progress(len(batch.rows.unique()) + len(batch.bad))
    for others_answers, others_bad in ranks.gather((answers, bad)):
        answers |= others_answers
        bad |= others_bad
    results = [_result(row, answers.get(i), bad.get(i)) for i, row in enumerate(rows)]
    return Evaluation(model.labels, tuple(results))


def check_known(rows: Sequence[VideoRow], labels: Sequence[str]) -> None:
    """Refuse rows whose label is none of the model's: raises ``UserError`` with both."""
    unknown = sorted({row.label for row in rows} - set(labels))
    if unknown:
        known = f"{', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}"
        raise UserError(f"the data has labels the model does not know: {', '.join(unknown[:5])}; it knows {known}")


def _feature_loader(
    model: ModelFile, rows: Sequence[VideoRow], settings: ClipSettings, ranks: Ranks
) -> DataLoader[Sample]:
    """Features as the training with a frozen backbone kept them."""
    backbone = FrozenBackbone(model.recognizer, TrainTransform(model.transform, model.normalization))
    cache = FeatureCache(backbone, cache_store(settings.data), settings)
    features = read_features(cache, rows, model.labels, settings, 0, lambda: None, ranks)
    return make_feature_loader(rows, model.labels, settings, fixed_clips, features, ranks)


def _video_answers(model: ModelFile, classify: _Classify, batch: ClipBatch, mirror: bool) -> dict[int, dict[str, Any]]:
    if not len(batch.labels):
        return {}
    views = [batch.frames, batch.frames.flip(-1)] if mirror else [batch.frames]
    logits, rows = torch.cat([classify(view) for view in views]), batch.rows.repeat(len(views))
    return {int(row): _answer(model, logits[rows == row]) for row in batch.rows.unique()}


@torch.inference_mode()
def _classify(model: ModelFile, frames: Tensor) -> Tensor:
    frames = frames.to(next(model.recognizer.parameters()).device)
    if frames.is_floating_point():  # cached features
        logits = model.recognizer.classify(frames)
    else:
        logits = model.recognizer(ClipTransform(model.transform, model.normalization).evaluate(frames))
    return logits.cpu()


def _answer(model: ModelFile, logits: Tensor) -> dict[str, Any]:
    """The fields of a ``VideoResult`` that are the model's, from the logits of one video's clips ``[N, K]``."""
    before, after = (reading.finite_probabilities(logits).mean(dim=0) for reading in (UNCALIBRATED, model.calibration))
    return {
        "predicted": model.labels[int(after.argmax())],
        "probabilities": tuple(after.tolist()),
        "uncalibrated": tuple(before.tolist()),
        "is_unknown": bool(model.calibration.is_unknown(logits).float().mean() > 0.5),
    }


def _result(row: VideoRow, answer: dict[str, Any] | None, bad: BadVideo | None) -> VideoResult:
    result = VideoResult(str(row.path), row.label, None, (), "", row.name, row.start_seconds, row.end_seconds)
    if answer is None:
        return replace(result, error=f"{bad.stage}: {bad.cause}" if bad else "not read")
    return replace(result, **answer)


def reliability_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The bins that have videos: their number, mean confidence and accuracy, before and after calibration."""
    parts = {"before": evaluation.reliability(calibrated=False), "after": evaluation.reliability()}
    return [
        {"calibration": name, "to": f"{(place + 1) / NUM_BINS:.2f}", "videos": int(part.counts[place])}
        | {"confidence": f"{part.confidence[place]:.4f}", "accuracy": f"{part.accuracy[place]:.4f}"}
        for name, part in parts.items()
        for place in part.counts.nonzero()[:, 0].tolist()
    ]


def write_evaluation(evaluation: Evaluation, folder: Path, summary: dict[str, float]) -> list[Path]:
    """Writes the figures, a row for each video, and the confusion matrix as CSV and picture. Returns what it wrote."""
    rows = [
        {"path": result.path, "label": result.label, "predicted": result.predicted or ""}
        | {"right": result.predicted == result.label}
        | {"score": result.score_of(result.predicted, evaluation.labels)}
        | {"label_score": result.score_of(result.label, evaluation.labels), "unknown": result.is_unknown}
        | {"error": result.error, "name": result.name or Path(result.path).name}
        | {"start_seconds": result.start_seconds, "end_seconds": result.end_seconds}
        for result in evaluation.results
    ]
    title = f"{evaluation.num_videos} videos, top-1 {evaluation.top1:.1%}"
    left_out = [asdict(left) for left in evaluation.left_out or ()]
    contents: tuple[bytes | str, ...] = (
        to_json(summary | {"class_recall": evaluation.class_recall}, indent=1),
        csv_text(rows),
        confusion_csv(evaluation.confusion, evaluation.labels),
        confusion_picture(evaluation.confusion, evaluation.labels, title),
        csv_text(reliability_rows(evaluation)),
        csv_text(left_out, ("name", "why")),
    )
    for name, content in zip(EVALUATION_FILES, contents, strict=True):
        write_atomically(folder / name, content)
    return [folder / name for name in EVALUATION_FILES]
