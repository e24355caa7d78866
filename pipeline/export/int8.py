"""The same graphs in 8 bits, and what that costs.

Static quantisation (Jacob et al., CVPR 2018): unsigned 8-bit activations with ranges seen on clips of the user, signed
8-bit weights with a scale for each output channel. The state and all that time does to it besides its convolutions stay
in float32, since an error in the state would stay there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx.utils
from torch import Tensor

from pipeline.checkpoint import ModelFile
from pipeline.config import ClipSettings, DataConfig, SamplingConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.loading import lost_workers
from pipeline.datasets.sequences import timeline_videos
from pipeline.datasets.videos import ClipBatch, fixed_clips
from pipeline.errors import UserError
from pipeline.export.pieces import Pieces, frames_of_one, quietly
from pipeline.inference.onnx_file import FEATURES, FRAMES, STEP_FEATURES
from pipeline.inference.onnx_runtime import initial_states, open_session
from pipeline.sampling import spread

Feeds = list[dict[str, Any]]
_FRAMEWISE = ("Conv", "Add", "Clip", "Relu", "MatMul", "Gemm")
# Long enough for the state of a stream to become what it mostly is.
_SEQUENCE_FRAMES = 64
# Not the sums of the gates: only what is worth the rounding.
_RECURRENT = ("Conv", "MatMul", "Gemm")


@lost_workers()
def calibration_clips(file: ModelFile, rows: Sequence[VideoRow], data: DataConfig, count: int) -> list[Tensor]:
    """The middle clip of that many videos, spread over the rows: uint8 ``[b, T + L, 3, S, S]`` each. For a model of
    timelines as many sequences, spread over all videos.

    Raises:
        UserError: no video can be read.
    """
    sampling, labels = replace(file.sampling, num_eval_clips=1), file.labels
    if file.task == "timeline" and rows:
        rows, labels = [replace(video.row, label="") for video in timeline_videos(rows)], ("",)
        sampling = SamplingConfig(file.sampling.sample_fps, _SEQUENCE_FRAMES, num_eval_clips=-(-count // len(rows)))
    some = [rows[place] for place in spread(len(rows), min(count, len(rows)))] if rows else []
    plain = replace(data, cache="none") if data.cache == "features" else data
    settings = ClipSettings(file.decode, sampling, file.transform, plain)
    clips = []
    for batch in make_loader(some, labels, settings, fixed_clips) if some else ():
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
