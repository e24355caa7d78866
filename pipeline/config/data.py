"""Settings from files to network input: data, decoding, sampling, transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.requirement import require
from pipeline.sources import has_address, shown_path


@dataclass(frozen=True)
class DataConfig:
    """The videos, their labels and their split."""

    format: str = "folder"
    """Format of the annotations: folder, manifest, ucf101, hmdb51, kinetics, ut_interaction, motion or shards
    (what clipgru shard packed); of long videos: manifest, activitynet, epic, ms_tcn, thumos or motion_timeline, or any
    other format that clipgru convert reads, such as boris or elan; of pictures: images (a folder or zip) or cifar10
    (downloaded to the root if it is not there)."""
    root: str = "data/videos"
    """The folder that holds the videos, on the disk or in a bucket (s3://bucket/folder, with decode.allow_url);
    data/README.md shows the trees."""
    annotations: str | None = None
    """The manifest, the folder of official split lists or groups.csv, if it is not at its usual place."""
    features_fps: float | None = None
    """model.backbone features: steps a second of the feature files, and of the label files of ms_tcn; unset: of these
    one for each frame of the video."""
    split: int = 1
    """Number of the official split to use, where the dataset has several (UCF101, HMDB51: 1 to 3)."""
    val_fraction: float = 0.15
    """Share of the training groups held out to choose the best epoch, where the dataset has no such split."""
    test_fraction: float = 0.2
    """Share of the groups held out for testing, where the dataset has no test split; above 0."""
    batch_size: int = 16
    """Clips in a batch."""
    num_workers: int | None = None
    """Processes that decode; unset: as many as there are cores, 8 at most."""
    timeout_seconds: float = 300.0
    """Seconds without a batch from these processes after which a run ends with advice; for large videos that are read
    whole it is longer, 4 s a megabyte."""
    cache: Literal["none", "frames", "features"] = "none"
    """frames: keep fitted frames after the first epoch; features: with a frozen backbone, embed each frame once."""
    cache_dir: str | None = None
    """Folder of the cache; unset: clipgru's folder in the user's cache folder. Several runs may share it."""
    cache_max_gb: float = 20.0
    """Greatest size of the cache in gigabytes; the entries longest unused give way."""
    feature_copies: int = 0
    """cache features: also keep this many augmented copies of each training video; an epoch draws one of all."""
    allow_links: bool = False
    """Enter linked folders inside class folders; manifest: its paths may be links to files outside the root."""
    max_bad_fraction: float = 0.05
    """A run fails when more than this share of its videos, or of their labelled stretches, cannot be read."""

    def __post_init__(self) -> None:
        for name in ("root", "annotations", "cache_dir"):
            require("\0" not in (getattr(self, name) or ""), f"data.{name} is no path: it has a zero byte")
        require(
            self.cache_dir is None or not has_address(self.cache_dir),
            f"data.cache_dir is a folder, and {shown_path(self.cache_dir or '')} is an address",
        )
        require(self.batch_size > 0, f"data.batch_size must be at least 1, got {self.batch_size}")
        require(self.timeout_seconds > 0, f"data.timeout_seconds must be positive, got {self.timeout_seconds}")
        require(self.cache_max_gb > 0, f"data.cache_max_gb must be positive, got {self.cache_max_gb}")
        require(self.feature_copies >= 0, f"data.feature_copies must not be negative, got {self.feature_copies}")
        require(
            self.features_fps is None or 0.001 <= self.features_fps <= 1000,
            f"data.features_fps must be between 0.001 and 1,000 steps a second, got {self.features_fps}",
        )
        for name in ("val_fraction", "test_fraction", "max_bad_fraction"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name} is a share between 0 and 1, got {value}")


@dataclass(frozen=True)
class DecodeConfig:
    """Decoding of video files to frames."""

    decoder: str = "pyav"
    """pyav (exact on every container); decord, opencv or torchcodec (refuse files where they would be wrong)."""
    isolate: bool = False
    """Decode in a separate process, so that a file that hangs or crashes a decoder ends that process alone."""
    timeout_seconds: float = 60.0
    """isolate: seconds that opening, indexing or reading a clip may take before the process is killed; allow_url:
    seconds that a server may take to answer, or be silent, or for each MiB from a bucket; a whole download may take 60
    times as long."""
    max_memory_mb: int = 1000
    """isolate: megabytes that the process may allocate for one file (enforced on Linux)."""
    stream: int | None = None
    """The video stream to read, by its number in the file; unset: the one that the ffmpeg command takes (most pixels,
    with a large bonus for the one flagged as default)."""
    max_pixels: int = 4096 * 4096
    """A picture with more pixels (width times height) is refused before it is decoded."""
    max_frames: int = 10_000_000
    """A video with more frames is refused."""
    max_seconds: float = 86_400.0
    """A video that lasts longer is refused."""
    allow_url: bool = False
    """Also read http:// and https:// addresses, whose file is fetched whole, then read like a local one, and s3://,
    gs:// and az://, of which ranges are read. Of an address, answers, messages and file names show what is harmless. No
    model file allows it."""
    max_download_mb: int = 4000
    """allow_url: greatest size in megabytes of a file that is fetched, or read from a bucket."""
    index_cache: bool = False
    """Keep the index of each file's frames in ~/.cache/clipgru, so that it opens faster the next time."""

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
            require(0 < value < 2**31, f"decode.{name} must be positive and less than 2^31, got {value}")
        require(self.stream is None or self.stream >= 0, f"decode.stream must not be negative, got {self.stream}")


@dataclass(frozen=True)
class SamplingConfig:
    """Choice of the frames of a clip. Grid frame k is the picture shown at k / sample_fps seconds."""

    sample_fps: float = 8.0
    """Grid frames per second. A model means the same at any frame rate of the file."""
    num_frames: int = 16
    """Grid frames in a clip (T)."""
    mode: Literal["dense", "uniform"] = "dense"
    """dense: consecutive grid frames from a random start; uniform: spread evenly over the video."""
    short_video: Literal["hold_last", "loop", "error"] = "hold_last"
    """If a video has fewer grid frames than a clip: repeat the last one, start over, or refuse the video."""
    num_eval_clips: int = 3
    """Clips a video whose scores are averaged in evaluation: of evenly spaced starts, or other frames of each part."""

    def __post_init__(self) -> None:
        require(
            0.001 <= self.sample_fps <= 1000,
            f"sampling.sample_fps must be between 0.001 and 1,000 grid frames a second, got {self.sample_fps}",
        )
        for name, most in (("num_frames", 4096), ("num_eval_clips", 1000)):
            value = getattr(self, name)
            require(1 <= value <= most, f"sampling.{name} must be between 1 and {most:,}, got {value}")


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of RGB in 0..1. Comes with a backbone's weights; never a setting."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        require(
            all(abs(mean) <= 1000 for mean in self.mean) and all(0.001 <= std <= 1000 for std in self.std),
            f"normalization must have means up to 1,000 and deviations between 0.001 and 1,000, got {self}",
        )


@dataclass(frozen=True)
class TransformConfig:
    """Conversion of frames to network input: fitted once when decoded, the rest on the model's device."""

    fit: Literal["stretch", "crop"] = "stretch"
    """stretch: resize to a square and lose the aspect ratio; crop: short side to size, then the centre square."""
    fit_size_px: int = 128
    """Side of the square uint8 frames that leave the decoding worker."""
    input_size_px: int = 112
    """Side of the network's input, a crop of the fitted frame (random in training, centre in evaluation)."""
    input: Literal["rgb", "rgb_diff", "rgb+rgb_diff"] = "rgb"
    """The frames (rgb); their RGB difference from the frame before (rgb_diff, as in TSN; a clip then reads one frame
    more); or both (rgb+rgb_diff): the backbone looks at each and the heads read the features of both, at twice the
    work."""
    input_frames: int = 1
    """Frames in a row that the backbone reads for the features of the last of them: 1 for a network of pictures; for a
    video network such as r3d_18 those of a clip, 16 say. The first ones of a video are only looked back at."""
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
            0 < self.input_size_px <= self.fit_size_px <= 2048,
            f"transform.input_size_px ({self.input_size_px}) must be positive and no larger than "
            f"transform.fit_size_px ({self.fit_size_px}), and that at most 2,048",
        )
        require(
            1 <= self.input_frames <= 256,
            f"transform.input_frames must be between 1 and 256, got {self.input_frames}",
        )
        require(
            self.input == "rgb" or self.input_frames == 1,
            f"transform.input {self.input} and transform.input_frames {self.input_frames}: a video network sees motion "
            "by itself and reads pictures alone; set transform.input rgb",
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
    def lookback_frames(self) -> int:
        """Frames before the first one that a clip needs as well (L): those of a video network's clip, or the one that a
        change is since."""
        return self.input_frames - 1 + int(self.input != "rgb")

    def frames_for(self, num_features: int) -> int:
        """Frames in a row that give the features of so many."""
        return self.lookback_frames + num_features

    def grid_of_features(self, num_frames: int) -> range:
        """The grid frames, of so many from the start of a video, that a stream has features of: not those that are only
        looked back at, and one at least."""
        return range(self.lookback_frames, max(num_frames, self.frames_for(1)))

    @property
    def num_pictures(self) -> int:
        """Pictures of each frame that the backbone looks at (P)."""
        return 2 if self.input == "rgb+rgb_diff" else 1
