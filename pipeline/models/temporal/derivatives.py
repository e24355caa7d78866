"""When a hand-written derivative is used, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """For the ``backward`` of a function of autograd whose derivative cannot be differentiated again.

    torch's ``once_differentiable`` lets the case pass where the incoming gradient is a constant, and the second
    derivative then comes out wrong.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Gradients:
        if torch.is_grad_enabled():  # as under create_graph=True
            raise RuntimeError(
                "this temporal head has derivatives of the first order only, and create_graph=True asks for the second"
            )
        return backward(ctx, *grads)

    return checked


def needs_gradient(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether autograd will want a derivative for one of these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def is_traced() -> bool:
    """Whether an exporter or compiler is watching: it then gets a plain loop instead of a hand-written derivative."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
