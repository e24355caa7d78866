"""The pieces as programs of ``torch.export``: for whoever deploys with torch (AOTInductor, ExecuTorch) instead of ONNX.

Each ``.pt2`` file is one program, with what the model file says of itself as JSON beside it in the archive. The batch
is free in all of them. The length is not: ``torch.export`` unrolls a recurrence over time, so the clip has the length
that the model was trained on; for any other, run the step.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import ModelFile
from pipeline.errors import UserError
from pipeline.export.outcome import TOLERANCE, Exported, describe_part
from pipeline.export.pieces import (
    BATCH,
    BackbonePiece,
    StateSlot,
    Step,
    example_frames,
    frames_of_one,
    quietly,
    state_slots,
)
from pipeline.files.writing import write_atomically
from pipeline.inference.torch_runtime import Embedder
from pipeline.schema import to_json

METADATA_NAME = "clipgru.json"
_BATCHES = (1, 2, 5)


class _Clip(nn.Module):
    """``frames [B, T + L, 3, S, S]`` -> ``scores [B, K]``."""

    def __init__(self, file: ModelFile, embed: Embedder) -> None:
        super().__init__()
        self.embed, self.recognizer, self._calibration = embed, file.recognizer, file.calibration

    def forward(self, frames: Tensor) -> Tensor:
        step_scores, _ = self.recognizer.score_projected(self.embed(frames))
        return self._calibration.probabilities(self.recognizer.read_out(step_scores))


class _StreamStep(nn.Module):
    """``frames [B, 1 + L, 3, S, S]``, states -> ``scores [B, K]``, next states."""

    def __init__(self, file: ModelFile, embed: Embedder, step: Step) -> None:
        super().__init__()
        self.embed, self.step, self._calibration = embed, step, file.calibration

    def forward(self, frames: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        logits, *following = self.step(self.embed(frames)[:, 0], states)
        return self._calibration.probabilities(logits), *following


def export_programs(file: ModelFile, stem: Path) -> Exported:
    """Writes ``<stem>.backbone.pt2``, ``<stem>.clip.pt2``, and ``<stem>.step.pt2`` if the model can stream.

    Raises:
        UserError: torch cannot export the network, or a program computes something else; nothing is written then.
    """
    embed = Embedder(file).eval()
    modules: dict[str, nn.Module] = {"backbone": BackbonePiece(embed), "clip": _Clip(file, embed)}
    slots: tuple[StateSlot, ...] = ()
    if file.recognizer.temporal.streams:
        with torch.no_grad():
            slots, _, form = state_slots(file.recognizer, embed(example_frames(file, 2, 1)))
        modules["step"] = _StreamStep(file, embed, Step(file.recognizer, form))
    archives, differences = {}, {}
    for kind, module in modules.items():
        archives[kind] = _archive(module.eval(), _inputs(file, kind, slots, batch=3), slots, file, kind)
        differences[kind] = _difference(file, kind, slots, module, archives[kind])
    for kind, content in archives.items():
        write_atomically(Path(f"{stem}.{kind}.pt2"), content)
    return Exported(tuple(Path(f"{stem}.{kind}.pt2") for kind in archives), differences)


def _inputs(file: ModelFile, kind: str, slots: tuple[StateSlot, ...], batch: int) -> tuple[Any, ...]:
    """Noise of the right shapes; states that are not zero, so that they show."""
    steps = file.sampling.num_frames if kind == "clip" else 1
    frames = example_frames(file, batch, steps, seed=batch)
    if kind == "backbone":
        return (frames_of_one(file, frames),)
    if kind != "step":
        return (frames,)
    generator = torch.Generator().manual_seed(batch)
    shapes = [[batch if axis == slot.batch_axis else side for axis, side in enumerate(slot.shape)] for slot in slots]
    return frames, [torch.rand(shape, generator=generator) for shape in shapes]


def _archive(
    module: nn.Module, inputs: tuple[Any, ...], slots: Sequence[StateSlot], file: ModelFile, kind: str
) -> bytes:
    of_states = [{} if slot.batch_axis is None else {slot.batch_axis: BATCH} for slot in slots]
    dynamic = ({0: BATCH}, of_states)[: len(inputs)]  # only the step reads states
    # With gradients on, the recogniser takes the way without pieces of a batch, which depend on its size.
    with torch.enable_grad(), quietly():
        try:
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError, ValueError) as error:
            raise UserError(f"torch.export cannot follow this network: {str(error).strip().splitlines()[0]}") from error
        buffer = io.BytesIO()
        text = to_json(describe_part(file, kind, slots), ensure_ascii=False, sort_keys=True)
        torch.export.save(program, buffer, extra_files={METADATA_NAME: text})
    return buffer.getvalue()


@torch.inference_mode()
def _difference(file: ModelFile, kind: str, slots: tuple[StateSlot, ...], module: nn.Module, archive: bytes) -> float:
    """The greatest one at several batch sizes, of the program as it is read back."""
    program = torch.export.load(io.BytesIO(archive)).module()
    differences = []
    for batch in _BATCHES:
        inputs = _inputs(file, kind, slots, batch)
        pairs = zip(_tensors(program(*inputs)), _tensors(module(*inputs)), strict=True)
        differences += [
            float((got - expected).abs().max()) / max(1.0, float(expected.abs().max())) for got, expected in pairs
        ]
    if not max(differences) <= TOLERANCE:  # nan too
        raise UserError(
            f"the exported {kind} gives other numbers than the model: off by {max(differences):.2g}, allowed are "
            f"{TOLERANCE:g}. Nothing was written; this is a fault of torch.export for this architecture"
        )
    return max(differences)


def _tensors(outputs: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs
