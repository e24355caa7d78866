"""One experiment: the settings of all stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.data import DataConfig, DecodeConfig, SamplingConfig, TransformConfig
from pipeline.config.model import MachineConfig, ModelConfig, TrainingConfig


@dataclass(frozen=True)
class ClipSettings:
    """Settings of all that makes clips of videos: what a loader needs."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """The decode stage."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """The sampling stage."""
    transform: TransformConfig = field(default_factory=TransformConfig)
    """The transform stage."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data stage."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """The machine."""
    seed: int = 0
    """Decides the random clips and their order."""

    @property
    def num_frames(self) -> int:
        """Frames of a clip as it is decoded."""
        return self.transform.frames_for(self.sampling.num_frames)


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
    """The data stage."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """The decode stage."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """The sampling stage."""
    transform: TransformConfig = field(default_factory=TransformConfig)
    """The transform stage."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training stage."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """The machine."""

    @property
    def clips(self) -> ClipSettings:
        """The part that loaders need."""
        return ClipSettings(self.decode, self.sampling, self.transform, self.data, self.machine, self.seed)

    @property
    def run_dir(self) -> Path:
        """Folder for this experiment's files."""
        return Path(self.output_dir) / self.name
