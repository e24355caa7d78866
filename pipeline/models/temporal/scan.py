"""A recurrence whose weights do not depend on its state: h_t = h_{t-1} + w_t . (v_t - h_{t-1}), w_t between 0 and 1.

Each state is a weighted mean of the values so far: none is larger than the largest value, and an error does not grow,
however long the sequence. Its derivative is the same recurrence backwards in time. ``SCANS`` holds two ways to do both:

    in order       one pass; a step reads and writes its maps while they are in the cache
    by doubling    each of ceil(log2 T) rounds joins every step with the one 1, 2, 4, ... steps before it (Hillis and
                   Steele, "Data parallel algorithms", 1986): a scan over the associative composition of affine maps

By doubling reads and writes all steps log2 T times, but in log2 T calls instead of T: wrong for a CPU, by measurement
(benchmarks/heads.md); meant for a GPU, where it is not measured yet. Its products of (1 - w) may fade to zero, but
nothing is divided by them. The paper's scan over cumulative sums of logarithms subtracts sums that grow with T: over
20,000 steps in float32 it was off by 8e-4, these two by 3e-7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.models.temporal.derivatives import Gradients, first_order


def scan_in_order(weight: Tensor, value: Tensor, state: Tensor) -> Tensor:
    """``weight``, ``value [T, ...]``, ``state [...]`` -> the states ``[T, ...]``."""
    states = torch.empty_like(value)
    for step in range(len(value)):
        state = torch.lerp(state, value[step], weight[step], out=states[step])
    return states


def carry_back_in_order(weight: Tensor, grad: Tensor) -> Tensor:
    """Gradients of the states as outputs ``[T, ...]`` -> their gradients through all later states as well."""
    total = torch.empty_like(weight)
    total[-1] = grad[-1]
    for step in reversed(range(len(grad) - 1)):
        later, passed_on = total[step + 1], weight[step + 1]
        torch.addcmul(later, later, passed_on, value=-1, out=total[step]).add_(grad[step])
    return total


def scan_by_doubling(weight: Tensor, value: Tensor, state: Tensor) -> Tensor:
    """As ``scan_in_order``."""
    keep, added = 1 - weight, weight * value
    added[0].addcmul_(keep[0], state)
    return _compose(keep, added)


def carry_back_by_doubling(weight: Tensor, grad: Tensor) -> Tensor:
    """As ``carry_back_in_order``."""
    keep = 1 - weight.roll(-1, dims=0).flip(0)  # step t of the reversed sequence passes 1 - w of the step after it
    return _compose(keep, grad.flip(0)).flip(0)


def _compose(keep: Tensor, added: Tensor) -> Tensor:
    """h_t = keep_t . h_{t-1} + added_t from h_{-1} = 0. Overwrites both arguments."""
    distance = 1
    while distance < len(added):
        added[distance:] += keep[distance:] * added[:-distance]
        keep[distance:] *= keep[:-distance].clone()
        distance *= 2
    return added


Way = Literal["in order", "by doubling"]
SCANS: dict[Way, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "in order": (scan_in_order, carry_back_in_order),
    "by doubling": (scan_by_doubling, carry_back_by_doubling),
}


def weighted_scan(weight: Tensor, value: Tensor, state: Tensor, way: Way | None = None) -> Tensor:
    """The states h_1 to h_T ``[T, ...]``; differentiable once.

    Args:
        weight: w, between 0 and 1, ``[T, ...]``.
        value: v, ``[T, ...]``, of the same dtype, float32 or float64.
        state: h_0, ``[...]``.
        way: a name of ``SCANS``; None takes the one for the device.
    """
    states: Tensor = WeightedScan.apply(weight, value, state, way or _way_for(value))
    return states


def _way_for(value: Tensor) -> Way:
    return "in order" if value.device.type == "cpu" else "by doubling"


class WeightedScan(torch.autograd.Function):
    """The recurrence as one function of autograd."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, state: Tensor, way: Way) -> Tensor:
        states = SCANS[way][0](weight, value, state)
        ctx.save_for_backward(weight, value, state, states)
        ctx.way = way
        return states

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        weight, value, state, states = ctx.saved_tensors
        total = SCANS[ctx.way][1](weight, grad)
        grad_weight = torch.empty_like(value)
        torch.sub(value[0], state, out=grad_weight[0])
        torch.sub(value[1:], states[:-1], out=grad_weight[1:])
        grad_state = total[0] - total[0] * weight[0]
        return grad_weight.mul_(total), total.mul_(weight), grad_state, None
