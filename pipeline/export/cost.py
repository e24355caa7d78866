"""The cost of 8 bits: the same videos answered in float32 and in 8 bits, in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx.utils
import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile
from pipeline.config import DataConfig, InferenceConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.evaluation import Evaluation, evaluate_model
from pipeline.inference import load_model
from pipeline.inference.onnx_file import FRAMES, LOGITS
from pipeline.inference.onnx_runtime import open_session
from pipeline.timeline.tuning import ScoredVideo
from pipeline.timeline_evaluation import evaluate_and_score
from pipeline.timeline_results import TimelineEvaluation


@dataclass(frozen=True)
class Cost:
    """Answers in float32 and in 8 bits, video by video."""

    plain: Evaluation
    int8: Evaluation

    def summary(self) -> dict[str, float]:
        """Figures by name; shares are 0 to 1."""
        pairs = list(zip(self.plain.results, self.int8.results, strict=True))
        return {
            "top1": self.plain.top1,
            "top1_int8": self.int8.top1,
            "mean_class_accuracy": self.plain.mean_class_accuracy,
            "mean_class_accuracy_int8": self.int8.mean_class_accuracy,
            "same_answer": sum(a.predicted == b.predicted for a, b in pairs) / max(1, len(pairs)),
            "greatest_score_difference": max(
                (_difference(a.probabilities, b.probabilities) for a, b in pairs), default=0
            ),
            "num_videos": self.plain.num_videos,
            "num_errors": self.plain.num_errors,
        }


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def measure_cost(
    file: ModelFile, plain: Any, int8: Any, rows: Sequence[VideoRow], data: DataConfig, progress: Callable[[int], None]
) -> Cost:
    """Both graphs of clips over every row.

    Raises:
        UserError: as ``evaluate_model``.
    """

    def evaluated(graph: Any) -> Evaluation:
        run = open_session(onnx.utils.Extractor(graph).extract_model([FRAMES], [LOGITS]))

        def classify(frames: Tensor) -> Tensor:
            return torch.from_numpy(run([LOGITS], {FRAMES: frames.numpy()})[0])

        return evaluate_model(file, rows, data, classify=classify, progress=progress)

    return Cost(evaluated(plain), evaluated(int8))


def timeline_cost(
    file: ModelFile, plain: bytes, int8: bytes, rows: Sequence[VideoRow], progress: Callable[[int], None]
) -> dict[str, float]:
    """Figures of both files of a model of timelines over whole videos, in the mode that it was trained for; one that
    reads both ways answers by windows.

    Raises:
        UserError: as ``evaluate_and_score``.
    """
    inference = InferenceConfig() if file.recognizer.temporal.streams else InferenceConfig(mode="windows")
    evaluations: list[tuple[TimelineEvaluation, list[ScoredVideo]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for content in (plain, int8):
            path = Path(folder) / f"{len(evaluations)}.clip.onnx"
            path.write_bytes(content)
            model = load_model(path)
            model.open_as(file.decode)
            evaluations.append(evaluate_and_score(model, rows, inference=inference, progress=lambda: progress(1)))
    return _compared(*evaluations)


def _compared(
    float32: tuple[TimelineEvaluation, list[ScoredVideo]], eight_bits: tuple[TimelineEvaluation, list[ScoredVideo]]
) -> dict[str, float]:
    (plain, plain_scores), (int8, int8_scores) = float32, eight_bits
    pairs = [(ours.scores, theirs.scores) for ours, theirs in zip(plain_scores, int8_scores, strict=True)]
    same = np.concatenate([(ours.argmax(axis=1) == theirs.argmax(axis=1)) for ours, theirs in pairs])
    figures: dict[str, float] = {}
    for name in ("frame_accuracy", "f1_10", "f1_25", "f1_50"):
        figures |= {name: plain.figures.figures[name].value, f"{name}_int8": int8.figures.figures[name].value}
    return figures | {
        "same_answer": float(same.mean()) if len(same) else 0.0,
        "greatest_score_difference": max((float(np.abs(a - b).max(initial=0)) for a, b in pairs), default=0.0),
        "num_videos": len(plain.results),
        "num_errors": plain.num_errors,
    }
