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

from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import torch
from numpy.polynomial import polynomial
from torch import Tensor

Gradients = tuple[Tensor | None, ...]
_RESULTS, _VALUES, _KERNEL = 4, 6, 3  # sides of a tile of results, of the values it comes from, and of the kernel
_NUM_PRODUCTS = _VALUES**2
# Where the polynomials are evaluated, and infinity. Errors in float32 are a third of those of the usual 0, 1, 2; why:
# Barabasz, Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution", 2020.
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
# With fewer channels, on either side or together, the transforms cost what the products save.
MIN_CHANNELS, _MIN_CHANNELS_TOGETHER = 128, 512
_MIN_TILES = 64  # of all maps together
_MAX_MULTIPLICATIONS = 0.5  # of those of a direct convolution; more where maps fill their last tiles badly
# Tiles that go through all steps together: enough for fast products, few enough to stay in a cache.
_TILES_AT_ONCE = 256
# Up to here transformed maps are kept from the forward pass for the backward pass.
_MAX_KEPT_BYTES = 64 * 2**20


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Wrap the ``backward`` of a function of autograd whose derivative cannot be differentiated again.

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


def pays(maps: Tensor, weight: Tensor) -> bool:
    """Return whether ``Winograd`` is faster than a direct convolution of ``maps [N, C, H, W]`` with ``weight``."""
    height, width = maps.shape[2:]
    num_tiles = _count(height) * _count(width)
    share = num_tiles * _NUM_PRODUCTS / (height * width * _KERNEL**2)
    return (
        weight.shape[2:] == (_KERNEL, _KERNEL)
        and maps.dtype == weight.dtype == torch.float32
        and min(weight.shape[:2]) >= MIN_CHANNELS
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
        self._kept: list[Tensor] = []  # transformed maps of the last call, a piece each: [36, tiles, C]
        self.num_calls = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._clear()

    def __call__(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``maps [N, C, H, W]``, ``weight [C', C, 3, 3]`` -> ``[N, C', H, W]``, channels-last, the size kept;
        differentiable once."""
        result: Tensor = _Convolution.apply(self, maps, weight, bias)
        return result

    def convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same as a call gives, without a derivative."""
        self.num_calls += 1
        convolved = _new_maps(maps, len(weight))
        of_weight = self._transform(weight).transpose(1, 2)
        for some, memory in self._with_memory(maps):
            transformed = self._values.transformed(maps[some], memory)
            torch.bmm(transformed, of_weight, out=self._results.products(convolved[some]))
            self._results.join(convolved[some], bias)
        return convolved

    def _with_memory(self, maps: Tensor) -> Iterator[tuple[slice, Tensor | None]]:
        """The pieces of ``maps``, each with memory for its transform, if all of them together may be kept."""
        pieces = list(_pieces(maps))
        shapes = [_products_shape(maps[some]) for some in pieces]
        if sum(shape.numel() for shape in shapes) * maps.element_size() > _MAX_KEPT_BYTES:
            self._kept = []
            return zip(pieces, [None] * len(pieces), strict=True)
        if [(kept.shape, kept.dtype) for kept in self._kept] != [(shape, maps.dtype) for shape in shapes]:
            self._kept = [maps.new_empty(shape) for shape in shapes]
        return zip(pieces, self._kept, strict=True)

    def gradients(
        self, maps: Tensor, weight: Tensor, grad: Tensor, *, needs_maps: bool, call: int = 0
    ) -> tuple[Tensor | None, Tensor]:
        """Gradients of ``maps [N, C, H, W]``, if wanted, and ``weight``, from that of the result ``[N, C', H, W]``.
        ``call``: the number of the call that convolved them; if it was the last one, its transforms may be there."""
        kept = self._kept if call == self.num_calls else []
        transformed = self._transform(weight) if needs_maps else None
        of_maps = _new_maps(maps, maps.shape[1]) if needs_maps else None
        self._of_weight = _memory(self._of_weight, weight)
        for place, some in enumerate(_pieces(maps)):
            of_products = self._results.transformed(grad[some])
            pair = of_products.transpose(1, 2), kept[place] if kept else self._values.transformed(maps[some])
            self._of_weight.baddbmm_(*pair, beta=int(some.start > 0))  # with 0, what was there does not count
            if of_maps is not None and transformed is not None:
                torch.bmm(of_products, transformed, out=self._values.products(of_maps[some]))
                self._values.join(of_maps[some])
        of_weight = _transforms(weight.dtype)[1].t() @ self._of_weight.flatten(1)  # [36, C', C] -> [9, C' C]
        return of_maps, of_weight.t().reshape(weight.shape)

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
        convolved = winograd.convolve(maps, weight, bias)
        ctx.call = winograd.num_calls
        return convolved

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        maps, weight = ctx.saved_tensors
        _, needs_maps, _, needs_bias = ctx.needs_input_grad
        of_maps, of_weight = ctx.winograd.gradients(maps, weight, grad, needs_maps=needs_maps, call=ctx.call)
        return None, of_maps, of_weight, grad.sum(dim=(0, 2, 3)) if needs_bias else None


def _memory(kept: Tensor, weight: Tensor) -> Tensor:
    shape = (_NUM_PRODUCTS, *weight.shape[:2])
    return kept if kept.shape == shape and kept.dtype == weight.dtype else weight.new_empty(shape)


def _pieces(maps: Tensor) -> Iterator[slice]:
    num_maps = max(1, _TILES_AT_ONCE // (_count(maps.shape[2]) * _count(maps.shape[3])))
    return (slice(start, start + num_maps) for start in range(0, len(maps), num_maps))


def _count(size: int) -> int:
    return -(-size // _RESULTS)


def _products_shape(maps: Tensor) -> torch.Size:
    num_maps, channels, height, width = maps.shape
    return torch.Size((_NUM_PRODUCTS, num_maps * _count(height) * _count(width), channels))


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
    """Memory for the tiles of some maps: of values, 6x6 around 4x4 results, or of those results."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._cut = self._joined = self._products = torch.empty(0)

    def transformed(self, maps: Tensor, memory: Tensor | None = None) -> Tensor:
        """``[N, C, H, W]`` -> ``[36, tiles, C]``, for values by B, for gradients of results by A transposed; in
        ``memory``, if given, else where the next call writes too."""
        products = self.products(maps)
        products = products if memory is None else memory
        for places, tile in self._overlaps(maps, self._cut):
            tile.copy_(places)
        torch.mm(self._matrix(maps), self._cut.view(self.side**2, -1), out=products.view(_NUM_PRODUCTS, -1))
        return products

    def products(self, maps: Tensor) -> Tensor:
        """Memory that ``transformed`` leaves its products in and ``join`` takes them from: ``[36, tiles, C]``."""
        num_maps, channels, height, width = maps.shape
        shape = self.side, self.side, _count(height), _count(width), num_maps, channels
        if self._cut.shape != shape or self._cut.dtype != maps.dtype:
            self._cut = maps.new_zeros(shape)  # what lies beyond a map's edge stays zero
            self._joined = maps.new_empty(shape)
            self._products = maps.new_empty(_products_shape(maps))
        return self._products

    def join(self, maps: Tensor, bias: Tensor | None = None) -> None:
        """The transpose of ``transformed``, and a bias, written over ``maps [N, C, H, W]``; where tiles overlap they
        add up."""
        products = self._products.view(_NUM_PRODUCTS, -1)
        torch.mm(self._matrix(maps).t(), products, out=self._joined.view(self.side**2, -1))
        for number, (places, tile) in enumerate(self._overlaps(maps, self._joined)):
            # What the tiles above and to the left have written, this one adds to; values overlap, results do not.
            row, column = divmod(number, self._joined.shape[3])
            above, left = (self.side - _RESULTS if place else 0 for place in (row, column))
            places[:above] += tile[:above]
            places[above:, :left] += tile[above:, :left]
            places, tile = places[above:, left:], tile[above:, left:]
            places.copy_(tile) if bias is None else torch.add(tile, bias, out=places)

    def _matrix(self, maps: Tensor) -> Tensor:
        results, _, values = _transforms(maps.dtype)
        return values if self.side == _VALUES else results.t()

    def _overlaps(self, maps: Tensor, tiles: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tile what of it lies on maps: of ``maps [N, C, H, W]`` and of ``tiles [side, side, rows, columns, N,
        C]``, both as ``[height, width, N, C]``."""
        pixels = maps.permute(2, 3, 0, 1)  # [N, C, H, W] -> [H, W, N, C]
        for row in range(tiles.shape[2]):
            on_map_y, on_tile_y = self._overlap(row, maps.shape[2])
            for column in range(tiles.shape[3]):
                on_map_x, on_tile_x = self._overlap(column, maps.shape[3])
                yield pixels[on_map_y, on_map_x], tiles[on_tile_y, on_tile_x, row, column]

    def _overlap(self, place: int, size: int) -> tuple[slice, slice]:
        """Along one side: which of the map's ``size`` places, and which of the tile's."""
        start = place * _RESULTS - (self.side - _RESULTS) // 2
        first, stop = max(start, 0), min(start + self.side, size)
        return slice(first, stop), slice(first - start, stop - start)
