"""One experiment: the settings of all stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.buckets import is_bucket_address
from pipeline.config.data import DataConfig, DecodeConfig, SamplingConfig, TransformConfig
from pipeline.config.model import VIDEO_BACKBONES, MachineConfig, ModelConfig, TrainingConfig
from pipeline.config.requirement import require
from pipeline.config.sequence import SequenceConfig
from pipeline.sources import shown_source


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

    def __post_init__(self) -> None:
        require(
            self.decode.allow_url or not is_bucket_address(self.data.root),
            f"data.root {shown_source(self.data.root)} is in a bucket, and only local files are read: set "
            "decode.allow_url true",
        )
        has_neighbours = self.sampling.mode == "dense" and self.sampling.short_video != "loop"
        require(
            self.data.cache != "features" or has_neighbours or self.transform.frames_for(0) == 0,
            "data.cache features keeps what each frame and those before it give together, and these clips do not "
            "consist of neighbours: set sampling.mode dense and sampling.short_video hold_last, or data.cache none",
        )
        require(
            self.transform.input_frames == 1 or self.sampling.mode == "dense",
            f"sampling.mode {self.sampling.mode} and transform.input_frames {self.transform.input_frames}: a video "
            "network reads frames in a row; set sampling.mode dense",
        )

    @property
    def num_frames(self) -> int:
        """Frames of a clip as it is decoded."""
        return self.transform.frames_for(self.sampling.num_frames)


@dataclass(frozen=True)
class Experiment:
    """One experiment, whole: two equal experiments on one machine give equal models."""

    name: str = "experiment"
    """Results go to output_dir/name."""
    output_dir: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    """Decides weights, splits, clips and augmentation."""
    task: Literal["clip", "timeline"] = "clip"
    """clip: one label for each row; timeline: a label, several or none at each moment of long videos, whose labelled
    stretches the rows are."""
    data: DataConfig = field(default_factory=DataConfig)
    """The videos, their labels and their split."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Decoding of video files to frames."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Choice of the frames of a clip."""
    transform: TransformConfig = field(default_factory=TransformConfig)
    """Conversion of frames to network input."""
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    """task timeline: the targets at each grid frame, and the walk along long videos."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Backbone, temporal heads and classifier."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Loss, optimiser and schedule."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """The machine: where and on how many devices."""

    def __post_init__(self) -> None:
        _ = self.clips  # which has rules of its own
        self._check_input_frames()
        self._check_cached_features()
        self._check_timeline()
        num_drawn, num_frames = self.training.train_frames, self.sampling.num_frames
        require(
            self.task == "timeline" or num_drawn is None or num_drawn <= num_frames,
            f"training.train_frames ({num_drawn}) is more than a clip has, sampling.num_frames ({num_frames}): lower "
            "it, or leave it unset to learn from all",
        )
        require(
            self.model.weights != "none"
            or self.model.backbone == "features"
            or self.training.initial_model is not None
            or not self.training.freeze_batch_norm,
            "model.weights none starts from random weights, whose batch-norm statistics must be learned: set "
            "training.freeze_batch_norm false",
        )
        require(
            self.model.rgb_diff_scale == 1 or self.transform.input != "rgb",
            "model.rgb_diff_scale enlarges the change since the frame before, and single pictures have none: set "
            "transform.input rgb_diff or rgb+rgb_diff, or model.rgb_diff_scale 1",
        )

        require(
            self.model.backbone != "features" or self.transform.input == "rgb",
            "model.backbone features has one feature a step, and transform.input changes pictures: set "
            "transform.input rgb",
        )

    def _check_input_frames(self) -> None:
        backbone, num_frames = self.model.backbone, self.transform.input_frames
        trained_frames = VIDEO_BACKBONES.get(backbone)
        require(
            trained_frames is None or num_frames > 1,
            f"model.backbone {backbone} reads clips, and transform.input_frames is 1: set transform.input_frames "
            f"{trained_frames}, as its published weights were trained on, or fewer",
        )
        require(
            trained_frames is not None or num_frames == 1,
            f"model.backbone {backbone} reads single pictures, and transform.input_frames is {num_frames}: set "
            "transform.input_frames 1, or model.backbone to a video network such as r3d_18",
        )

    def _check_timeline(self) -> None:
        if self.task != "timeline":
            return
        require(
            not (self.training.mixup_alpha or self.training.cutmix_alpha),
            "task timeline has no clips to mix: set training.mixup_alpha and training.cutmix_alpha 0",
        )
        if self.model.backbone == "features":
            require(
                self.training.backbone_lr_scale == 0 and self.transform.input == "rgb",
                "model.backbone features reads files, of which nothing is learned and nothing looked at: set "
                "training.backbone_lr_scale 0 and transform.input rgb",
            )
        num_drawn, sequence_frames = self.training.train_frames, self.sequence.sequence_frames
        require(
            num_drawn is None or self.training.backbone_lr_scale > 0,
            "training.train_frames says from how many frames of a sequence the backbone learns, and this one does not: "
            "leave it unset, or set training.backbone_lr_scale above 0 and data.cache none",
        )
        require(
            self.learns_from_features or sequence_frames > 0,
            "sequence.sequence_frames 0 holds whole videos, which as pictures do not fit in memory: set it to some "
            "hundred frames, or data.cache features and training.backbone_lr_scale 0",
        )
        require(
            num_drawn is None or num_drawn <= sequence_frames,
            f"training.train_frames ({num_drawn}) is more than a sequence has, sequence.sequence_frames "
            f"({sequence_frames}): lower it, or leave it unset to learn from all",
        )

    def _check_cached_features(self) -> None:
        if self.data.cache != "features":
            return
        require(
            self.training.backbone_lr_scale == 0,
            "data.cache features keeps what a frozen backbone says of each frame: set training.backbone_lr_scale 0, or "
            "data.cache none",
        )
        require(
            not (self.training.mixup_alpha or self.training.cutmix_alpha),
            "data.cache features cannot mix pictures: set training.mixup_alpha and training.cutmix_alpha 0, or "
            "data.cache none",
        )

    @property
    def learns_from_features(self) -> bool:
        """True if batches hold features that are made once, by a frozen backbone or another program."""
        return self.data.cache == "features" or self.model.backbone == "features"

    @property
    def clips(self) -> ClipSettings:
        """The part that loaders need."""
        return ClipSettings(self.decode, self.sampling, self.transform, self.data, self.machine, self.seed)

    @property
    def timeline_targets(self) -> SequenceConfig | None:
        """The settings of the targets along long videos; None of clips."""
        return self.sequence if self.task == "timeline" else None

    @property
    def run_dir(self) -> Path:
        """Folder for this experiment's files."""
        return Path(self.output_dir) / self.name
