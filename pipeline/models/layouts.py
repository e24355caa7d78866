"""Feature maps of networks that speak otherwise: channels last, as Swin does, or a row of tokens, as a ViT does."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pipeline.models.backbone import NoMapError, look

NO_CLASS_TOKEN = "it has no class token; set model.frame_vector mean"


def as_maps(
    network: nn.Module, size_px: int, frame_vector: str, *, num_others: int | None, has_class_token: bool
) -> nn.Module:
    """Return a module that gives as maps ``[N, D, h, w]`` what the network gives as maps or tokens ``[N, L, D]``.

    Args:
        network: reads pictures of one size.
        size_px: their side.
        frame_vector: ``class_token`` takes that one alone, as a map of one place.
        num_others: tokens before those of the picture; None: told by their number, of a square map.
        has_class_token: whether the first of them stands for the whole picture.

    Raises:
        NoMapError: the network has no class token, or as many tokens as no map has.
    """
    given = look(network, size_px)
    is_tokens = isinstance(given, Tensor) and given.ndim == 3
    if frame_vector == "class_token":
        if not (is_tokens and has_class_token):
            raise NoMapError(NO_CLASS_TOKEN)
        return _ClassToken(network)
    if not is_tokens:
        return network
    return _TokenMaps(network, _num_beside_square(given.shape[1]) if num_others is None else num_others)


def _num_beside_square(num_tokens: int) -> int:
    """Return how many tokens are left of a square map: 0, or 1 that stands for the whole picture."""
    left = num_tokens - math.isqrt(num_tokens) ** 2
    if left > 1 or 1 < num_tokens < 4:
        raise NoMapError(f"its {num_tokens} tokens are no map and a class token")
    return left


class ChannelsFirst(nn.Module):
    """Maps of a network that has channels last.

    Args:
        network: anything -> ``[N, h, w, D]``.
        reads_too: it wants its input with channels last as well.
    """

    def __init__(self, network: nn.Module, *, reads_too: bool = False) -> None:
        super().__init__()
        self.network, self.reads_too = network, reads_too

    def forward(self, frames: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, D, h, w]``."""
        maps: Tensor = self.network(frames.permute(0, 2, 3, 1) if self.reads_too else frames)
        return maps.permute(0, 3, 1, 2)  # [N, h, w, D] -> [N, D, h, w]


class _ClassToken(nn.Module):
    """The token that stands for the whole picture, the first one, as a map of one place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, D, 1, 1]``."""
        tokens: Tensor = self.network(frames)
        return tokens[:, 0, :, None, None]


class _TokenMaps(nn.Module):
    """The tokens of a picture's patches at their places; the first ``num_others``, such as a class token, are none."""

    def __init__(self, network: nn.Module, num_others: int) -> None:
        super().__init__()
        self.network, self.num_others = network, num_others

    def forward(self, frames: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, D, h, w]``, with h to w as H to W."""
        tokens: Tensor = self.network(frames)
        tokens = tokens[:, self.num_others :]
        num_places, (height, width) = tokens.shape[1], frames.shape[2:]
        num_rows = max(1, round(math.sqrt(num_places * height / width)))
        if num_places % num_rows or num_places < 1:
            raise ValueError(f"its {num_places} tokens of a picture of {width}x{height} make no map")
        # [N, h w, D] -> [N, D, h w] -> [N, D, h, w]
        maps: Tensor = tokens.transpose(1, 2).unflatten(2, (num_rows, num_places // num_rows))
        return maps
