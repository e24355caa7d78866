"""Options of the commands that make, measure and explain models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config import DecodeConfig, TransformConfig, require


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run, beside the settings of its experiment."""

    resume: bool = False
    """Continue the interrupted run in the run folder, exactly where it stopped, with its settings and videos."""
    quiet: bool = False
    """Print nothing but errors and the figures at the end."""


@dataclass(frozen=True)
class LearnOptions:
    """The choice of a head by cross-validation, and the model file to write."""

    output: str = "model.safetensors"
    """The model file to write."""
    num_folds: int = 5
    """Parts of the videos that are held out one after the other; fewer where a class has fewer sources."""
    num_seeds: int = 2
    """Number of seeds that every head is tried with; the figures are means over them."""
    num_processes: int | None = None
    """Processes that try heads beside each other; unset: one a core, 8 at most. The result is the same."""
    seed: int = 0
    """Decides folds, weights and clips."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Decoding settings, now and in the model file."""
    quiet: bool = False
    """Print nothing but errors and the JSON summary."""

    def __post_init__(self) -> None:
        require(self.num_folds > 1, f"num_folds must be at least 2, got {self.num_folds}")
        require(self.num_seeds > 0, f"num_seeds must be at least 1, got {self.num_seeds}")
        at_least_one = self.num_processes is None or self.num_processes > 0
        require(at_least_one, f"num_processes must be at least 1, got {self.num_processes}")


@dataclass(frozen=True)
class EvaluateOptions:
    """Videos to evaluate on, and the folder for the figures."""

    protocol: str | None = None
    """Instead of a model: train and test over folds. own_split, official_splits (UCF101, HMDB51 and MS-TCN's: all that
    there are), leave_one_group_out, group_5_fold or group_10_fold."""
    seeds: int = 1
    """protocol: number of seeds to repeat it with; the folds stay."""
    no_baseline: bool = False
    """protocol: do not train a model that cannot use time beside it on every fold: of clips the frame average, of
    timelines a head that sees one frame at a time."""
    split: Literal["test", "val", "train", "all"] = "test"
    """Part of the data to use, without videos that the model has seen; all takes every part, for data that it was not
    trained on. train looks at training videos on purpose, val at those that chose the epoch."""
    clips: int | None = None
    """Clips a video whose scores are averaged; unset: as the model file says."""
    output: str | None = None
    """Folder for the report; unset: beside the model, or the run folder."""
    mirror: bool = False
    """Average each clip's scores with those of its mirror image; say so where the figures are quoted."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    quiet: bool = False
    """Print nothing but errors and the JSON summary."""

    def __post_init__(self) -> None:
        require(self.seeds > 0, f"seeds must be at least 1, got {self.seeds}")


@dataclass(frozen=True)
class TuneTimelineOptions:
    """The model file to write."""

    output: str | None = None
    """The model file to write; unset: MODEL itself, written anew."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    quiet: bool = False
    """Print nothing but errors and the JSON summary."""


@dataclass(frozen=True)
class ScoreOptions:
    """Reading of predictions and truth, and thresholds of the figures."""

    format: str | None = None
    """Format of the predictions, as clipgru convert names them, such as manifest, activitynet or boris; unset: told by
    the content."""
    truth_format: str | None = None
    """Format of the truth, likewise."""
    split: str | None = None
    """Part of the truth to score, such as test, where the truth has parts; of MS-TCN's, the bundle, such as
    test.split1."""
    sample_fps: float | None = None
    """Steps a second of label files, and rate of the grid on which segments are compared frame by frame and by their
    starts. Unset: label files have no seconds; segments are compared at 10 frames a second, starts as they are."""
    background: tuple[str, ...] = ()
    """A label that stands for nothing; several times for several. Unset: background."""
    tolerance_seconds: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0)
    """Largest distances between a predicted and a true start, for the mAP of starts."""
    late_seconds: float = 2.0
    """Time after the end of a true segment in which an answer still finds it, for delay and false alarms."""
    resamples: int = 1000
    """Number of resamples of the videos for the intervals; 0: no intervals."""
    seed: int = 0
    """Decides the resamples."""
    json: bool = False
    """Print all figures as JSON in place of the table, those of each label too."""
    quiet: bool = False
    """Print nothing but errors and the figures."""

    def __post_init__(self) -> None:
        require(self.sample_fps is None or self.sample_fps > 0, f"sample_fps must be positive, got {self.sample_fps}")
        require(
            bool(self.tolerance_seconds) and min(self.tolerance_seconds) >= 0,
            f"tolerance_seconds must be one or more numbers, none negative, got {list(self.tolerance_seconds)}",
        )
        require(self.late_seconds >= 0, f"late_seconds must not be negative, got {self.late_seconds}")
        require(0 <= self.resamples <= 100_000, f"resamples must be from 0 to 100,000, got {self.resamples}")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")


@dataclass(frozen=True)
class ConvertOptions:
    """Formats of labelled stretches, and the frames of their videos."""

    to: str = "manifest"
    """Format to write: activitynet, boris, createml, cvat, deepethogram, elan, epic, fiftyone, label_studio, manifest,
    ms_tcn, segments, srt, thumos, via, vtrace or vtt."""
    format: str | None = None
    """Format of the input: one of these, or predict; unset: told by the content."""
    split: str | None = None
    """Part of the input to take, such as test, where it has parts."""
    videos: str | None = None
    """Folder of the videos, whose exact frames are looked up for formats that count frames; unset: that of the
    input."""
    fps: float | None = None
    """Frames a second of the labels, in place of the videos' own."""
    no_clobber: bool = False
    """End with an error instead of replacing a file that is there already."""
    quiet: bool = False
    """Print nothing but errors, not even what cannot be held."""

    def __post_init__(self) -> None:
        require(self.fps is None or 0.001 <= self.fps <= 1000, f"fps must be between 0.001 and 1,000, got {self.fps}")


@dataclass(frozen=True)
class DiagnoseOptions:
    """Videos to diagnose on, and the folder for the answers."""

    split: Literal["test", "val", "train", "all"] = "test"
    """Part of the data to use, as for evaluate."""
    output: str | None = None
    """Folder for figures and pictures; unset: beside the model."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    quiet: bool = False
    """Print nothing but errors and the JSON summary."""


@dataclass(frozen=True)
class ReportOptions:
    """File of the page, and the number of clips on it."""

    output: str | None = None
    """The HTML file to write; unset: report.html in the run's folder, or for two runs compare_<RUN2>.html there."""
    clips: int = 24
    """Number of the worst clips that are shown with pictures that play, or of the worst long videos."""
    decode: dict[str, Any] = field(default_factory=dict, metadata={"given_of": DecodeConfig})
    """Decoding settings in place of the run's."""
    quiet: bool = False
    """Print nothing but errors and the page's path."""

    def __post_init__(self) -> None:
        require(self.clips >= 0, f"clips must not be negative, got {self.clips}")


@dataclass(frozen=True)
class PushOptions:
    """Branch, visibility and licence of a model on the hub."""

    private: bool = False
    """Make the repository private; one that is there and public is refused."""
    revision: str | None = None
    """Branch to push to, made if it is not there; unset: main."""
    licence: str | None = None
    """Identifier of a licence as the hub lists them, such as apache-2.0, for the card; unset: the card states none."""
    card_only: str | None = None
    """Write the card to this file, to look at, and send nothing."""
    quiet: bool = False
    """Print nothing but errors and the JSON summary."""


@dataclass(frozen=True)
class ExportOptions:
    """Format and folder of the exported files, and the data to make and judge 8-bit files with."""

    format: Literal["onnx", "torch"] = "onnx"
    """onnx: a graph for clips, one for a stream's next frame, and the backbone alone; each a file. torch: the same as
    programs of torch.export, with clips of the training length alone."""
    output: str | None = None
    """Folder for the files; unset: beside the model."""
    int8: bool = False
    """Also write them in 8 bits, calibrated on training clips of the data, and print the cost in accuracy."""
    calibration_clips: int = 64
    """int8: number of training videos to calibrate on, one clip of each."""
    split: Literal["test", "val", "train", "all"] = "test"
    """int8: the videos that the cost is measured on, as for evaluate."""
    quiet: bool = False
    """Print nothing but errors and the JSON summary."""

    def __post_init__(self) -> None:
        require(
            self.format == "onnx" or not self.int8,
            "--int8 makes 8-bit files in ONNX alone; leave out --format torch or --int8",
        )
        require(self.calibration_clips > 0, f"calibration_clips must be at least 1, got {self.calibration_clips}")


@dataclass(frozen=True)
class ExplainOptions:
    """The explanation to make, and the files to write."""

    output: str = "explained.mp4"
    """The video to write; a picture and a JSON file of the same name go beside it."""
    top: int = 5
    """Number of frames that decided the label to show: those without which its probability falls most
    (leave-one-frame-out on the features)."""
    decode: dict[str, Any] = field(default_factory=dict, metadata={"given_of": DecodeConfig})
    """Decoding settings in place of the model file's."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    quiet: bool = False
    """Print nothing but errors and the answer."""

    def __post_init__(self) -> None:
        require(self.top > 0, f"top must be at least 1, got {self.top}")


@dataclass(frozen=True)
class BackbonesOptions:
    """The size to measure at, and the form of the answer."""

    input_size_px: int = TransformConfig.input_size_px
    """Side of the pictures, as transform.input_size_px, for GFLOPs and maps."""
    json: bool = False
    """Print a list as JSON in place of the table."""
    quiet: bool = False
    """Print nothing but errors and the answer."""

    def __post_init__(self) -> None:
        require(0 < self.input_size_px <= 2048, f"input_size_px must be between 1 and 2,048, got {self.input_size_px}")


@dataclass(frozen=True)
class DemoOptions:
    """The main job on the embedded motion set."""

    output_dir: str = "runs/demo"
    """Folder for everything that is written."""
    seed: int = 0
    """Decides weights, clips and augmentation."""
    quiet: bool = False
    """Print nothing but errors."""
