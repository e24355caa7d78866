"""Winograd's convolution against torch's, in float64 and float32; where it is used, and where it must not be."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.temporal import fast, prepared, winograd
from pipeline.models.temporal.convgru import ConvGRU
from pipeline.models.temporal.convlstm import ConvLSTM
from pipeline.models.temporal.mingru import ConvMinGRU
from pipeline.models.temporal.winograd import Winograd
from tests.models.test_recurrence import MAP_HEADS, make_head, make_maps

SIZES = [(7, 7), (4, 4), (8, 8), (5, 9), (3, 3), (1, 1), (2, 13)]
# Largest difference from float64, as a share of the largest value.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 5e-6}


def make_case(height: int, width: int, num_maps: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps, weight, bias and the result's gradient, float64, holding float32's numbers."""
    torch.manual_seed(height * 100 + width)
    shapes = [(num_maps, 5, height, width), (6, 5, 3, 3), (6,), (num_maps, 6, height, width)]
    maps, weight, bias, grad = (torch.randn(shape).double() for shape in shapes)
    return maps, weight, bias, grad


def results(convolve: object, *inputs: Tensor, grad: Tensor) -> list[Tensor]:
    """The result and the gradients of all inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    result = convolve(*leaves)  # type: ignore[operator]
    return [result.detach(), *torch.autograd.grad(result, leaves, grad)]


def assert_near(ours: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, reference in zip(ours, expected, strict=True):
        assert one.shape == reference.shape
        assert (one.double() - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("size", SIZES)
def test_result_and_gradients_are_those_of_a_convolution(size: tuple[int, int], dtype: torch.dtype) -> None:
    *inputs, grad = make_case(*size)
    expected = results(lambda x, w, b: F.conv2d(x, w, b, padding=1), *inputs, grad=grad)
    ours = results(Winograd(), *(tensor.to(dtype) for tensor in inputs), grad=grad.to(dtype))
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    assert_near(ours, expected, TOLERANCES[dtype])


@pytest.mark.parametrize("tiles_at_once", [1, 8, 12])
def test_pieces_make_no_difference(tiles_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one, two and three maps at a time, seven in all."""
    *inputs, grad = make_case(7, 5, num_maps=7)
    expected = results(lambda x, w, b: F.conv2d(x, w, b, padding=1), *inputs, grad=grad)
    monkeypatch.setattr(winograd, "_TILES_AT_ONCE", tiles_at_once)
    assert_near(results(Winograd(), *inputs, grad=grad), expected, 1e-13)


def test_its_memory_serves_calls_of_any_shape() -> None:
    one = Winograd()
    for size, num_maps, dtype in [((7, 7), 3, torch.float64), ((4, 4), 3, torch.float32), ((7, 7), 2, torch.float64)]:
        *inputs, grad = (tensor.to(dtype) for tensor in make_case(*size, num_maps))
        ours = results(one, *inputs, grad=grad)
        assert all(torch.equal(*pair) for pair in zip(ours, results(Winograd(), *inputs, grad=grad), strict=True))
        for twin in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert torch.equal(results(twin, *inputs, grad=grad)[0], ours[0])


def test_a_call_between_a_result_and_its_gradient_changes_nothing() -> None:
    """What one call keeps for its gradient, the next one overwrites."""
    one = Winograd()
    *inputs, grad = make_case(4, 4)
    expected = results(one, *inputs, grad=grad)[1:]
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    first = one(*leaves)
    one(torch.ones_like(leaves[0]), *leaves[1:])
    for ours, reference in zip(torch.autograd.grad(first, leaves, grad), expected, strict=True):
        torch.testing.assert_close(ours, reference)


def test_nothing_is_kept_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, grad = make_case(4, 4)
    expected = results(Winograd(), *inputs, grad=grad)
    monkeypatch.setattr(winograd, "_MAX_KEPT_BYTES", 36 * 3 * 5 * 8 - 1)  # products, maps of one tile, channels, bytes
    one = Winograd()
    assert all(torch.equal(*pair) for pair in zip(results(one, *inputs, grad=grad), expected, strict=True))
    assert one._kept == []


def test_derivatives_by_finite_differences() -> None:
    maps, weight, bias, _ = (tensor[:2].clone().requires_grad_() for tensor in make_case(5, 4))
    assert torch.autograd.gradcheck(Winograd(), (maps, weight, bias), fast_mode=True)


def test_second_derivatives_are_refused() -> None:
    maps, weight, bias, _ = make_case(4, 4)
    with pytest.raises(RuntimeError, match="first order only"):
        torch.autograd.grad(Winograd()(maps.requires_grad_(), weight, bias).sum(), maps, create_graph=True)


def make_large(head: type[ConvGRU] | type[ConvLSTM] | type[ConvMinGRU]) -> tuple[torch.nn.Module, Tensor]:
    """Just large enough for the rule."""
    torch.manual_seed(0)
    return head(384, 128), torch.randn(4, 16, 384, 4, 4)


class Counted:
    """``Winograd``, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forwards = self.backwards = 0
        convolve, gradients = Winograd.convolve, Winograd.gradients

        def count_forward(*args: object, **options: object) -> object:
            self.forwards += 1
            return convolve(*args, **options)  # type: ignore[arg-type]

        def count_backward(*args: object, **options: object) -> object:
            self.backwards += 1
            return gradients(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Winograd, "convolve", count_forward)
        monkeypatch.setattr(Winograd, "gradients", count_backward)


@pytest.mark.parametrize(("kind", "backwards"), [(ConvGRU, 2), (ConvLSTM, 1), (ConvMinGRU, 1)])
def test_training_takes_it_and_nothing_else_does(
    kind: type[ConvGRU], backwards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once forwards, for the input of all steps; backwards for that, and for the hidden weights of all steps."""
    counted = Counted(monkeypatch)
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 8)  # a sixteenth of the rule's
    monkeypatch.setattr(winograd, "_MIN_CHANNELS_TOGETHER", 32)
    torch.manual_seed(0)
    head, x = kind(24, 8), torch.randn(4, 16, 24, 4, 4)
    loss = head(x)[0].square().sum()
    assert (counted.forwards, counted.backwards) == (1, 0)
    loss.backward()
    assert (counted.forwards, counted.backwards) == (1, backwards)
    with torch.no_grad():
        head(x)
    with torch.autocast("cpu", torch.bfloat16):
        head(x)[0].float().sum().backward()
    head.double()(x.double())[0].sum().backward()
    assert (counted.forwards, counted.backwards) == (1, backwards)


@pytest.mark.parametrize("kind", [ConvGRU, ConvLSTM, ConvMinGRU])
def test_a_large_head_is_as_exact_as_float32_allows(kind: type[ConvGRU], monkeypatch: pytest.MonkeyPatch) -> None:
    """16 steps, against the same head in float64: outputs, and gradients of input and weights."""
    head, x = make_large(kind)

    def outputs_and_gradients(head: torch.nn.Module, x: Tensor) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        y = head(leaf)[0]
        return [y.detach(), *torch.autograd.grad(y.square().mean(), [leaf, *head.parameters()])]

    expected = outputs_and_gradients(copy.deepcopy(head).double(), x.double())
    ours = outputs_and_gradients(head, x)
    assert_near(ours, expected, 3e-5)
    monkeypatch.setattr(fast, "pays", lambda maps, weight: False)
    assert not torch.equal(ours[0], outputs_and_gradients(head, x)[0])  # two ways indeed


@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_all_heads_keep_their_derivatives_with_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small heads in float64, made to take it everywhere, against the same without."""
    head, (x, *_) = make_head(name, torch.float64), make_maps(torch.float64)
    inputs = [x.requires_grad_(), *head.parameters()]
    found = []
    for always in (True, False):
        for module in (fast, prepared):
            monkeypatch.setattr(module, "pays", lambda maps, weight, always=always: always)
        found.append(torch.autograd.grad(head(x)[0].square().sum(), inputs))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
