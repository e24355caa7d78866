"""Temporal heads against torch's own cells, against naive loops, and against themselves cut into chunks."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.errors import UserError
from pipeline.models.temporal.convgru import ConvGRU
from pipeline.models.temporal.convlstm import ConvLSTM
from pipeline.models.temporal.gru import Recurrent
from pipeline.models.temporal.pooling import Mean
from pipeline.models.temporal.stack import TEMPORAL_HEADS, add_noise, build_temporal, drop_features
from tests.reference import convolutional_cells

HEAD_NAMES = list(TEMPORAL_HEADS)
WITHOUT_WEIGHTS = ("none", "mean", "change")


def make_input(head: nn.Module, batch: int = 2, steps: int = 7, channels: int = 5, side: int = 4) -> Tensor:
    torch.manual_seed(3)
    shape = (batch, steps, channels, side, side) if head.reads_maps else (batch, steps, channels)
    return torch.randn(shape)


def build(name: str, **settings_: object) -> nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(heads=tuple(name.split("+")), hidden_channels=6, dropout=0.3, **settings_)
    return build_temporal(5, config).eval()


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_convgru_equals_the_naive_loop_forward_and_backward(reset_after: bool, kernel_size: int) -> None:
    torch.manual_seed(1)
    head = ConvGRU(5, 6, kernel_size, reset_after=reset_after).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 4, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    y, last = head(x, state)
    weights = head.input_conv.weight, head.input_conv.bias, head.hidden_conv.weight, head.hidden_conv.bias
    expected = convolutional_cells.convgru(x, *weights, state)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last, expected[:, -1])
    inputs = [x, *head.parameters()]
    for ours, reference in zip(
        torch.autograd.grad(y.square().sum(), inputs), torch.autograd.grad(expected.square().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours, reference)


def test_convgru_on_single_pixels_is_torch_gru() -> None:
    torch.manual_seed(2)
    gru, head = nn.GRU(5, 6, batch_first=True), ConvGRU(5, 6, kernel_size=1, reset_after=True)
    with torch.no_grad():
        head.input_conv.weight.copy_(gru.weight_ih_l0[:, :, None, None])
        head.hidden_conv.weight.copy_(gru.weight_hh_l0[:, :, None, None])
        head.input_conv.bias.copy_(gru.bias_ih_l0)
        head.hidden_conv.bias.copy_(gru.bias_hh_l0)
    x, state = torch.randn(3, 9, 5), torch.randn(3, 6)
    expected, expected_last = gru(x, state[None])
    y, last = head(x[..., None, None], state[..., None, None])
    torch.testing.assert_close(y[..., 0, 0], expected)
    torch.testing.assert_close(last[..., 0, 0], expected_last[0])


def test_the_paper_form_is_torch_gru_where_the_equations_agree() -> None:
    """With a candidate whose hidden weights are diagonal, r . (U h) and U (r . h) are the same."""
    torch.manual_seed(2)
    gru, head = nn.GRU(5, 6, batch_first=True), ConvGRU(5, 6, kernel_size=1, reset_after=False)
    with torch.no_grad():
        gru.weight_hh_l0[12:] = torch.diag(torch.randn(6))
        gru.bias_hh_l0.zero_()
        head.input_conv.weight.copy_(gru.weight_ih_l0[:, :, None, None])
        head.hidden_conv.weight.copy_(gru.weight_hh_l0[:, :, None, None])
        head.input_conv.bias.copy_(gru.bias_ih_l0)
    x = torch.randn(3, 9, 5)
    torch.testing.assert_close(head(x[..., None, None])[0][..., 0, 0], gru(x)[0])


def test_convlstm_equals_the_naive_loop_and_torch_lstm_on_single_pixels() -> None:
    torch.manual_seed(1)
    head = ConvLSTM(5, 6, 3)
    x, hidden, cell = torch.randn(2, 4, 5, 4, 3), torch.randn(2, 6, 4, 3), torch.randn(2, 6, 4, 3)
    weights = head.input_conv.weight, head.input_conv.bias, head.hidden_conv.weight
    torch.testing.assert_close(
        head(x, (hidden, cell))[0], convolutional_cells.convlstm(x, *weights, hidden, cell), atol=1e-5, rtol=1e-5
    )
    lstm, head = nn.LSTM(5, 6, batch_first=True), ConvLSTM(5, 6, 1)
    with torch.no_grad():
        head.input_conv.weight.copy_(lstm.weight_ih_l0[:, :, None, None])
        head.hidden_conv.weight.copy_(lstm.weight_hh_l0[:, :, None, None])
        head.input_conv.bias.copy_(lstm.bias_ih_l0 + lstm.bias_hh_l0)
    x = torch.randn(3, 9, 5)
    torch.testing.assert_close(head(x[..., None, None])[0][..., 0, 0], lstm(x)[0])


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_heads_are_torch_layers(layer: type[nn.RNNBase]) -> None:
    torch.manual_seed(4)
    own = layer(5, 6, batch_first=True)
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(Recurrent(own)(x)[0], own(x)[0])


def test_mean_is_the_mean_of_the_frames_so_far() -> None:
    x = torch.randn(2, 7, 5)
    y, _ = Mean(5)(x)
    for t in range(7):
        torch.testing.assert_close(y[:, t], x[:, : t + 1].mean(dim=1))


@pytest.mark.parametrize("name", [*HEAD_NAMES, "convgru+gru", "convlstm+convgru+mean", "convmingru+convmingru+mingru"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 6), max_size=5))
def test_any_cut_into_chunks_gives_the_whole(name: str, cuts: list[int]) -> None:
    head = build(name)
    assert head.streams
    x = make_input(head)
    whole, _ = head(x)
    edges = sorted({0, 7, *cuts})
    state, parts = None, []
    for start, stop in itertools.pairwise(edges):
        part, state = head(x[:, start:stop], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [*HEAD_NAMES, "convgru+gru"])
def test_every_head_learns_and_reports_its_width(name: str) -> None:
    head = build(name, norm="group")
    x = make_input(head).requires_grad_()
    y, _ = head(x)
    assert y.shape[:3] == (2, 7, head.num_outputs)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name", [*(name for name in HEAD_NAMES if name not in WITHOUT_WEIGHTS), "convgru+gru", "convmingru+mingru"]
)
def test_bidirectional_heads_see_the_future_and_refuse_to_stream(name: str) -> None:
    head = build(name, bidirectional=True)
    assert not head.streams
    x = make_input(head)
    y, state = head(x)
    changed = x.clone()
    changed[:, -1] += 1
    assert (head(changed)[0][:, 0] - y[:, 0]).abs().max() > 1e-6
    with pytest.raises(UserError, match="bidirectional"):
        head(x, state)


@pytest.mark.parametrize("name", [*HEAD_NAMES, "convgru+gru"])
def test_recomputing_keeps_less_and_changes_nothing(name: str) -> None:
    x = make_input(build(name))

    def gradients_and_floats_kept(head: nn.Module) -> tuple[list[Tensor], int]:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            loss = head(x)[0].square().sum()
        gradients = torch.autograd.grad(loss, list(head.parameters())) if list(head.parameters()) else []
        return list(gradients), sum(kept)

    whole, in_pieces = (build(name, checkpoint_steps=steps).train() for steps in (0, 3))
    whole.dropout = in_pieces.dropout = 0.0
    expected, kept_whole = gradients_and_floats_kept(whole)
    gradients, kept_in_pieces = gradients_and_floats_kept(in_pieces)
    for ours, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, reference)
    assert kept_in_pieces < kept_whole or name in WITHOUT_WEIGHTS


def test_dropout_is_one_draw_a_clip_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(64, 5, 32, 2, 2)
    dropped = drop_features(x, 0.25, training=True)
    assert (dropped == dropped[:, :1, :, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop_features(x, 0.25, training=False) is x


def test_noise_has_a_part_of_each_step_and_one_that_lasts() -> None:
    x = torch.zeros(400, 50, 6)
    noise = add_noise(x, 2.0, training=True)
    lasting = noise.mean(dim=1)  # [B, D]: what all steps have in common, and a 50th of the variance of the rest
    assert noise.var() == pytest.approx(4 + 1, rel=0.05)
    assert lasting.var() == pytest.approx(1 + 4 / 50, rel=0.1)
    assert add_noise(x, 2.0, training=False) is x
    assert add_noise(x, 0.0, training=True) is x
    assert add_noise(torch.zeros(2, 3, 4, 5, 5), 1.0, training=True).shape == (2, 3, 4, 5, 5)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown temporal head 'convgrew'. Did you mean 'convgru'"):
        build("convgrew")
    with pytest.raises(UserError, match="convgru reads maps and cannot follow"):
        build("gru+convgru")


def test_change_is_the_difference_of_neighbours() -> None:
    x = torch.randn(2, 4, 3)
    y, state = build("change")(x)
    expected = [[torch.cat([clip[t], clip[t] - clip[max(t - 1, 0)]]) for t in range(4)] for clip in x]
    torch.testing.assert_close(y, torch.stack([torch.stack(clip) for clip in expected]))
    torch.testing.assert_close(state[0][0], x[:, -1])
