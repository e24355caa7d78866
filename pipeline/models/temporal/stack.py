"""Heads by name, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import ModelConfig
from pipeline.errors import UserError, unknown_name
from pipeline.models.scan_orders import SCAN_ORDERS
from pipeline.models.temporal.convgru import ConvGRU
from pipeline.models.temporal.convlstm import ConvLSTM
from pipeline.models.temporal.gru import Recurrent
from pipeline.models.temporal.head import State, TemporalHead, cannot_stream
from pipeline.models.temporal.mingru import ConvMinGRU, MinGRU
from pipeline.models.temporal.pooling import Change, Identity, Mean

_Build = Callable[[int, ModelConfig], TemporalHead]


def _both_ways(build: _Build) -> _Build:
    """The head itself, or two of it that read in both directions."""
    return lambda num_features, config: (
        Bidirectional(build(num_features, config), build(num_features, config))
        if config.bidirectional
        else build(num_features, config)
    )


def _recurrent(layer: Callable[..., nn.RNNBase]) -> _Build:
    return lambda num_features, config: Recurrent(
        layer(num_features, config.hidden_channels, batch_first=True, bidirectional=config.bidirectional)
    )


def _of_maps(head: type[ConvGRU] | type[ConvLSTM] | type[ConvMinGRU], *settings: str) -> _Build:
    """A head of maps, with those settings that it alone has."""
    return _both_ways(
        lambda num_features, config: head(
            num_features,
            config.hidden_channels,
            SCAN_ORDERS[config.scan].kernel(config.kernel_size),
            norm=config.norm,
            **{name: getattr(config, name) for name in settings},
        )
    )


# name -> (input channels, settings) -> head
TEMPORAL_HEADS: dict[str, _Build] = {
    "none": lambda num_features, config: Identity(num_features),
    "mean": lambda num_features, config: Mean(num_features),
    "change": lambda num_features, config: Change(num_features),
    "rnn": _recurrent(nn.RNN),
    "lstm": _recurrent(nn.LSTM),
    "gru": _recurrent(nn.GRU),
    "convlstm": _of_maps(ConvLSTM),
    "convgru": _of_maps(ConvGRU, "reset_after"),
    "mingru": _both_ways(lambda num_features, config: MinGRU(num_features, config.hidden_channels)),
    "convmingru": _of_maps(ConvMinGRU),
}
MAP_HEADS = frozenset(("convlstm", "convgru", "convmingru"))


class Bidirectional(TemporalHead):
    """Two heads, one reading forwards and one backwards, their outputs joined along the channels."""

    streams = False

    def __init__(self, forwards: TemporalHead, backwards: TemporalHead) -> None:
        super().__init__()
        self.forwards, self.backwards = forwards, backwards
        self.reads_maps = forwards.reads_maps
        self.num_outputs = forwards.num_outputs + backwards.num_outputs

    def initial_state(self, x: Tensor) -> State:
        """Both heads' initial states."""
        return self.forwards.initial_state(x), self.backwards.initial_state(x)

    def project(self, x: Tensor) -> Tensor:
        """The inputs of both heads, joined along the channels."""
        return torch.cat([self.forwards.project(x), self.backwards.project(x)], dim=2)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """``[B, T, C', ...]`` -> ``[B, T, C'', ...]``.

        Raises:
            UserError: a state is handed in.
        """
        if state is not None:
            raise cannot_stream("head")
        forwards, backwards = projected.chunk(2, dim=2)  # the two heads are alike
        y_forwards, state_forwards = self.forwards.recur(forwards)
        y_backwards, state_backwards = self.backwards.recur(backwards.flip(1))
        return torch.cat([y_forwards, y_backwards.flip(1)], dim=2), (state_forwards, state_backwards)


class Stack(TemporalHead):
    """Heads one after the other, with dropout before each; maps are averaged over space where a vector head follows.

    Dropout drops the same features at every step (Gal and Ghahramani, 2016), so it does not look like motion. With
    ``checkpoint_steps`` training keeps only the state after every so many steps, and computes the steps between again
    when their gradient is due (Chen et al., 2016); heads that read the future are kept whole.
    """

    def __init__(self, heads: list[TemporalHead], dropout: float, checkpoint_steps: int = 0) -> None:
        super().__init__()
        self.checkpoint_steps = checkpoint_steps
        self.heads: Sequence[TemporalHead] = nn.ModuleList(heads)  # type: ignore[assignment]
        self.dropout = dropout
        self.reads_maps = heads[0].reads_maps
        self.streams = all(head.streams for head in heads)
        self.num_outputs = heads[-1].num_outputs

    def initial_state(self, x: Tensor) -> State:
        """None for each head: each makes its own from its own input."""
        return (None,) * len(self.heads)

    def project(self, x: Tensor) -> Tensor:
        """The first head's half that reads each frame alone; where steps are recomputed, that is left to ``recur``."""
        x = self._prepared(x, self.heads[0])
        return x if self._recomputes(self.heads[0]) else self.heads[0].project(x)

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The output of ``project`` -> the last head's output and every head's state."""
        states = self.initial_state(projected) if state is None else state
        x, next_states = projected, []
        for place, (head, head_state) in enumerate(zip(self.heads, states, strict=True)):
            if place > 0:
                x = self._prepared(x, head)
            if self._recomputes(head):
                x, next_state = self._run_in_pieces(head, x, head_state)
            else:
                x, next_state = head.recur(x, head_state) if place == 0 else head(x, head_state)
            next_states.append(next_state)
        return x, tuple(next_states)

    def forget(self, state: State, lanes: Tensor) -> State:
        """Of every head, as it does."""
        return tuple(head.forget(part, lanes) for head, part in zip(self.heads, state, strict=True))

    def _prepared(self, x: Tensor, head: TemporalHead) -> Tensor:
        if x.ndim == 5 and not head.reads_maps:
            x = x.mean(dim=(3, 4))  # [B, T, C, H, W] -> [B, T, C]
        return drop_features(x, self.dropout, self.training)

    def _recomputes(self, head: TemporalHead) -> bool:
        return self.training and self.checkpoint_steps > 0 and head.streams

    def _run_in_pieces(self, head: TemporalHead, x: Tensor, state: State) -> tuple[Tensor, State]:
        """``head(x, state)``, of which pieces of so many steps keep nothing but input and state."""
        outputs = []
        for piece in x.split(self.checkpoint_steps, dim=1):
            y, state = checkpoint(head, piece, state, use_reentrant=False, preserve_rng_state=False)
            outputs.append(y)
        return torch.cat(outputs, dim=1), state


def drop_features(x: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout of whole features of ``x [B, T, D, ...]``: one draw for all steps and places of a clip."""
    if not training or probability == 0:
        return x
    mask = x.new_full((x.shape[0], 1, x.shape[2], *[1] * (x.ndim - 3)), 1 - probability).bernoulli()
    return x * mask.div_(1 - probability)


def add_noise(x: Tensor, deviation: float, training: bool) -> Tensor:
    """Features ``x [B, T, D, ...]`` with normal noise of that deviation, drawn anew at each step and place, and half as
    much that stays the same at all of them."""
    if not training or deviation == 0:
        return x
    lasting = torch.randn(x.shape[0], 1, x.shape[2], *[1] * (x.ndim - 3), dtype=x.dtype, device=x.device)
    return x + deviation * (torch.randn_like(x) + lasting / 2)


def build_temporal(num_features: int, config: ModelConfig) -> Stack:
    """The stack of heads that ``config.heads`` names, for ``num_features`` input channels.

    Raises:
        UserError: an unknown head, or a map head after a vector head.
    """
    heads: list[TemporalHead] = []
    for name in config.heads:
        if name not in TEMPORAL_HEADS:
            raise unknown_name("temporal head", name, TEMPORAL_HEADS)
        head = TEMPORAL_HEADS[name](num_features, config)
        if heads and head.reads_maps and not heads[-1].reads_maps:
            raise UserError(f"model.heads {list(config.heads)}: {name} reads maps and cannot follow a head of vectors")
        heads.append(head)
        num_features = head.num_outputs
    return Stack(heads, config.dropout, config.checkpoint_steps)
