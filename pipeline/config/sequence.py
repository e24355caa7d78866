"""Settings of timelines: what is answered at each grid frame, and how a model walks along long videos to learn it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.requirement import require

BACKGROUND, UNLABELLED = "background", "unlabelled"
"""Labels with a meaning: looked at, and nothing of interest happens; nobody has looked at it."""


@dataclass(frozen=True)
class SequenceConfig:
    """task timeline: the targets at each grid frame, and the walk along long videos."""

    labels: Literal["one", "several"] = "one"
    """one: a label at each grid frame, background where no stretch is; several: any number of labels, each with a
    probability of its own."""
    background_label: str = BACKGROUND
    """labels one: the label of what no stretch covers."""
    unlabelled_label: str = UNLABELLED
    """The label of stretches that nobody has looked at: they are no target."""
    delay_frames: int = 0
    """Answer so many grid frames late, so that a model that reads forwards has seen a little of what follows."""
    sequence_frames: int = 256
    """Consecutive grid frames between two steps of the optimiser, at which the gradient is cut; 0: whole videos."""
    carry_state: bool = True
    """Go on with the state that the sequence before ended with, as on a stream; false: begin each sequence anew."""
    state_dropout: float = 0.05
    """Share of the sequences that begin anew all the same, so that a model can begin anywhere."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """focal: what is told apart already counts little (Lin et al., 2017). labels several: of each label by itself."""
    smoothing_weight: float = 0.15
    """Weight of the smoothing term: squared differences between neighbouring log-probabilities, each clipped at 4
    (Farha and Gall, "MS-TCN", CVPR 2019)."""
    max_class_weight: float = 5.0
    """training.class_weights balanced: no label counts more than so many times the mean."""

    def __post_init__(self) -> None:
        for name in ("delay_frames", "sequence_frames", "smoothing_weight"):
            value = getattr(self, name)
            require(value >= 0, f"sequence.{name} must not be negative, got {value}")
        require(self.delay_frames <= 100_000, f"sequence.delay_frames must be at most 100,000, got {self.delay_frames}")
        require(
            0 <= self.state_dropout <= 1,
            f"sequence.state_dropout is a share between 0 and 1, got {self.state_dropout}",
        )
        require(
            self.max_class_weight >= 1, f"sequence.max_class_weight must be at least 1, got {self.max_class_weight}"
        )
        require(
            bool(self.background_label) and self.background_label != self.unlabelled_label,
            f"sequence.background_label and sequence.unlabelled_label must differ, got {self.background_label!r} twice",
        )
