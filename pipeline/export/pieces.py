"""The pieces of a model as ONNX: what reads each frame alone, and one step in time.

``torch.export`` cannot follow a recurrence over a length that it does not know: it unrolls loops. So it is given a
single step, and the graph gets its own loop around it (``assembly``). A bidirectional model has no step; its heads are
exported over a whole clip of the length it was trained on.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pipeline.checkpoint import ModelFile
from pipeline.description import StateDescription
from pipeline.errors import UserError
from pipeline.inference.onnx_file import FEATURES, FRAMES, LOGITS, STEP_FEATURES, STEP_LOGITS
from pipeline.inference.torch_runtime import Embedder
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal.head import State

OPSET = 20
BATCH = torch.export.Dim("batch", min=1)


@dataclass(frozen=True)
class StateSlot:
    """One tensor of the heads' state, float32; zero before the first frame."""

    name: str
    shape: tuple[int, ...]
    """For a batch of one."""
    batch_axis: int | None
    """None: the same for all of a batch, as a count of frames."""

    def described(self) -> StateDescription:
        """For the metadata: the word ``batch`` stands where its size does."""
        shape: list[int | Literal["batch"]] = list(self.shape)
        if self.batch_axis is not None:
            shape[self.batch_axis] = "batch"
        return StateDescription(self.name, tuple(shape))


@dataclass(frozen=True)
class Pieces:
    """ONNX models. ``frames`` are uint8 of the fitted size."""

    backbone: Any
    """``frames [B, 1 + L, 3, S, S]``, or ``[B, 3, S, S]`` where L is 0 -> ``features [B, D, ...]``"""
    embed: Any
    """``frames [B, T + L, 3, S, S]`` -> ``features [B, T, ...]``: with the heads' first half"""
    step: Any
    """``step_features [B, ...]``, states -> ``step_logits [B, K]``, next states; None if the heads cannot stream"""
    clip: Any
    """``features [B, T, ...]`` -> ``scores [B, K]``, T fixed; None if there is a step"""
    slots: tuple[StateSlot, ...]


def make_pieces(file: ModelFile) -> Pieces:
    """Exports each piece of a model that is on the CPU.

    Raises:
        UserError: torch cannot export the network.
    """
    embed = Embedder(file).eval()
    frames = example_frames(file, 2, 3)
    with torch.no_grad():
        features = embed(frames)
    time = torch.export.Dim("time", min=file.transform.frames_for(1))
    whole = _to_onnx(embed, (frames,), ({0: BATCH, 1: time},), [FRAMES], [FEATURES])
    backbone = _to_onnx(BackbonePiece(embed), (frames_of_one(file, frames),), ({0: BATCH},), [FRAMES], [FEATURES])
    if not file.recognizer.temporal.streams:
        windows = features[:, :1].repeat_interleave(file.sampling.num_frames, dim=1)
        clip = _to_onnx(_Windows(file.recognizer), (windows,), ({0: BATCH},), [FEATURES], [LOGITS])
        return Pieces(backbone, whole, None, clip, ())
    slots, states, form = state_slots(file.recognizer, features)
    dynamic = [{} if slot.batch_axis is None else {slot.batch_axis: BATCH} for slot in slots]
    names = [slot.name for slot in slots]
    outputs = [STEP_LOGITS, *(f"next_{name}" for name in names)]
    step = _to_onnx(
        Step(file.recognizer, form), (features[:, 0], states), ({0: BATCH}, dynamic), [STEP_FEATURES, *names], outputs
    )
    return Pieces(backbone, whole, step, None, slots)


def example_frames(file: ModelFile, batch: int, steps: int, seed: int = 0) -> Tensor:
    """Noise, uint8 ``[batch, steps + L, 3, S, S]``."""
    size = file.transform.fit_size_px
    shape = (batch, file.transform.frames_for(steps), 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def frames_of_one(file: ModelFile, clips: Any) -> Any:
    """Clips ``[B, T + L, 3, S, S]`` -> what the graph of the backbone reads, ``[B, 1 + L, 3, S, S]`` or, where L is 0,
    ``[B, 3, S, S]``."""
    num_frames = file.transform.frames_for(1)
    return clips[:, :num_frames] if num_frames > 1 else clips[:, 0]


def state_slots(recognizer: Recognizer, features: Tensor) -> tuple[tuple[StateSlot, ...], list[Tensor], State]:
    """The state's tensors by name, zeros for a batch like ``features [B, T, ...]`` with B above 1, and its form."""
    with torch.no_grad():
        of_one, of_all = (recognizer.score_projected(some[:, :1])[1] for some in (features[:1], features))
    slots, zeros = [], []
    names = [*recognizer.config.heads, *["refinement"] * recognizer.config.refinement_stages]
    for number, (name, one, several) in enumerate(zip(names, of_one, of_all, strict=True)):
        pairs = list(zip(leaves(one), leaves(several), strict=True))
        for place, (small, large) in enumerate(pairs):
            ending = f"_{place}" if len(pairs) > 1 else ""
            axes = [axis for axis, side in enumerate(small.shape) if side != large.shape[axis]]
            slots.append(StateSlot(f"state_{number}_{name}{ending}", tuple(small.shape), axes[0] if axes else None))
            zeros.append(torch.zeros_like(large, dtype=torch.float32))
    return tuple(slots), zeros, _form(of_all)


def leaves(state: State) -> list[Tensor]:
    """The tensors of a state, in order; a plain number becomes ``[1]``."""
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in leaves(part)]
    return [state if isinstance(state, Tensor) else torch.tensor([float(state)])]


def _form(state: State) -> State:
    return tuple(_form(part) for part in state) if isinstance(state, tuple) else None


def _nested(form: State, tensors: Iterator[Tensor]) -> State:
    """The inverse of ``leaves``, for a state of that form."""
    return next(tensors) if form is None else tuple(_nested(part, tensors) for part in form)


class BackbonePiece(nn.Module):
    """Fitted frames -> features, each frame alone."""

    def __init__(self, embed: Embedder) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, frames: Tensor) -> Tensor:
        return self.embed.embed(frames.unsqueeze(1) if frames.ndim == 4 else frames)[:, 0]


class Step(nn.Module):
    """Features of one frame and the state -> logits and the next state."""

    def __init__(self, recognizer: Recognizer, form: State) -> None:
        super().__init__()
        self.recognizer, self.form = recognizer, form

    def forward(self, features: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        logits, state = self.recognizer.score_projected(features.unsqueeze(1), _nested(self.form, iter(states)))
        return logits[:, 0], *leaves(state)


class _Windows(nn.Module):
    """Features of windows -> logits."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, features: Tensor) -> Tensor:
        step_scores, _ = self.recognizer.score_projected(features)
        return self.recognizer.read_out(step_scores)


@contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters and quantisers say of their own workings, as warnings and through loggers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class _PlainAttention(TorchFunctionMode):
    """The exporter knows attention over ``[N, heads, L, D]`` alone; Hiera's has windows between N and heads."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention or args[0].ndim == 4:
            return func(*args, **(kwargs or {}))
        flat = (tensor.flatten(0, -4) for tensor in args[:3])
        return func(*flat, *args[3:], **(kwargs or {})).unflatten(0, args[0].shape[:-3])


def _to_onnx(
    module: nn.Module, args: tuple[Any, ...], dynamic: tuple[Any, ...], inputs: list[str], outputs: list[str]
) -> Any:
    # With gradients on, the recogniser takes the way without pieces of a batch, which depend on its size.
    # Attention is to lie in memory as the exporter lays it out, and not as a processor's own does.
    with torch.enable_grad(), quietly(), _PlainAttention(), sdpa_kernel(SDPBackend.MATH):
        try:
            program = torch.onnx.export(
                module.eval(),
                args,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                f"torch cannot export this network to ONNX: {str(error).strip().splitlines()[0]}"
            ) from error
    assert program is not None
    return program.model_proto
