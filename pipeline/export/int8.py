"""The same graphs in 8 bits, and what that costs.

Static quantisation (Jacob et al., CVPR 2018): unsigned 8-bit activations with ranges seen on clips of the user, signed
8-bit weights with a scale for each output channel. The state and all that time does to it besides its convolutions stay
in float32, since an error in the state would stay there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx.utils
import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile
from pipeline.config import ClipSettings, DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.loading import lost_workers
from pipeline.datasets.videos import ClipBatch, fixed_clips
from pipeline.errors import UserError
from pipeline.evaluation import Evaluation, evaluate_model
from pipeline.export.pieces import Pieces, frames_of_one, quietly
from pipeline.inference.onnx_file import FEATURES, FRAMES, LOGITS, STEP_FEATURES
from pipeline.inference.onnx_runtime import initial_states, open_session
from pipeline.sampling import spread

Feeds = list[dict[str, Any]]
_FRAMEWISE = ("Conv", "Add", "Clip", "Relu", "MatMul", "Gemm")
# Not the sums of the gates: only what is worth the rounding.
_RECURRENT = ("Conv", "MatMul", "Gemm")


@lost_workers()
def calibration_clips(file: ModelFile, rows: Sequence[VideoRow], data: DataConfig, count: int) -> list[Tensor]:
    """The middle clip of that many videos, spread over the rows: uint8 ``[b, T + L, 3, S, S]`` each.

    Raises:
        UserError: no video can be read.
    """
    some = [rows[place] for place in spread(len(rows), min(count, len(rows)))] if rows else []
    sampling = replace(file.sampling, num_eval_clips=1)
    plain = replace(data, cache="none") if data.cache == "features" else data
    settings = ClipSettings(file.decode, sampling, file.transform, plain)
    clips = []
    for batch in make_loader(some, file.labels, settings, fixed_clips) if some else ():
        assert isinstance(batch, ClipBatch)
        if len(batch.labels):
            clips.append(batch.frames)
    if not clips:
        raise UserError("int8 needs training clips to calibrate on, and there are none; name a folder with --data.root")
    return clips


def quantize(file: ModelFile, pieces: Pieces, clips: Sequence[Tensor]) -> Pieces:
    """The pieces in 8 bits; heads that read a whole clip at once stay as they are."""
    frames = [clip.numpy() for clip in clips]
    return replace(
        pieces,
        backbone=_quantize(pieces.backbone, [{FRAMES: frames_of_one(file, clip)} for clip in frames], _FRAMEWISE),
        embed=_quantize(pieces.embed, [{FRAMES: frame} for frame in frames], _FRAMEWISE),
        step=pieces.step and _quantize(pieces.step, _step_feeds(pieces, frames), _RECURRENT),
    )


def _step_feeds(pieces: Pieces, clips: Sequence[Any]) -> Feeds:
    """Inputs of the step over the clips, states carried on."""
    embed, step = open_session(pieces.embed), open_session(pieces.step)
    slots = tuple(slot.described() for slot in pieces.slots)
    feeds: Feeds = []
    for clip in clips:
        (features,) = embed([FEATURES], {FRAMES: clip})
        states = initial_states(slots, len(clip))
        for number in range(features.shape[1]):
            feed = {STEP_FEATURES: features[:, number], **states}
            states = dict(zip(states, step([f"next_{name}" for name in states], feed), strict=True))
            feeds.append(feed)
    return feeds


def _quantize(model: Any, feeds: Feeds, operations: Sequence[str]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder, quietly():
        plain, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        onnx.save(model, plain)  # a model in memory would be changed
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Reader(),
            op_types_to_quantize=list(operations),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(quantized)


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
    """Both graphs of clips over every row, in ONNX Runtime.

    Raises:
        UserError: as ``evaluate_model``.
    """

    def evaluated(graph: Any) -> Evaluation:
        run = open_session(onnx.utils.Extractor(graph).extract_model([FRAMES], [LOGITS]))

        def classify(frames: Tensor) -> Tensor:
            return torch.from_numpy(run([LOGITS], {FRAMES: frames.numpy()})[0])

        return evaluate_model(file, rows, data, classify=classify, progress=progress)

    return Cost(evaluated(plain), evaluated(int8))
