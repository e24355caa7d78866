"""3x3 convolutions with a third of the multiplications, for many maps at once.

Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016, https://arxiv.org/abs/1509.09308, there F(4x4, 3x3): a tile of 4x4 results comes from 6x6 values
by 36 multiplications for each pair of channels, instead of 144:

    y = A [ sum over channels of (G w G') . (B x B') ] A'

The sums over channels are 36 matrix products. Gradients are the transposes of the same steps and cost as little.
Rounding errors in float32 are about twice those of a direct convolution; in bfloat16 the transforms would lose digits,
so it is not used there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import polynomial
from torch import Tensor

from pipeline.models.temporal.derivatives import Gradients, first_order

_RESULTS, _VALUES, _KERNEL = 4, 6, 3  # sides of a tile of results, of the values it comes from, and of the kernel
_NUM_PRODUCTS = _VALUES**2
# Where the polynomials are evaluated, and infinity. Errors in float32 are a third of those of the usual 0, 1, 2; why:
# Barabasz, Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution", 2020.
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
# With fewer channels, on either side or together, the transforms cost what the products save.
_MIN_CHANNELS, _MIN_CHANNELS_TOGETHER = 128, 512
_MIN_TILES = 64  # of all maps together
_MAX_MULTIPLICATIONS = 0.5  # of those of a direct convolution; more where maps fill their last tiles badly
# Tiles that go through all steps together: enough for fast products, few enough to stay in a cache.
_TILES_AT_ONCE = 256


def pays(maps: Tensor, weight: Tensor) -> bool:
    """Whether ``Winograd`` is faster than a direct convolution of ``maps [N, C, H, W]`` with ``weight``."""
    height, width = maps.shape[2:]
    num_tiles = _count(height) * _count(width)
    share = num_tiles * _NUM_PRODUCTS / (height * width * _KERNEL**2)
    return (
        weight.shape[2:] == (_KERNEL, _KERNEL)
        and maps.dtype == weight.dtype == torch.float32
        and maps.device.type == "cpu"
        and min(weight.shape[:2]) >= _MIN_CHANNELS
        and sum(weight.shape[:2]) >= _MIN_CHANNELS_TOGETHER
        and len(maps) * num_tiles >= _MIN_TILES
        and share <= _MAX_MULTIPLICATIONS
    )


class Winograd:
    """The convolution of many maps after many, in memory that serves all calls: new memory of this size costs as much
    as a third of the work. Copies and pickles start empty."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._values, self._results = _Tiles(_VALUES), _Tiles(_RESULTS)
        self._weight = self._of_weight = torch.empty(0)  # transformed, and its gradient: [36, C', C]

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._clear()

    def __call__(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``maps [N, C, H, W]``, ``weight [C', C, 3, 3]`` -> ``[N, C', H, W]``, channels-last, the size kept;
        differentiable once."""
        result: Tensor = _Convolution.apply(self, maps, weight, bias)
        return result

    def convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        """As a call without bias, without a derivative."""
        convolved = _new_maps(maps, len(weight))
        of_weight = self._transform(weight).transpose(1, 2)
        for some in _pieces(maps):
            torch.bmm(self._values.transformed(maps[some]), of_weight, out=self._results.products(convolved[some]))
            self._results.join(convolved[some])
        return convolved

    def gradients(
        self, maps: Tensor, weight: Tensor, grad: Tensor, *, needs_maps: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Gradients of ``maps [N, C, H, W]``, if wanted, and ``weight``, from that of the result ``[N, C', H, W]``."""
        transformed = self._transform(weight) if needs_maps else None
        of_maps = _new_maps(maps, maps.shape[1]) if needs_maps else None
        self._of_weight = _memory(self._of_weight, weight)
        for some in _pieces(maps):
            of_products = self._results.transformed(grad[some])
            pair = of_products.transpose(1, 2), self._values.transformed(maps[some])
            self._of_weight.baddbmm_(*pair, beta=int(some.start > 0))  # with 0, what was there does not count
            if of_maps is not None and transformed is not None:
                torch.bmm(of_products, transformed, out=self._values.products(of_maps[some]))
                self._values.join(of_maps[some])
        # [36, C', C] -> [C' C, 36] -> [C' C, 9] -> [C', C, 3, 3]
        of_weight = self._of_weight.flatten(1).t() @ _transforms(weight.dtype)[1]
        return of_maps, of_weight.view_as(weight)

    def _transform(self, weight: Tensor) -> Tensor:
        """``[C', C, 3, 3]`` -> ``[36, C', C]``."""
        self._weight = _memory(self._weight, weight)
        kernels = weight.reshape(-1, _KERNEL**2).t()  # [C', C, 3, 3] -> [C' C, 9] -> [9, C' C]
        torch.mm(_transforms(weight.dtype)[1], kernels, out=self._weight.flatten(1))
        return self._weight


class _Convolution(torch.autograd.Function):
    """The call of ``Winograd`` as a function of autograd. It keeps what a direct convolution keeps."""

    @staticmethod
    def forward(ctx: Any, winograd: Winograd, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.winograd = winograd
        convolved = winograd.convolve(maps, weight)
        return convolved if bias is None else convolved.add_(bias[:, None, None])

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        maps, weight = ctx.saved_tensors
        _, needs_maps, _, needs_bias = ctx.needs_input_grad
        of_maps, of_weight = ctx.winograd.gradients(maps, weight, grad, needs_maps=needs_maps)
        return None, of_maps, of_weight, grad.sum(dim=(0, 2, 3)) if needs_bias else None


def _memory(kept: Tensor, weight: Tensor) -> Tensor:
    shape = (_NUM_PRODUCTS, *weight.shape[:2])
    return kept if kept.shape == shape and kept.dtype == weight.dtype else weight.new_empty(shape)


def _pieces(maps: Tensor) -> Iterator[slice]:
    num_maps = max(1, _TILES_AT_ONCE // (_count(maps.shape[2]) * _count(maps.shape[3])))
    return (slice(start, start + num_maps) for start in range(0, len(maps), num_maps))


def _count(size: int) -> int:
    return -(-size // _RESULTS)


def _new_maps(like: Tensor, channels: int) -> Tensor:
    """Uninitialised maps ``[N, channels, H, W]``, channels-last in memory."""
    return like.new_empty(len(like), *like.shape[2:], channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=4)
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A ``[16, 36]``, G ``[36, 9]`` and B ``[36, 36]``, each for both directions of a tile at once."""
    results, kernel, values = np.zeros((_RESULTS, _VALUES)), np.zeros((_VALUES, _KERNEL)), np.zeros((_VALUES, _VALUES))
    for place, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        results[:, place] = point ** np.arange(_RESULTS)
        kernel[place] = point ** np.arange(_KERNEL) / np.prod(np.subtract(point, others))
        values[place, :-1] = polynomial.polyfromroots(others)
    results[-1, -1] = kernel[-1, -1] = 1.0  # the point at infinity
    values[-1] = polynomial.polyfromroots(_POINTS)
    first, second, third = (torch.from_numpy(np.kron(one, one)).to(dtype) for one in (results, kernel, values))
    return first, second, third


class _Tiles:
    """Tiles of maps, of values (side 6) or of results (side 4), and the memory for them."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._split = self._joined = self._transformed = torch.empty(0)

    def transformed(self, maps: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[36, tiles, C]``: values by B, gradients of results by A transposed."""
        transformed = self.products(maps)
        for places, tile in self._places(maps, self._split):
            tile.copy_(places)
        torch.mm(self._matrix(maps), self._split.view(self.side**2, -1), out=transformed.view(_NUM_PRODUCTS, -1))
        return transformed

    def products(self, maps: Tensor) -> Tensor:
        """Where ``join`` takes products of such maps from, and ``transformed`` leaves its own: ``[36, tiles, C]``."""
        num_maps, channels, height, width = maps.shape
        shape = self.side, self.side, num_maps, _count(height), _count(width), channels
        if self._split.shape != shape or self._split.dtype != maps.dtype:
            self._split = maps.new_zeros(shape)  # what lies beyond a map's edge stays zero
            self._joined = maps.new_empty(shape)
            self._transformed = maps.new_empty(_NUM_PRODUCTS, num_maps * shape[3] * shape[4], channels)
        return self._transformed

    def join(self, maps: Tensor) -> None:
        """The transpose of ``transformed``, written over ``maps [N, C, H, W]``; where tiles overlap they add up."""
        torch.mm(
            self._matrix(maps).t(), self._transformed.view(_NUM_PRODUCTS, -1), out=self._joined.view(self.side**2, -1)
        )
        if self.side > _RESULTS:
            maps.zero_()
        for places, tile in self._places(maps, self._joined):
            places.copy_(tile) if self.side == _RESULTS else places.add_(tile)

    def _matrix(self, maps: Tensor) -> Tensor:
        of_results, _, of_values = _transforms(maps.dtype)
        return of_values if self.side == _VALUES else of_results.t()

    def _places(self, maps: Tensor, tiles: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each place in a tile: those places of ``maps`` ``[N, rows, columns, C]``, and the same of ``tiles``."""
        before = (self.side - _RESULTS) // 2  # a tile of values starts one place before its results
        height, width = maps.shape[2:]
        rows, columns = ([_strided(offset - before, size) for offset in range(self.side)] for size in (height, width))
        pixels = maps.permute(0, 2, 3, 1)  # [N, C, H, W] -> [N, H, W, C]
        for row, (places_y, tiles_y) in enumerate(rows):
            for column, (places_x, tiles_x) in enumerate(columns):
                yield pixels[:, places_y, places_x], tiles[row, column, :, tiles_y, tiles_x]


def _strided(offset: int, size: int) -> tuple[slice, slice]:
    """Every fourth of ``size`` places from ``offset`` on, -1 being before the first, and the tiles they belong to."""
    first = int(offset < 0)
    start = offset + first * _RESULTS
    num = min(len(range(start, size, _RESULTS)), _count(size) - first)
    return slice(start, start + num * _RESULTS, _RESULTS), slice(first, first + num)
