"""Forms of the heads that are written by hand for a CPU, for speed alone: each computes what its head says.
A head asks ``applies`` before it takes one. Other devices, exporters and compilers never get them.

The loop of ConvGRU has its derivative written out. Autograd would compute the gradient of the hidden weights once a
step and add up; here each step leaves the gradient of its gates, and one convolution over all steps makes the weights'
gradient of them. The hidden weights are brought into oneDNN's order once for all steps, and a step's arithmetic works
in place, on maps that fit a core's cache.

What is here earns 10 % of a whole training step of a shipped experiment, or a step of a stream; the other heads' loops
did not (benchmarks/heads.md), and run as they are written.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.temporal.head import TemporalHead
from pipeline.models.temporal.prepared import (
    Convolution,
    StepConvolution,
    layout_for,
    repeated_convolution,
    sequence_buffer,
    transposed,
    weight_gradients,
)
from pipeline.models.temporal.winograd import Gradients, Winograd, first_order, pays

_Saved = list[tuple[Tensor, ...]]  # of each step
_aten = torch.ops.aten


def applies(head: TemporalHead, x: Tensor) -> bool:
    """Return whether ``head`` is to run ``x`` by the forms of this module."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return head.fast and x.device.type == "cpu" and not is_traced


def set_fast(module: nn.Module, fast: bool) -> None:
    """Let all temporal heads in ``module`` use the forms of this module, or not."""
    for part in module.modules():
        if isinstance(part, TemporalHead):
            part.fast = fast


class Workspace:
    """Memory that the convolutions of a head keep between calls."""

    def __init__(self) -> None:
        self.input, self.hidden = StepConvolution(), StepConvolution()
        self.input_winograd, self.hidden_winograd = Winograd(), Winograd()


def convolve_frames(x: Tensor, conv: nn.Conv2d, norm: nn.Module, workspace: Workspace) -> Tensor:
    """Convolve and normalise all frames of ``x [B, T, C, H, W]`` in one call -> ``[B, T, gates, H, W]``.

    Winograd's rounding errors depend on what is computed together, so it is for training alone: a stream and a file
    give the same answers.
    """
    batch, steps = x.shape[:2]
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype("cpu"))
    if _needs_gradient(x, conv.weight) and pays(x.flatten(0, 1), conv.weight):
        gates: Tensor = norm(workspace.input_winograd(x.flatten(0, 1), conv.weight, conv.bias))
        return gates.view(batch, steps, *gates.shape[1:])  # channels-last maps in the order of x
    maps = x.permute(1, 0, 3, 4, 2).reshape(-1, *x.shape[3:], x.shape[2])  # [B, T, C, H, W] -> [T B, H, W, C]
    maps = maps.permute(0, 3, 1, 2).contiguous(memory_format=layout_for(x))  # -> [T B, C, H, W]
    is_one_step = steps == 1 and not torch.is_grad_enabled()
    gates = norm(workspace.input(maps, conv.weight, conv.bias) if is_one_step else conv(maps))
    gates = gates.contiguous(memory_format=torch.channels_last)
    return gates.reshape(steps, batch, *gates.shape[1:]).transpose(0, 1)  # [T B, ...] -> [T, B, ...] -> [B, T, ...]


def run_convgru(projected: Tensor, h: Tensor, conv: nn.Conv2d, workspace: Workspace) -> Tensor:
    """Run ConvGRU with its reset gate after the convolution: ``projected [B, T, 3 hidden, H, W]`` and the state before
    -> the states ``[B, T, hidden, H, W]``."""
    gates = projected.transpose(0, 1)  # [B, T, ...] -> [T, B, ...]
    weight, bias = conv.weight.to(gates.dtype), None if conv.bias is None else conv.bias.to(gates.dtype)
    if _needs_gradient(gates, h, weight, bias):
        outputs: Tensor = _ConvGRU.apply(workspace, gates, h, weight, bias)
    else:
        with torch.no_grad():
            kept = workspace.hidden if weight is conv.weight else None
            outputs = _loop(gates, h, repeated_convolution(weight, bias, h, len(gates), kept))[1:]
    return outputs.transpose(0, 1)  # [T, B, ...] -> [B, T, ...]


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _loop(gates: Tensor, h: Tensor, convolve: Convolution, saved: _Saved | None = None) -> Tensor:
    """Gates from the input ``[T, B, 3 hidden, H, W]`` and the state ``[B, hidden, H, W]`` -> the state before the first
    step and after each, ``[T + 1, B, hidden, H, W]``. Saves for each step (r, z, U_n * h + b_n) and n."""
    sizes = [2 * h.shape[1], h.shape[1]]
    states = sequence_buffer(h, len(gates) + 1, h.shape[1])
    states[0] = h
    for step, x in enumerate(gates):
        h, (x_rz, x_n) = states[step], x.split(sizes, dim=1)
        convolved = convolve(h)
        rz, h_n = convolved.split(sizes, dim=1)
        r, z = rz.add_(x_rz).sigmoid_().chunk(2, dim=1)
        n = torch.addcmul(x_n, r, h_n).tanh_()
        torch.lerp(n, h, z, out=states[step + 1])
        if saved is not None:
            saved.append((convolved, n))
    return states


class _ConvGRU(torch.autograd.Function):
    """``_loop`` and its derivative: (workspace, gates, h, weight, bias) -> hidden states."""

    @staticmethod
    def forward(
        ctx: Any, workspace: Workspace, gates: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        saved: _Saved = []
        states = _loop(gates, h, repeated_convolution(weight, bias, h, len(gates)), saved)
        ctx.winograd, ctx.has_bias = workspace.hidden_winograd, bias is not None
        ctx.save_for_backward(weight, states, *chain(*saved))
        return states[1:]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor) -> Gradients:
        weight, states, *tensors = ctx.saved_tensors
        channels, num_steps = states.shape[2], len(grad_outputs)
        sizes = [2 * channels, channels]
        grad_x, grad_h = (sequence_buffer(states[0], num_steps, 3 * channels) for _ in range(2))
        carry_back = repeated_convolution(transposed(weight), None, grad_h[0], num_steps)
        carried: Tensor | None = None
        for step, (convolved, n) in reversed(list(enumerate(_rows(tensors, num_steps)))):
            grad = _joined_gradient(grad_outputs[step], carried)
            rz, h_n = convolved.split(sizes, dim=1)
            r, z = rz.chunk(2, dim=1)
            (of_x_rz, of_n), (of_rz, of_h_n) = grad_x[step].split(sizes, dim=1), grad_h[step].split(sizes, dim=1)
            of_r, of_z = of_rz.chunk(2, dim=1)
            _grad_candidate(grad, z, n, out=of_n)
            torch.mul(of_n, r, out=of_h_n)
            torch.mul(of_n, h_n, out=of_r)
            torch.sub(states[step], n, out=of_z).mul_(grad)
            _aten.sigmoid_backward.grad_input(of_rz, rz, grad_input=of_rz)
            of_x_rz.copy_(of_rz)
            carried = carry_back(grad_h[step]).addcmul_(grad, z)
        grad_weight, grad_bias = weight_gradients(states[:-1], weight, grad_h, ctx.winograd, has_bias=ctx.has_bias)
        return None, grad_x, carried, grad_weight, grad_bias


def _joined_gradient(of_output: Tensor, carried: Tensor | None) -> Tensor:
    # The gradient of a hidden state: from the output of its step, and from the step after it.
    return of_output if carried is None else carried.add_(of_output)


def _grad_candidate(grad: Tensor, z: Tensor, n: Tensor, out: Tensor) -> Tensor:
    """Through h = (1 - z) . n + z . h' with n = tanh(a) to a, written to ``out``."""
    of_n = torch.addcmul(grad, grad, z, value=-1)
    _aten.tanh_backward.grad_input(of_n, n, grad_input=out)
    return out


def _rows(tensors: list[Tensor], num_steps: int) -> list[list[Tensor]]:
    width = len(tensors) // num_steps
    return [tensors[step * width :][:width] for step in range(num_steps)]
