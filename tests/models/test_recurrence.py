"""The fast paths of the temporal heads against the slow ones: outputs, gradients, states, float64 to bfloat16."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.temporal import fast
from pipeline.models.temporal.convgru import ConvGRU
from pipeline.models.temporal.convlstm import ConvLSTM
from pipeline.models.temporal.fast import set_fast
from pipeline.models.temporal.head import TemporalHead
from pipeline.models.temporal.mingru import ConvMinGRU, MinGRU
from pipeline.models.temporal.prepared import repeated_convolution, transposed
from tests.reference import convolutional_cells, minimal_gru
from tests.reference.naive_convgru import NaiveConvGRU

STEPS, BATCH, CHANNELS, HIDDEN = 5, 2, 5, 6
MAP_HEADS = {
    "reset after": lambda: ConvGRU(CHANNELS, HIDDEN),
    "reset before": lambda: ConvGRU(CHANNELS, HIDDEN, reset_after=False),
    "lstm": lambda: ConvLSTM(CHANNELS, HIDDEN),
    "minimal": lambda: ConvMinGRU(CHANNELS, HIDDEN),
}
# Largest difference allowed, as a share of the largest value. bfloat16 has 8 bits: one rounding is 0.004 of a value.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}


def make_head(name: str, dtype: torch.dtype) -> TemporalHead:
    torch.manual_seed(1)
    head = MAP_HEADS[name]()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    return head.to(dtype)


def make_maps(dtype: torch.dtype, steps: int = STEPS) -> tuple[Tensor, Tensor, Tensor]:
    """Input, a hidden state and a cell state. Rounded to bfloat16, so that every dtype holds the same numbers."""
    torch.manual_seed(2)
    shapes = [(BATCH, steps, CHANNELS, 4, 3), (BATCH, HIDDEN, 4, 3), (BATCH, HIDDEN, 4, 3)]
    x, hidden, cell = (torch.randn(shape).bfloat16().to(dtype) for shape in shapes)
    return x, hidden, cell


def naive(head: TemporalHead, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
    """The head's outputs by the loops of tests/reference, through autograd."""
    if isinstance(head, ConvMinGRU):
        return minimal_gru.convolutional(x, head.gates.weight, head.gates.bias, *state)
    weights = head.input_conv.weight, head.input_conv.bias, head.hidden_conv.weight
    if isinstance(head, ConvLSTM):
        return convolutional_cells.convlstm(x, *weights, *state)
    return convolutional_cells.convgru(x, *weights, head.hidden_conv.bias, *state)


def assert_near(ours: Tensor, reference: Tensor, tolerance: float) -> None:
    difference = (ours.double() - reference).abs().max() / reference.abs().max()
    assert difference < tolerance


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("has_state", [True, False])
@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_outputs_and_all_gradients_are_those_of_the_naive_loop(
    name: str, has_state: bool, dtype: torch.dtype, is_fast: bool
) -> None:
    head, slow_head = make_head(name, dtype), make_head(name, torch.float64)
    set_fast(head, is_fast)
    slow_head.load_state_dict(head.state_dict())
    x, *states = make_maps(dtype)
    states = states[: 2 if name == "lstm" else 1]
    if not has_state:
        states = [torch.zeros_like(state) for state in states]
    own = [tensor.clone().requires_grad_() for tensor in (x, *states)]
    slow = [tensor.double().requires_grad_() for tensor in (x, *states)]
    given = (tuple(own[1:]) if name == "lstm" else own[1]) if has_state else None
    y, last = head(own[0], given)
    expected = naive(slow_head, slow[0], tuple(slow[1:]))
    assert y.dtype == dtype
    assert_near(y, expected, TOLERANCES[dtype])
    assert_near(last[0] if name == "lstm" else last, expected[:, -1], TOLERANCES[dtype])
    with torch.no_grad():  # its own loop, which keeps nothing
        assert_near(head(x, given)[0], expected, TOLERANCES[dtype])
    torch.manual_seed(3)
    direction = torch.randn(expected.shape, dtype=torch.float64)
    y.backward(direction.to(dtype))
    expected.backward(direction)
    pairs = list(zip((*own, *head.parameters()), (*slow, *slow_head.parameters()), strict=True))
    for ours, reference in pairs if has_state else [pairs[0], *pairs[len(own) :]]:
        assert ours.grad is not None
        assert_near(ours.grad, reference.grad, TOLERANCES[dtype])


@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_the_last_state_carries_the_gradient(name: str) -> None:
    """A loss on the last state alone, the LSTM's cell included, against the plain loop in chunks."""
    head = make_head(name, torch.float64)
    x, *states = make_maps(torch.float64)
    states = [state.requires_grad_() for state in states[: 2 if name == "lstm" else 1]]
    inputs = [*states, *head.parameters()]

    def gradients(*chunks: Tensor) -> tuple[Tensor, ...]:
        state = tuple(states) if name == "lstm" else states[0]
        for chunk in chunks:
            state = head(chunk, state)[1]
        parts = state if isinstance(state, tuple) else (state,)
        return torch.autograd.grad(sum((part * part).sum() for part in parts), inputs)

    ours = gradients(x)
    chunked = gradients(x[:, :2], x[:, 2:])
    set_fast(head, False)
    for by_hand, by_chunk, plain in zip(ours, chunked, gradients(x), strict=True):
        torch.testing.assert_close(by_hand, plain)
        torch.testing.assert_close(by_chunk, plain)


@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_derivatives_by_finite_differences(name: str) -> None:
    head = make_head(name, torch.float64)
    x, *states = make_maps(torch.float64, steps=3)
    states = [state[:1, :, :2, :2].clone().requires_grad_() for state in states[: 2 if name == "lstm" else 1]]
    x = x[:1, :, :, :2, :2].clone().requires_grad_()

    def run(x: Tensor, *states: Tensor) -> Tensor:
        return head(x, states if name == "lstm" else states[0])[0]

    assert torch.autograd.gradcheck(run, (x, *states), fast_mode=True)


def test_second_derivatives_are_refused() -> None:
    head = make_head("reset after", torch.float64)
    x = make_maps(torch.float64)[0].requires_grad_()
    with pytest.raises(RuntimeError, match="first order only"):
        torch.autograd.grad(head(x)[0].sum(), x, create_graph=True)


@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_mixed_precision_learns_in_bfloat16_and_keeps_float32_weights(name: str) -> None:
    head = make_head(name, torch.float32)
    x, *_ = make_maps(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = head(x)
    exact = head(x)[0]
    assert y.dtype == torch.bfloat16
    assert_near(y, exact.double(), TOLERANCES[torch.bfloat16])
    ours = torch.autograd.grad(y.float().square().sum(), list(head.parameters()))
    for grad, expected in zip(ours, torch.autograd.grad(exact.square().sum(), list(head.parameters())), strict=True):
        assert grad.dtype == torch.float32
        assert_near(grad, expected.double(), 2 * TOLERANCES[torch.bfloat16])  # the loss' gradient is rounded as well


@pytest.mark.parametrize("num_calls", [1, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_repeated_convolution_is_the_convolution(dtype: torch.dtype, num_calls: int) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(7, 5, 3, 3), torch.randn(7), torch.randn(2, 5, 4, 3)
    ours = repeated_convolution(weight.to(dtype), bias.to(dtype), x.to(dtype), num_calls)(x.to(dtype))
    assert_near(ours, F.conv2d(x.double(), weight.double(), bias.double(), padding=1), TOLERANCES[dtype])
    x.requires_grad_()
    grad = torch.randn(2, 7, 4, 3)
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, padding=1), x, grad)
    torch.testing.assert_close(repeated_convolution(transposed(weight), None, grad, num_calls)(grad), expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13])
def test_the_minimal_gru_is_the_paper_s_logarithms(steps: int) -> None:
    torch.manual_seed(5)
    head = MinGRU(4, 4).double()
    gates, state = 3 * torch.randn(2, steps, 8).double(), torch.rand(2, 4).double()
    inputs = gates.requires_grad_(), state.requires_grad_()
    take, candidate = gates.transpose(0, 1).chunk(2, dim=2)  # [B, T, ...] -> [T, B, ...]
    value = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
    expected = minimal_gru.weighted_means(take.sigmoid(), value, state)
    states = head.recur(*inputs)[0].transpose(0, 1)
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(states, minimal_gru.weighted_means_by_logarithms(take, value, state))
    direction = torch.randn_like(expected)
    for ours, reference in zip(
        torch.autograd.grad(states, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(ours, reference)


def test_a_long_minimal_gru_keeps_its_digits() -> None:
    """20,000 steps in float32 stay within 1e-6 of float64, also where the state hardly changes."""
    torch.manual_seed(5)
    head = MinGRU(4, 4)
    take, candidate, state = 3 * torch.randn(1, 20_000, 4) - 4, torch.rand(1, 20_000, 4), torch.rand(1, 4)
    expected = minimal_gru.weighted_means(take[0].double().sigmoid(), candidate[0].double() + 0.5, state[0].double())
    with torch.no_grad():
        states, _ = head.recur(torch.cat([take, candidate], dim=2), state)
    assert_near(states[0], expected, 1e-6)


@pytest.mark.parametrize("steps", [1, 2000])
def test_mingru_in_bfloat16_is_as_exact_as_its_gates(steps: int) -> None:
    torch.manual_seed(0)
    head = MinGRU(5, 6).bfloat16()
    x, state = torch.randn(2, steps, 5).bfloat16(), torch.rand(2, 6)
    y, last = head(x, state)
    gates = head.gates.weight.double(), head.gates.bias.double()
    expected = minimal_gru.linear(x.double(), *gates, state.double())
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert_near(y, expected, 0.01)
    assert_near(last, expected[:, -1], 0.01)


def test_the_loops_keep_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients none of autograd's functions is entered."""

    def refuse(*args: object) -> None:
        raise AssertionError("a derivative was prepared")

    monkeypatch.setattr(fast._ConvGRU, "forward", refuse)
    head = make_head("reset after", torch.float32)
    with torch.no_grad():
        head(make_maps(torch.float32)[0])
    with pytest.raises(AssertionError, match="prepared"):
        head(make_maps(torch.float32)[0])


@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_a_step_knows_when_its_weights_have_changed(name: str) -> None:
    """Weights kept in another order between steps are never those of before a step of training, a load, a write."""
    head = make_head(name, torch.float32)
    x = make_maps(torch.float32, steps=1)[0]

    @torch.no_grad()
    def change_in_place() -> None:
        for parameter in head.parameters():
            parameter.mul_(1.5)

    def change_data() -> None:
        for parameter in head.parameters():
            parameter.data.mul_(0.5)

    def load() -> None:
        head.load_state_dict(make_head(name, torch.float32).state_dict())

    for change in (change_in_place, change_data, load, change_data):
        with torch.inference_mode():
            before = head(x)[0]
            torch.testing.assert_close(head(x)[0], before)
        change()
        expected = head(x)[0].detach()  # with gradients nothing is kept
        assert (before - expected).abs().max() > 1e-3
        with torch.inference_mode():
            torch.testing.assert_close(head(x)[0], expected)
            torch.testing.assert_close(copy.deepcopy(head)(x)[0], expected)
            torch.testing.assert_close(pickle.loads(pickle.dumps(head))(x)[0], expected)


@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_compilers_get_the_plain_loop_and_the_same_results(name: str) -> None:
    head = make_head(name, torch.float32)
    x, *states = make_maps(torch.float32, steps=2)
    state = tuple(states) if name == "lstm" else states[0]
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    torch._dynamo.reset()
    y, expected = compiled(x, state)[0], head(x, state)[0]
    torch.testing.assert_close(y, expected)
    parameters = list(head.parameters())
    for ours, reference in zip(
        torch.autograd.grad(y.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", list(MAP_HEADS))
def test_the_fast_form_is_taken_where_it_may_be_and_nowhere_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, x = make_head(name, torch.float32), make_maps(torch.float32)[0]
    expected, taken = head(x)[0], []
    for function in ("convolve_frames", "run_convgru"):
        own = getattr(fast, function)
        monkeypatch.setattr(fast, function, lambda *a, own=own, **k: (taken.append(own), own(*a, **k))[1])
    head(x)
    num_forms = 2 if name == "reset after" else 1
    assert len(taken) == num_forms
    set_fast(nn.ModuleList([head]), False)
    torch.testing.assert_close(head(x)[0], expected)
    set_fast(head, True)
    torch.export.export(head, (x,))
    head.to("meta")(x.to("meta"))
    assert len(taken) == num_forms


def test_the_naive_loop_of_the_benchmark_computes_the_same() -> None:
    head, loop = ConvGRU(CHANNELS, HIDDEN, reset_after=False), NaiveConvGRU(CHANNELS, HIDDEN)
    with torch.no_grad():
        for gate, own in enumerate((loop.reset_gate, loop.update_gate, loop.out_gate)):
            rows = slice(gate * HIDDEN, (gate + 1) * HIDDEN)
            own.weight.copy_(torch.cat([head.input_conv.weight[rows], head.hidden_conv.weight[rows]], dim=1))
            own.bias.copy_(head.input_conv.bias[rows])
    x, state, _ = make_maps(torch.float32)
    torch.testing.assert_close(head(x, state)[0], loop(x, state)[0], atol=1e-5, rtol=1e-5)
