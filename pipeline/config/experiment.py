"""One experiment: the settings of all stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.data import DataConfig, DecodeConfig, SamplingConfig, TransformConfig
from pipeline.config.model import MachineConfig, ModelConfig, TrainingConfig


@dataclass(frozen=True)
class Experiment:
    """One experiment, whole: two equal experiments on one machine give equal models."""

    name: str = "experiment"
    """Results go to <output_dir>/<name>."""
    output_dir: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    """Decides weights, splits, clips and augmentation."""
    data: DataConfig = field(default_factory=DataConfig)
    """The videos, their labels and their split."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Decoding of video files to frames."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Choice of the frames of a clip."""
    transform: TransformConfig = field(default_factory=TransformConfig)
    """Conversion of frames to network input."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Backbone, temporal heads and classifier."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Loss, optimiser and schedule."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """The machine: where and on how many devices."""

    @property
    def run_dir(self) -> Path:
        """Folder for this experiment's files."""
        return Path(self.output_dir) / self.name
