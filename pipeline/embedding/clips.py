"""``ClipEmbedder``: clips through transform and backbone, in torch."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.models.recognizer import Recognizer
from pipeline.transforms.frames import ClipTransform


class ClipEmbedder(nn.Module):
    """Fitted clips -> features, each frame alone and without chance.

    Args:
        recognizer: whose backbone it is.
        transform: makes its input.
        backbone: another network that gives what the recogniser's gives, such as a folded one.
    """

    def __init__(self, recognizer: Recognizer, transform: ClipTransform, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.recognizer, self.transform = recognizer, transform
        self.backbone = recognizer.backbone if backbone is None else backbone

    def forward(self, frames: Tensor) -> Tensor:
        """Features, as ``embed`` gives them."""
        return self.embed(frames)

    def embed(self, frames: Tensor) -> Tensor:
        """uint8 ``[B, T + L, 3, S, S]`` -> ``[B, T, D, ...]``; the first L frames are only looked back at."""
        return self.embed_pictures(self.transform.evaluate(frames))

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """The transform's output ``[B, T, 3 P, I, I]`` -> ``[B, T, D, ...]``."""
        features = self.recognizer.embed(pictures.flatten(0, 1), self.backbone)  # [B, T, ...] -> [B T, ...]
        return features.reshape(*pictures.shape[:2], *features.shape[1:])
