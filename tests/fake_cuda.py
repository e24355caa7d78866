"""A GPU that is not there: tensors on ``cuda`` that have shapes and no numbers, beside real ones on the CPU.

An operator that mixes devices fails as on a GPU. What makes the CPU wait for a GPU is noted, or fails where it wants a
number. Autograd's engine needs a driver; ``backward`` goes through its graph without it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
CUDA = torch.device("cuda", 0)


class FakeCuda(TorchDispatchMode):
    """Runs what concerns the CPU alone for real, and the rest on fake tensors.

    Attributes:
        waits: operators so far for which the CPU would wait for the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        target = kwargs.get("device")
        if (
            not any(isinstance(tensor, FakeTensor) for tensor in tensors)
            and torch.device(target or "cpu").type == "cpu"
        ):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is _aten._local_scalar_dense.default:
            raise AssertionError("the CPU waits for a number from the GPU")
        result = func(*args, **kwargs)
        if func in (_aten._to_copy.default, _aten.copy_.default):
            self._note_copy(str(func), {tensor.device.type for tensor in (*tensors, result)}, args, kwargs)
        return result

    def _note_copy(self, name: str, devices: set[str], args: Any, kwargs: Any) -> None:
        is_free = kwargs.get("non_blocking", False) or (name == "aten.copy_.default" and args[2:] == (True,))
        to_cpu = "cuda" in devices and str(kwargs.get("device", args[0].device)).startswith("cpu")
        if len(devices) > 1 and (to_cpu or not is_free):
            self.waits.append(f"{name} between {' and '.join(sorted(devices))}")


@contextmanager
def fake_cuda(*modules: nn.Module) -> Iterator[FakeCuda]:
    """Make ``cuda`` usable by shapes, and bring modules there. RNNs take their equations, as cuDNN cannot be asked."""
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), FakeCuda() as mode:
        warnings.filterwarnings("ignore", ".*CUDA is not available.*")
        warnings.filterwarnings("ignore", ".*data pointer of FakeTensor.*")
        with enable_python_dispatcher():
            for module in modules:
                module.to("cuda")
                for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                    assert tensor.device == CUDA, name
            mode.waits.clear()
            yield mode


@torch.no_grad()
def backward(loss: Tensor) -> list[Any]:
    """Do as ``loss.backward()``, node by node; the nodes in the order in which they ran."""
    waiting = _count_uses(loss.grad_fn)
    grads: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready, done = [loss.grad_fn], []
    while ready:
        node: Any = ready.pop()
        done.append(node)
        incoming = grads.pop(node, {})
        if hasattr(node, "variable"):  # a weight
            node.variable.grad = incoming[0]
            continue
        for (following, index), grad in _run(node, incoming):
            if grad is not None:
                grad = grad.sum_to_size(following._input_metadata[index].shape)
                known = grads.setdefault(following, {})
                known[index] = known[index] + grad if index in known else grad
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    return done


def _run(node: Any, incoming: dict[int, Tensor]) -> Iterator[tuple[tuple[Any, int], Tensor | None]]:
    """The edges that lead on from the node, each with the gradient that goes along it."""
    like = node._input_metadata
    grads = [incoming.get(index) for index in range(len(like))]
    if not isinstance(node, BackwardCFunction):
        outgoing = node(*grads)
        outgoing = outgoing if isinstance(outgoing, tuple) else (outgoing,)
        pairs = zip(node.next_functions, outgoing, strict=True)
        return ((edge, grad) for edge, grad in pairs if edge[0] is not None)
    # Python's, which takes zeros for gradients that are not there, and gives some for inputs that are no tensors.
    full = [
        torch.zeros(of.shape, dtype=of.dtype, device=of.device) if grad is None else grad
        for grad, of in zip(grads, like, strict=True)
    ]
    needed = (grad for grad, needs in zip(node.apply(*full), node.needs_input_grad, strict=True) if needs)
    return zip((edge for edge in node.next_functions if edge[0] is not None), needed, strict=True)


def _count_uses(root: Any) -> Counter[Any]:
    """Of each node of the graph: how many gradients it gets."""
    uses: Counter[Any] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                uses[following] += 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    return uses
