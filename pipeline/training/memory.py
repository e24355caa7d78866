"""Memory of one training step, reckoned before the first: a system that runs out of it kills without a word."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import Experiment
from pipeline.errors import UserError
from pipeline.machine import free_memory_bytes
from pipeline.training.lanes import FRAMES_A_CALL
from pipeline.training.module import ClipClassifier

# Times the largest map, beside what is kept for the backward pass: gradients on their way, buffers that are freed late.
_NUM_PASSING = 3
# bf16 halves most of what is kept; normalisation layers keep float32.
_BYTES_SHARE = {"fp32": 1.0, "bf16": 0.6}
# The heads, the loss and torch's own buffers, for each byte of the backbone's.
_MARGIN = 1.15
# Of the free memory; the rest is for the processes that decode and the batches that wait.
_SHARE_FOR_STEPS = 0.9


@dataclass(frozen=True)
class _StepMemory:
    """Bytes of a training step beside the weights."""

    fixed_bytes: int
    """Gradients and the optimiser's state."""
    clip_bytes: int
    """Of what the backbone learns from, for each clip or sequence in the batch."""
    picture_bytes: int = 0
    """Of each sequence's pictures, from which those are drawn."""

    def of(self, batch_size: int) -> int:
        """Bytes of a step with so many clips."""
        return self.fixed_bytes + batch_size * (self.clip_bytes + self.picture_bytes)

    def largest_batch(self, free_bytes: int) -> int:
        """The most clips whose step fits; 0 if none does."""
        return max(0, (free_bytes - self.fixed_bytes) // (self.clip_bytes + self.picture_bytes))

    def largest_share(self, free_bytes: int, batch_size: int) -> float:
        """The share of ``clip_bytes`` with which a step of so many fits; 0 or less if none does."""
        return (free_bytes - self.fixed_bytes - batch_size * self.picture_bytes) / (batch_size * self.clip_bytes)


def step_memory(module: ClipClassifier, precision: str) -> _StepMemory:
    """Return the memory of a step of ``module`` from decoded clips, by the shapes that its backbone keeps."""
    kept, largest = _kept_bytes(module)
    learning = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    clip_bytes = _MARGIN * _BYTES_SHARE[precision] * (kept + _NUM_PASSING * largest)
    return _StepMemory(3 * learning, max(1, int(clip_bytes)), _sequence_picture_bytes(module.experiment))


def _frames_learned_from(experiment: Experiment) -> int:
    """Of each clip or sequence: frames that pass the backbone at once."""
    if experiment.task == "clip":
        return experiment.training.train_frames or experiment.sampling.num_frames
    if experiment.training.backbone_lr_scale == 0:
        return min(FRAMES_A_CALL, experiment.sequence.sequence_frames)
    return experiment.training.train_frames or experiment.sequence.sequence_frames


def _sequence_picture_bytes(experiment: Experiment) -> int:
    """Of a sequence's frames, uint8, and twice its pictures, float32: all of them, and those drawn from them."""
    if experiment.task == "clip":
        return 0
    transform = experiment.transform
    picture = 3 * transform.num_pictures * transform.input_frames * transform.input_size_px**2
    return experiment.sequence.sequence_frames * (3 * transform.fit_size_px**2 + 2 * 4 * picture)


def _kept_bytes(module: ClipClassifier) -> tuple[int, int]:
    """Bytes that the backbone keeps of one clip for its backward pass, and those of its largest map."""
    experiment = module.experiment
    num_frames = _frames_learned_from(experiment)
    side = experiment.transform.input_size_px
    backbone = copy.deepcopy(module.recognizer.backbone).to("meta")
    num_channels = 3 * experiment.transform.input_frames
    pictures = torch.empty(num_frames * experiment.transform.num_pictures, num_channels, side, side, device="meta")
    kept: dict[int, Tensor] = {}
    maps = [0]

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # held, so that no two share an address
        return tensor

    def look(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            maps.append(output.untyped_storage().nbytes())

    hooks = [layer.register_forward_hook(look) for layer in backbone.modules()]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(pictures.contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    weights = {parameter.untyped_storage()._cdata for parameter in (*backbone.parameters(), *backbone.buffers())}
    sizes = [tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights]
    return sum(sizes), max(maps)


def check_step_fits(module: ClipClassifier, precision: str) -> None:
    """Refuses a step on the CPU that needs more memory than is free.

    Raises:
        UserError: with a batch size and the accumulation that fit and learn the same.
    """
    free_bytes = free_memory_bytes()
    if free_bytes is None:
        return
    usable_bytes = int(_SHARE_FOR_STEPS * free_bytes)
    experiment, needed = module.experiment, step_memory(module, precision)
    batch_size = experiment.data.batch_size
    if needed.of(batch_size) > usable_bytes:
        raise UserError(
            f"a training step of {batch_size} {'clips' if experiment.task == 'clip' else 'sequences'} needs about "
            f"{needed.of(batch_size) / 1e9:.1f} GB, and {usable_bytes / 1e9:.1f} GB can be had: "
            f"{_cure_of(experiment, needed, usable_bytes)}"
        )


def _cure_of(experiment: Experiment, needed: _StepMemory, usable_bytes: int) -> str:
    if experiment.task == "clip":
        return _cure(experiment, needed.largest_batch(usable_bytes))
    share = needed.largest_share(usable_bytes, experiment.data.batch_size)
    num_frames = int(share * _frames_learned_from(experiment))
    if experiment.training.backbone_lr_scale > 0 and num_frames > 0:
        return f"set training.train_frames {num_frames}: the backbone learns from so many of each sequence"
    return "lower data.batch_size, sequence.sequence_frames or transform.input_size_px"


@contextmanager
def gpu_memory_errors(experiment: Experiment) -> Iterator[None]:
    """Turn a GPU's running out of memory into a ``UserError`` with the settings that halve a step's."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        cure = _cure(experiment, experiment.data.batch_size // 2)
        if experiment.task == "timeline":
            cure = "lower training.train_frames, data.batch_size or sequence.sequence_frames"
        raise UserError(f"the GPU's memory is full: {cure}") from error


def _cure(experiment: Experiment, largest_batch: int) -> str:
    """Settings that make the step fit; the batch that fits divides the one that was asked for."""
    batch_size, accumulated = experiment.data.batch_size, experiment.training.accumulate_batches
    fitting = [size for size in range(1, min(batch_size, largest_batch + 1)) if batch_size % size == 0]
    if not fitting:
        return "lower transform.input_size_px or sampling.num_frames, or set training.backbone_lr_scale 0"
    return (
        f"set data.batch_size {fitting[-1]} and training.accumulate_batches {accumulated * batch_size // fitting[-1]}, "
        "which makes the same steps"
    )
