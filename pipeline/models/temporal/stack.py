"""Heads by name, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.errors import UserError, unknown_name
from pipeline.models.temporal.head import State, TemporalHead
from pipeline.models.temporal.maps import Bidirectional, ConvGRU, ConvLSTM
from pipeline.models.temporal.vectors import Mean, Recurrent


def _recurrent(layer: Callable[..., nn.RNNBase]) -> Callable[[int, ModelConfig], TemporalHead]:
    def build(num_features: int, config: ModelConfig) -> TemporalHead:
        return Recurrent(
            layer(num_features, config.hidden_channels, batch_first=True, bidirectional=config.bidirectional)
        )

    return build


def _both_ways(build_one: Callable[[], TemporalHead], config: ModelConfig) -> TemporalHead:
    return Bidirectional(build_one(), build_one()) if config.bidirectional else build_one()


def _convgru(num_features: int, config: ModelConfig) -> TemporalHead:
    return _both_ways(
        lambda: ConvGRU(
            num_features,
            config.hidden_channels,
            config.kernel_size,
            reset_after=config.reset_after,
            norm=config.norm,
        ),
        config,
    )


def _convlstm(num_features: int, config: ModelConfig) -> TemporalHead:
    return _both_ways(
        lambda: ConvLSTM(num_features, config.hidden_channels, config.kernel_size, norm=config.norm), config
    )


# name -> (input channels, settings) -> head
TEMPORAL_HEADS: dict[str, Callable[[int, ModelConfig], TemporalHead]] = {
    "mean": lambda num_features, config: Mean(num_features),
    "rnn": _recurrent(nn.RNN),
    "lstm": _recurrent(nn.LSTM),
    "gru": _recurrent(nn.GRU),
    "convlstm": _convlstm,
    "convgru": _convgru,
}


class Stack(TemporalHead):
    """Heads one after the other, with dropout before each; maps are averaged over space where a vector head follows.

    Dropout drops the same features at every step (Gal and Ghahramani, 2016), so it does not look like motion.
    """

    def __init__(self, heads: list[TemporalHead], dropout: float) -> None:
        super().__init__()
        self.heads: Sequence[TemporalHead] = nn.ModuleList(heads)  # type: ignore[assignment]
        self.dropout = dropout
        self.reads_maps = heads[0].reads_maps
        self.streams = all(head.streams for head in heads)
        self.num_outputs = heads[-1].num_outputs

    def initial_state(self, x: Tensor) -> State:
        """None for each head: each makes its own from its own input."""
        return (None,) * len(self.heads)

    def project(self, x: Tensor) -> Tensor:
        """The first head's half that reads each frame alone."""
        if x.ndim == 5 and not self.reads_maps:
            x = x.mean(dim=(3, 4))  # [B, T, C, H, W] -> [B, T, C]
        return self.heads[0].project(drop_features(x, self.dropout, self.training))

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        """What ``project`` gave -> the last head's output and every head's state."""
        states = self.initial_state(projected) if state is None else state
        x, next_state = self.heads[0].recur(projected, states[0])
        next_states = [next_state]
        for head, head_state in zip(self.heads[1:], states[1:], strict=True):
            if x.ndim == 5 and not head.reads_maps:
                x = x.mean(dim=(3, 4))  # [B, T, C, H, W] -> [B, T, C]
            x, next_state = head(drop_features(x, self.dropout, self.training), head_state)
            next_states.append(next_state)
        return x, tuple(next_states)


def drop_features(x: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout of whole features of ``x [B, T, D, ...]``: one draw for all steps and places of a clip."""
    if not training or probability == 0:
        return x
    mask = x.new_full((x.shape[0], 1, x.shape[2], *[1] * (x.ndim - 3)), 1 - probability).bernoulli()
    return x * mask / (1 - probability)


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
    return Stack(heads, config.dropout)
