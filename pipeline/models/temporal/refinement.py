"""Refinement: a stage that reads the probabilities of the stage before and corrects them."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.models.temporal.gru import Recurrent
from pipeline.models.temporal.head import State
from pipeline.models.temporal.stack import drop_features


class Refinement(nn.Module):
    """GRU over the class probabilities of each step, and a classifier.

    Farha and Gall, "MS-TCN: Multi-Stage Temporal Convolutional Network for Action Segmentation", CVPR 2019,
    https://arxiv.org/abs/1903.01945, with a GRU in the place of convolutions over time, so that it can stream.

    Args:
        num_classes: K.
        config: width, direction and dropout of the GRU.

    Attributes:
        may_overlap: each label has a probability of its own, and several may be there at a time.
    """

    def __init__(self, num_classes: int, config: ModelConfig) -> None:
        super().__init__()
        layer = nn.GRU(num_classes, config.hidden_channels, batch_first=True, bidirectional=config.bidirectional)
        self.head, self.dropout = Recurrent(layer), config.dropout
        self.classifier = nn.Linear(self.head.num_outputs, num_classes)
        self.may_overlap = False

    def forget(self, state: State, lanes: Tensor) -> State:
        """The state, begun anew for those of the batch whose ``lanes [B]`` are true."""
        return self.head.forget(state, lanes)

    def forward(self, scores: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Scores ``[B, T, K]`` (logits) of the stage before -> those of this one, and the state after the last step."""
        probabilities = scores.sigmoid() if self.may_overlap else scores.softmax(dim=-1)
        outputs, state = self.head(probabilities, state)
        refined: Tensor = self.classifier(drop_features(outputs, self.dropout, self.training))
        return refined, state
