"""The precision of a training step: bf16 where the processor is made for it and the network gains by it, else fp32.

On a CPU a table decides and never a clock: equal runs stay equal. ``python tools/benchmark.py --groups precision``
measures what the table says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from pipeline.config import Experiment
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal.stack import MAP_HEADS
from pipeline.models.temporal.winograd import MIN_CHANNELS

# oneDNN obeys these; the names of limits that leave a unit in use contain one of its words.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WORDS_OF_AMX, _WORDS_OF_BF16 = ("AMX",), ("AMX", "BF16", "FP16", "AVX10")
# A step in bf16 over one in fp32 where convolutions run by torch's slow reference path, for want of AVX-512.
_RUINOUS_FACTOR = 57
_RECURRENT_LAYERS = frozenset(("rnn", "lstm", "gru"))


def settle_precision(experiment: Experiment, recognizer: Recognizer, device: torch.device) -> tuple[Experiment, str]:
    """Return the experiment with ``training.precision`` settled, and a line that says what was chosen, or what is
    wrong with an explicit choice; empty if there is nothing to say."""
    asked = experiment.training.precision
    if asked == "auto":
        chosen, reason = _choose(experiment, recognizer, device)
        settled = replace(experiment, training=replace(experiment.training, precision=chosen))
        return settled, f"training.precision auto: {chosen} ({reason})"
    if asked == "bf16" and device.type == "cpu" and _lacks_bf16():
        return experiment, (
            "training.precision bf16: this processor has no instructions for it, and a step may take "
            f"{_RUINOUS_FACTOR} times as long as in fp32; set training.precision auto"
        )
    return experiment, ""


def _choose(
    experiment: Experiment, recognizer: Recognizer, device: torch.device
) -> tuple[Literal["fp32", "bf16"], str]:
    """Precision and the reason for it."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "this GPU has it") if has_bf16 else ("fp32", "this GPU has no bf16")
    if device.type != "cpu":
        return "fp32", f"bf16 was never tried on {device.type}"
    units = _bf16_units()
    if not units:
        return "fp32", "this processor has no units that are faster in bf16"
    slow = _slow_in_bf16(experiment, recognizer, units)
    return ("fp32", f"{slow} are slower in bf16") if slow else ("bf16", f"this processor has {units} units for it")


def _bf16_units() -> Literal["AMX", "AVX-512", ""]:
    """Units that multiply more bf16 numbers than fp32 numbers at a time: matrix units, or the vector units of AMD's
    processors from Zen 4 on; those of Intel's take bf16 at the rate of fp32."""
    # Older versions of torch do not tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("amx_bf16") and _may_use(_WORDS_OF_AMX):
        return "AMX"
    is_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")
    return "AVX-512" if is_amd and capabilities.get("avx512_bf16") and _may_use(_WORDS_OF_BF16) else ""


def _may_use(words: Sequence[str]) -> bool:
    limits = [os.environ[name].upper() for name in _LIMITS if name in os.environ]
    return all(limit in ("ALL", "DEFAULT") or any(word in limit for word in words) for limit in limits)


def _slow_in_bf16(experiment: Experiment, recognizer: Recognizer, units: str) -> str:
    """Parts of the network that take longer in bf16 than in fp32 although there are units for it; empty if none
    matter."""
    config = experiment.model
    layers = [layer for layer in recognizer.backbone.modules() if isinstance(layer, nn.Conv2d)]
    learning = [layer for layer in layers if layer.weight.requires_grad]
    if any(layer.groups > 1 for layer in learning):
        return "depthwise convolutions that learn"
    if MAP_HEADS.isdisjoint(config.heads):
        # Steps of a few vectors: 1.5 times as long for a GRU of 128 over 180 steps. Short ones of many gain a little.
        is_small = experiment.task == "timeline" or _RECURRENT_LAYERS.isdisjoint(config.heads)
        return "small heads over vectors" if experiment.learns_from_features and is_small else ""
    if units != "AMX":
        return ""
    if config.scan in ("rows", "columns"):
        return "convolutions along rows"
    # Those of the frames, not of the states: with 256 channels motion_two_shapes takes 3 times as long in fp32.
    num_channels = min(config.hidden_channels, recognizer.num_features)
    if not learning and recognizer.temporal.fast and num_channels >= MIN_CHANNELS:
        return "large 3x3 convolutions, which fp32 does with fewer multiplications,"
    return ""


def _lacks_bf16() -> bool:
    """Return whether oneDNN has no bf16 here, so that torch falls back on its slow convolutions."""
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
