"""Feeds: the grid frames of a source of any kind, in portions, fitted and ready for the model."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from threading import Condition
from typing import Protocol

import numpy as np

from pipeline.clip import Image
from pipeline.config import InferenceConfig, StreamingConfig
from pipeline.embedding.arrays import stacked
from pipeline.errors import DecodeError
from pipeline.inference import Model, RunStats
from pipeline.inference.ahead import read_ahead
from pipeline.inference.frames import grid_frames
from pipeline.report.drawing import as_shown
from pipeline.streaming.captures import Opener, open_source
from pipeline.streaming.grabber import Grabber, SourceEvent
from pipeline.streaming.grid import GridSlot
from pipeline.streaming.sources import Source
from pipeline.streaming.status import SourceState
from pipeline.transforms.without_torch import SQUARE


@dataclass(frozen=True)
class Portion:
    """The next grid frames of a source: first some that show the picture before, then new ones."""

    first_index: int
    """Grid index of the first of all of them."""
    num_held: int
    frames: Image
    """uint8 ``[n, 3, S, S]``: the new ones; n may be 0."""
    is_first: bool = False
    """True if a new sequence begins here."""
    num_dropped: int = 0
    picture: Image | None = None
    """The last new one as it is shown, RGB ``[H, W, 3]``, for people; None where nobody can see it."""
    captured_seconds: float | None = None
    """Time of that picture by the monotonic clock; None for a file that is read as fast as it goes."""


class Feed(Protocol):
    """A source under way."""

    is_lossless: bool
    """True if the source waits for the model, so that it gets every grid frame."""

    @property
    def state(self) -> SourceState:
        """State of the source."""

    @property
    def num_in(self) -> int:
        """Pictures that the source has given."""

    @property
    def end_seconds(self) -> float:
        """End of the source, in seconds since its first picture; infinity if unknown."""

    @property
    def origin_seconds(self) -> float | None:
        """Time of its first picture by the monotonic clock."""

    def take(self, now_seconds: float, max_frames: int) -> Portion | None:
        """The next portion, with at most ``max_frames`` new frames; None if there is nothing."""

    def due_seconds(self) -> float:
        """Time of the next portion at the earliest, by the monotonic clock."""

    def poll(self, now_seconds: float) -> list[SourceEvent]:
        """Events since the last call; to be called often."""

    def stop(self) -> None:
        """Begins to let go of the source, without waiting."""

    def close(self, timeout_seconds: float = 1.0) -> None:
        """Lets go of the source; waits no longer for it than that."""


class LiveFeed:
    """A camera, a URL, or a file at its own speed: the newest grid frame, whatever became of those before.

    Args:
        model: says which frames it reads.
        open_capture: opens the source.
        config: limits in time.
        changed: notified when something happens.
        sample_aspect_ratio: of its pixels; a camera's are square.
    """

    is_lossless = False
    end_seconds = math.inf

    def __init__(
        self,
        model: Model,
        open_capture: Opener,
        config: StreamingConfig,
        changed: Condition,
        sample_aspect_ratio: Fraction = SQUARE,
    ) -> None:
        self._fit, self._sample_aspect_ratio = model.fit, sample_aspect_ratio
        self._slot = GridSlot(model.file.sampling.sample_fps, config.max_gap_seconds)
        self._none = np.empty((0, 3, *[model.file.transform.fit_size_px] * 2), np.uint8)
        self._grabber = Grabber(open_capture, self._slot, config, changed)
        self._grabber.start()

    @property
    def state(self) -> SourceState:
        return self._grabber.state

    @property
    def num_in(self) -> int:
        return self._slot.num_in

    @property
    def origin_seconds(self) -> float | None:
        return self._slot.origin_seconds

    def take(self, now_seconds: float, max_frames: int) -> Portion | None:
        """One new frame at most."""
        tick = self._grabber.take(now_seconds)
        if tick is None:
            return None
        shot, first_index = tick.shot, tick.index - tick.num_held
        if shot is None:  # the picture before, once more
            return Portion(first_index, tick.num_held + 1, self._none)
        fitted = self._fit(shot.picture, self._sample_aspect_ratio)[None]
        picture = as_shown(shot.picture, self._sample_aspect_ratio)
        return Portion(
            first_index, tick.num_held, fitted, tick.is_first, tick.num_dropped, picture, shot.captured_seconds
        )

    def due_seconds(self) -> float:
        return self._slot.due_seconds()

    def poll(self, now_seconds: float) -> list[SourceEvent]:
        return self._grabber.watch(now_seconds)

    def stop(self) -> None:
        self._grabber.stop()

    def close(self, timeout_seconds: float = 1.0) -> None:
        self._grabber.close(timeout_seconds)


class _FileFeed:
    """A file as fast as the model goes: every grid frame, decoded ahead in a thread of its own.

    Raises:
        DecodeError: it cannot be opened as a video.
    """

    is_lossless = True

    def __init__(self, model: Model, source: Source, inference: InferenceConfig) -> None:
        self.state: SourceState = "live"
        self.num_in = 0
        self.origin_seconds: float | None = time.monotonic()
        self._reader = model.opener.open(source.address)
        self.end_seconds = self._reader.info.duration_seconds
        frames = grid_frames(self._reader, model.file.sampling, model.fit, model.num_needed(inference), RunStats())
        self._frames: Generator[Image, None, None] = read_ahead(frames, 2 * inference.batch_size)
        self._events: deque[SourceEvent] = deque([SourceEvent("live", time.monotonic())])

    def take(self, now_seconds: float, max_frames: int) -> Portion | None:
        """Waits for the decoder, which is not for long."""
        frames: list[Image] = []
        try:
            frames.extend(itertools.islice(self._frames, max_frames))
        except DecodeError as error:
            self._end(str(error))
        if len(frames) < max_frames and self.state != "ended":
            self._end("")
        if not frames:
            return None
        first_index, self.num_in = self.num_in, self.num_in + len(frames)
        picture = frames[-1].transpose(1, 2, 0)  # [3, S, S] -> [S, S, 3]
        return Portion(first_index, 0, stacked(frames), first_index == 0, 0, picture)

    def _end(self, error: str) -> None:
        self.state = "ended"
        self._events.append(SourceEvent("ended", time.monotonic(), error, is_failure=bool(error)))

    def due_seconds(self) -> float:
        return math.inf if self.state == "ended" else -math.inf

    def poll(self, now_seconds: float) -> list[SourceEvent]:
        events = list(self._events)
        self._events.clear()
        return events

    def stop(self) -> None:
        """Do nothing: the file ends soon."""

    def close(self, timeout_seconds: float = 1.0) -> None:
        self._frames.close()
        self._reader.close()


def open_feed(
    source: Source, model: Model, inference: InferenceConfig, streaming: StreamingConfig, changed: Condition
) -> Feed:
    """The feed of a source.

    Raises:
        DecodeError: a file cannot be opened as a video.
    """
    if source.kind == "file":
        return _FileFeed(model, source, inference)
    ratio = SQUARE
    if source.kind == "replay":
        with model.opener.open(source.address) as reader:
            ratio = reader.info.sample_aspect_ratio  # raises where the file is no good
        streaming = replace(streaming, timeout_seconds=math.inf)  # a still picture is no hanging camera
    opener = partial(open_source, source, streaming.timeout_seconds, model.opener)
    return LiveFeed(model, opener, streaming, changed, ratio)
