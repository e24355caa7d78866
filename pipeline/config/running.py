"""Settings of a model at work: how frames become scores, scores become segments, and what live sources may do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config.requirement import require

_MAX_MIN_SECONDS = 86_400.0


@dataclass(frozen=True)
class InferenceConfig:
    """Conversion of a video's frames to scores."""

    mode: Literal["windows", "stream", "whole"] | None = None
    """windows: clips as in training, overlapping; stream: one score a frame, from a state that is carried on; whole: a
    score a frame once all of the video is read, for models that read both ways; unset: as the model was trained."""
    stride_frames: int | None = None
    """windows: grid frames from one window's start to the next; unset: a quarter of a window."""
    reset_seconds: float = 0.0
    """stream: period in seconds at which the past is forgotten; 0 is never."""
    batch_size: int = 32
    """Frames in one call of the backbone."""

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"inference.batch_size must be at least 1, got {self.batch_size}")
        require(self.reset_seconds >= 0, f"inference.reset_seconds must not be negative, got {self.reset_seconds}")
        require(
            self.stride_frames is None or self.stride_frames > 0,
            f"inference.stride_frames must be at least 1, got {self.stride_frames}",
        )


@dataclass(frozen=True)
class TimelineNumbers:
    """Numbers by which a model of timelines makes segments of its scores. In its file they were chosen on videos that
    it was not trained on."""

    enter_thresholds: tuple[float, ...] = ()
    """Of labels that may overlap, each in the order of the labels: it is there where it scores at least this. Empty:
    0.5 for each; or there is one label at a time, of which the best counts."""
    min_seconds: float = 0.5
    """The shortest segment."""
    num_videos: int = 0
    """Videos that they were chosen on."""

    def __post_init__(self) -> None:
        require(
            all(0 <= threshold <= 1 for threshold in self.enter_thresholds),
            f"enter_thresholds must be between 0 and 1, got {list(self.enter_thresholds)[:8]}",
        )
        require(
            0 <= self.min_seconds <= _MAX_MIN_SECONDS,
            f"min_seconds must be between 0 and {_MAX_MIN_SECONDS:g}, got {self.min_seconds}",
        )


@dataclass(frozen=True)
class TimelineConfig:
    """Conversion of scores to segments."""

    smoothing_seconds: float = 0.0
    """Seconds over which scores are averaged, half before and half after each moment: live answers are half of it
    late."""
    enter_threshold: float | None = None
    """A label opens where it is the best one and scores at least this; 0: the best label always counts. Labels that may
    overlap open each by itself. Unset: for these each label's threshold in the model file, or 0.5; for others 0."""
    exit_threshold: float | None = None
    """An open label stays, if no other opens, until it scores less than this; unset: as enter_threshold."""
    unknown_label: str = "unknown"
    """Label of a stretch in which no label is open."""
    report_unknown: bool = False
    """Make segments of unknown stretches too."""
    min_seconds: float | None = None
    """Stretches of fewer seconds are given to the neighbour they are more likely to belong to; unset: as the model file
    says, or 0.5."""
    background_label: str | None = None
    """A label that means that nothing happens; it makes no segments. Unset: the model's sequence.background_label."""

    def __post_init__(self) -> None:
        for name in ("smoothing_seconds", "min_seconds"):
            value = getattr(self, name) or 0.0
            require(value >= 0, f"timeline.{name} must not be negative, got {value}")
        enter_threshold = self.enter_threshold or 0.0
        require(
            0 <= enter_threshold <= 1,
            f"timeline.enter_threshold must be between 0 and 1, got {self.enter_threshold}",
        )
        require(
            0 <= self.keep_threshold <= enter_threshold,
            f"timeline.exit_threshold must be between 0 and timeline.enter_threshold ({enter_threshold}), "
            f"got {self.exit_threshold}; a label that is open leaves later than it enters",
        )

    @property
    def keep_threshold(self) -> float:
        """The least score that keeps an open label open."""
        return (self.enter_threshold or 0.0) if self.exit_threshold is None else self.exit_threshold

    def completed(self, numbers: TimelineNumbers | None = None, background_label: str = "background") -> TimelineConfig:
        """Return the same with the numbers and the background of a model where it says none."""
        return replace(
            self,
            min_seconds=(numbers or TimelineNumbers()).min_seconds if self.min_seconds is None else self.min_seconds,
            background_label=background_label if self.background_label is None else self.background_label,
        )


@dataclass(frozen=True)
class StreamingConfig:
    """Handling of sources that stall and come back."""

    max_gap_seconds: float = 2.0
    """Seconds without a new picture after which a segment ends; the next picture begins anew."""
    timeout_seconds: float = 5.0
    """Seconds that connecting, or waiting for the next picture, may take before a new connection is tried."""
    max_retry_seconds: float = 10.0
    """Attempts to connect follow each other after 0.5, 1, 2, 4, ... seconds, but no longer than this."""
    give_up_seconds: float = 0.0
    """Seconds without a picture after which a source ends; 0 is never."""

    def __post_init__(self) -> None:
        for name in ("max_gap_seconds", "timeout_seconds", "max_retry_seconds"):
            value = getattr(self, name)
            require(value > 0, f"streaming.{name} must be positive, got {value}")
        require(
            self.give_up_seconds >= 0,
            f"streaming.give_up_seconds must not be negative, got {self.give_up_seconds}",
        )


@dataclass(frozen=True)
class DeliveryConfig:
    """Delivery of segments to other programs, by webcam's --webhook and --mqtt."""

    spool: str = "spool"
    """Folder in which events wait until they are delivered. A start with the same folder sends what waits there."""
    labels: tuple[str, ...] = ()
    """Labels whose segments are sent; empty: all."""
    begin: bool = False
    """Send an event when a segment begins too: as soon as it has lasted timeline.min_seconds."""
    max_events: int = 10_000
    """Events that may wait; of more, the newest are lost, and counted."""
    timeout_seconds: float = 10.0
    """Seconds that one attempt may take, from looking up the host to the answer."""
    max_retry_seconds: float = 60.0
    """Attempts follow each other after about 0.5, 1, 2, 4, ... seconds, but no longer than this."""
    end_seconds: float = 3.0
    """Seconds in which what waits is still sent when webcam ends; the rest stays in the spool."""

    def __post_init__(self) -> None:
        for name in ("max_events", "timeout_seconds", "max_retry_seconds"):
            value = getattr(self, name)
            require(value > 0, f"delivery.{name} must be positive, got {value}")
        require(self.end_seconds >= 0, f"delivery.end_seconds must not be negative, got {self.end_seconds}")
