"""Convolutions of the map heads on a CPU: the same small one many times, and the weights' gradient of all steps.

Sequences are time-major and channels-last: ``[T, B, C, H, W]`` whose memory is ``[T, B, H, W, C]``, so that the maps of
a step are one contiguous block; only Winograd's input stays as it comes, which saves two copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.temporal.winograd import Winograd, pays

Convolution = Callable[[Tensor], Tensor]
_ONE = (1, 1)
_SMALL_MAP = 36  # places; see layout_for
_FEW_PLACES = 256  # of all maps of a step together; with more, the weights' order hardly matters
_FEW_CALLS = 3  # bringing the weights into oneDNN's order pays from here on


def layout_for(maps: Tensor) -> torch.memory_format:
    """Return the faster order in memory for maps ``[..., H, W]``: channels-last, save for small ones in bfloat16, for
    which oneDNN takes up to 1.8 times as long with it."""
    is_small = maps.shape[-2] * maps.shape[-1] <= _SMALL_MAP
    return torch.contiguous_format if is_small and maps.dtype == torch.bfloat16 else torch.channels_last


def sequence_buffer(like: Tensor, steps: int, channels: int) -> Tensor:
    """Return uninitialised maps ``[steps, B, channels, H, W]`` for ``like [B, C, H, W]``, each step channels-last."""
    batch, _, height, width = like.shape
    return like.new_empty(steps, batch, height, width, channels).permute(0, 1, 4, 2, 3)


def repeated_convolution(
    weight: Tensor, bias: Tensor | None, like: Tensor, num_calls: int, step: StepConvolution | None = None
) -> Convolution:
    """Return a convolution for ``num_calls`` calls with maps like ``like [B, C, H, W]``; the size is kept.

    oneDNN reorders the weights at each call, which for the small maps of one step costs up to as much as the
    convolution; here they are reordered once. For a single call ``step`` does it, if given. No gradient flows through.
    """
    if num_calls == 1 and step is not None:
        return lambda maps: step(maps, weight, bias)
    if num_calls < _FEW_CALLS or not _runs_on_onednn(like):
        return lambda maps: F.conv2d(maps, weight, bias, padding=_padding(weight))
    packed = _pack(weight, like)
    return lambda maps: _convolve_packed(maps, packed, bias, _padding(weight))


class StepConvolution:
    """The convolution of one step after the other, as a stream makes them: the weights stay in oneDNN's order between
    calls, which is most of what a step on one frame costs.

    They are ordered anew when the maps get another shape, or the weights change: by torch's count of changes, or, as
    that misses writes through ``.data``, by their first element. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, Tensor] | None = None

    def __call__(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``maps [B, C, H, W]`` -> ``[B, C', H, W]``; no gradient flows through."""
        if not self._pays(maps, weight):
            return F.conv2d(maps, weight, bias, padding=_padding(weight))
        key = (weight.data_ptr(), weight._version, weight[0, 0, 0, 0].item(), maps.shape, maps.dtype)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, _pack(weight, maps)
        return _convolve_packed(maps, self._kept[1], bias, _padding(weight))

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": None}

    def _pays(self, maps: Tensor, weight: Tensor) -> bool:
        is_small = maps.shape[0] * maps.shape[2] * maps.shape[3] <= _FEW_PLACES
        return is_small and maps.dtype == weight.dtype and not weight.is_inference() and _runs_on_onednn(maps)


def _pack(weight: Tensor, like: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten.mkldnn_reorder_conv2d_weight(
        weight.detach().to_mkldnn(), _padding(weight), _ONE, _ONE, 1, list(like.shape)
    )
    return packed


def _convolve_packed(maps: Tensor, packed: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    # The operator of torch's own compiler; torch.mkldnn_convolution would bring the weights into order once more.
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(maps, packed, bias, padding, _ONE, _ONE, 1, "none", [], "")
    return result


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[2] // 2, weight.shape[3] // 2


def transposed(weight: Tensor) -> Tensor:
    """Return the weight of the convolution that carries a gradient back through the one with ``weight``."""
    return weight.flip(2, 3).transpose(0, 1).contiguous()


def weight_gradients(
    maps: Tensor, weight: Tensor, grad: Tensor, winograd: Winograd, *, has_bias: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of weight and bias, summed over all steps in one call.

    Args:
        maps: what was convolved, ``[T, B, C, H, W]``.
        weight: ``[C', C, k, k]``.
        grad: gradient of the result, ``[T, B, C', H, W]``.
        winograd: of this convolution.
        has_bias: whether there is a bias.
    """
    maps, grad = maps.flatten(0, 1), grad.flatten(0, 1)  # [T, B, ...] -> [T B, ...]
    if pays(maps, weight):
        _, grad_weight = winograd.gradients(maps, weight, grad, needs_maps=False)
        return grad_weight, grad.sum(dim=(0, 2, 3)) if has_bias else None
    _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, maps, weight, [len(weight)], _ONE, _padding(weight), _ONE, False, (0, 0), 1, [False, True, has_bias]
    )
    return grad_weight, grad_bias


def _runs_on_onednn(maps: Tensor) -> bool:
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return maps.dtype == torch.float32 or (
        maps.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
