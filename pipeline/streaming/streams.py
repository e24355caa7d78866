"""``Streams``: several sources at once, one batch of the backbone for all, a state for each."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Condition
from typing import Literal

import numpy as np

from pipeline.clip import Image, Prediction, Segment
from pipeline.config import InferenceConfig, StreamingConfig, TimelineConfig
from pipeline.embedding.frames import embed_together
from pipeline.errors import UserError
from pipeline.inference import Model
from pipeline.streaming.feeds import Feed, Portion, open_feed
from pipeline.streaming.grabber import EventKind, SourceEvent
from pipeline.streaming.latency import LatencyHistogram
from pipeline.streaming.sources import Source
from pipeline.streaming.status import SourceState, SourceStatus, SourceTotals
from pipeline.streaming.track import Begun, Scored, SourceTrack

# A source's events are looked at this often even when nothing else happens.
_POLL_SECONDS = 0.1
# How long to wait for sources that do not answer when all is over.
_CLOSE_SECONDS = 1.0
# Ends a sequence, after which the state is new.
_CUTTING = ("stalled", "ended")
# What lossless sources together may put into a step. A source's own share should be large: its windows are scored
# together, and eight at once take little longer than two.
_MAX_BATCHES = 4
# Sources that have ended whose figures are kept.
_MAX_ENDED = 1000


_NoticeKind = EventKind | Literal["reset", "paused"]


@dataclass(frozen=True)
class Notice:
    """An event of a source, on the source's own clock."""

    kind: _NoticeKind
    time_seconds: float
    """Since its first picture; 0 before that."""
    message: str = ""
    is_failure: bool = False
    origin_seconds: float | None = None
    """Time of that first picture by the monotonic clock, where the source has a clock of its own: no file."""


@dataclass(frozen=True)
class Shown:
    """A picture that was scored, and what is known at that moment."""

    picture: Image
    time_seconds: float
    label: str
    score: float
    open_labels: tuple[str, ...]
    """Actions that are going on."""


StreamEvent = Prediction | Segment | Begun | Notice | Shown
OnEvent = Callable[[str, StreamEvent], None]
"""Is told the source's name and what has happened there."""


@dataclass
class _Member:
    """One source and all that is counted of it."""

    source: Source
    feed: Feed
    track: SourceTrack
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    num_used: int = 0
    num_dropped: int = 0
    num_reconnects: int = 0
    num_segments: Counter[str] = field(default_factory=Counter)
    time_seconds: float = 0.0
    picture: Image | None = None
    top: tuple[tuple[str, float], ...] = ()
    message: str = ""

    def seconds_of(self, at_seconds: float) -> float:
        """A reading of the monotonic clock as a time of this source."""
        origin = self.feed.origin_seconds
        if self.feed.is_lossless:
            return self.feed.end_seconds if self.feed.state == "ended" else self.time_seconds
        return 0.0 if origin is None else max(0.0, at_seconds - origin)


class Streams:
    """Sources that are scored together. They may come and go while others run.

    Each step takes what every source has, embeds all of it in one batch, and scores each source by its own state. Not
    for several threads, but for ``stop_waiting``.

    Attributes:
        changed: notified when something happens to a source: what ``wait`` waits for.

    Args:
        model: embeds and scores.
        on_event: is told of everything that happens, in order.
        inference: windows or a stream; ``batch_size`` is what a lossless source may put into a step, or less if there
            are many.
        timeline: how scores become segments.
        streaming: how to deal with sources that stall.
        top_k: labels in each prediction.
        wants_pictures: tell ``on_event`` of the pictures too.
    """

    def __init__(
        self,
        model: Model,
        on_event: OnEvent,
        inference: InferenceConfig | None = None,
        timeline: TimelineConfig | None = None,
        streaming: StreamingConfig | None = None,
        *,
        top_k: int = 5,
        wants_pictures: bool = False,
    ) -> None:
        if model.feature_form:
            raise UserError("this model reads files of features (model.backbone features): no camera gives it pictures")
        self.num_steps = 0
        self.num_failed = 0
        self.stage_seconds = dict.fromkeys(("take", "embed", "score", "show"), 0.0)
        self.is_paused = False
        self._model, self._on_event, self._top_k, self._wants_pictures = model, on_event, top_k, wants_pictures
        self._inference, self._timeline = inference or InferenceConfig(), timeline or TimelineConfig()
        self._streaming = streaming or StreamingConfig()
        self.changed = Condition()
        self._members: dict[str, _Member] = {}
        self._last: deque[SourceStatus] = deque(maxlen=_MAX_ENDED)
        self._warm_up()

    def _warm_up(self) -> None:
        """Pictures for one answer through the model, so that the first real one does not wait."""
        transform = self._model.file.transform
        shape = (transform.frames_for(1), 3, transform.fit_size_px, transform.fit_size_px)
        features = self._model.embedder().push(np.zeros(shape, np.uint8))
        self._model.scorer(self._inference).push(features)

    @property
    def names(self) -> list[str]:
        """Of the sources that have not ended."""
        return list(self._members)

    def add(self, source: Source) -> None:
        """One more source.

        Raises:
            DecodeError: it is a file and no video.
            ValueError: there is a source of that name.
        """
        self._check_new(source.name)
        self.add_feed(source, open_feed(source, self._model, self._inference, self._streaming, self.changed))

    def _check_new(self, name: str) -> None:
        if name in self._members:
            raise ValueError(f"there is a source called {name!r} already")

    def add_feed(self, source: Source, feed: Feed) -> None:
        """A source that the caller has opened. Raises ``ValueError`` as ``add``."""
        self._check_new(source.name)
        track = SourceTrack(self._model, self._inference, self._timeline, feed.end_seconds)
        self._members[source.name] = _Member(source, feed, track)

    def remove(self, name: str) -> None:
        """A source goes: its open segment ends."""
        self._leave(self._members[name], "removed")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds[stage] += time.perf_counter() - start

    def step(self) -> bool:
        """Takes, embeds and scores what there is. Whether there was anything."""
        for member in list(self._members.values()):
            self._poll(member)
        with self.timed("take"):
            taken = [] if self.is_paused else self._take()
        if taken:
            self.num_steps += 1
            with self.timed("embed"):
                held = [member.track.hold(portion) for member, portion in taken]
                embedders = [member.track.embedder for member, _ in taken]
                new = embed_together(embedders, [portion.frames for _, portion in taken])
            with self.timed("score"):
                calls = [partial(m.track.push, *features) for (m, _), *features in zip(taken, held, new, strict=True)]
                for (member, portion), scored in zip(taken, self._model.cores.each(calls), strict=True):
                    self._note(member, portion, scored)
        return bool(taken)

    def _take(self) -> list[tuple[_Member, Portion]]:
        taken, batch_size = [], self._inference.batch_size
        share = max(1, min(batch_size, _MAX_BATCHES * batch_size // max(len(self._members), 1)))
        for member in self._members.values():
            portion = member.feed.take(time.monotonic(), share)
            if portion is not None:
                self._tell(member, member.track.begin(portion))
                if portion.is_first and member.num_used:
                    self._notice(member, Notice("reset", self._frame_seconds(portion.first_index)))
                taken.append((member, portion))
        return taken

    def _note(self, member: _Member, portion: Portion, scored: Scored) -> None:
        num_frames = portion.num_held + len(portion.frames)
        member.time_seconds = self._frame_seconds(portion.first_index + num_frames - 1)
        member.num_used += len(portion.frames)
        member.num_dropped += portion.num_dropped
        self._tell(member, scored)
        if portion.captured_seconds is not None:
            member.latency.add(time.monotonic() - portion.captured_seconds)
        if portion.picture is not None:
            member.picture = portion.picture
            if self._wants_pictures:
                self._show(member, portion.picture)

    def _show(self, member: _Member, picture: Image) -> None:
        label, score = member.top[0] if member.top else ("", 0.0)
        on_now = tuple(segment.label for segment in member.track.timeline.open)
        self._on_event(member.source.name, Shown(picture, member.time_seconds, label, score, on_now))

    def _frame_seconds(self, index: int) -> float:
        return index / self._model.file.sampling.sample_fps

    def _tell(self, member: _Member, scored: Scored) -> None:
        for window in scored.windows:
            prediction = self._model.prediction(window, member.source.name, member.feed.end_seconds, self._top_k)
            member.top = prediction.top_k
            self._on_event(member.source.name, prediction)
        for event in scored.segments:
            if isinstance(event, Segment):
                member.num_segments[event.label] += 1
            self._on_event(member.source.name, event)

    def _notice(self, member: _Member, notice: Notice) -> None:
        member.message = f"{notice.kind}: {notice.message}" if notice.message else notice.kind
        self._on_event(member.source.name, notice)

    def _poll(self, member: _Member) -> None:
        for event in member.feed.poll(time.monotonic()):
            if event.kind in _CUTTING:
                self._tell(member, member.track.end())
            if event.kind == "ended":
                self.num_failed += event.is_failure
                self._leave(member, event.message, event)
                return
            member.num_reconnects += event.kind == "reconnected"
            origin_seconds = None if member.feed.is_lossless else member.feed.origin_seconds
            at_seconds = member.seconds_of(event.at_seconds)
            self._notice(member, Notice(event.kind, at_seconds, event.message, origin_seconds=origin_seconds))

    def _leave(
        self, member: _Member, message: str, event: SourceEvent | None = None, wait_seconds: float = _CLOSE_SECONDS
    ) -> None:
        self._tell(member, member.track.end())
        at_seconds = time.monotonic() if event is None else event.at_seconds
        is_failure = event is not None and event.is_failure
        self._notice(member, Notice("ended", member.seconds_of(at_seconds), message, is_failure))
        del self._members[member.source.name]
        self._last.append(replace(self._status(member, "ended"), picture=None))
        member.feed.close(wait_seconds)

    def pause(self) -> None:
        """Stops taking, or goes on. What follows a pause that is longer than the greatest gap begins anew."""
        self.is_paused = not self.is_paused
        for member in self._members.values():
            kind: _NoticeKind = "paused" if self.is_paused else "live"
            self._notice(member, Notice(kind, member.seconds_of(time.monotonic())))

    def reset(self) -> None:
        """Every source forgets its past: open segments end, and states begin anew."""
        for member in self._members.values():
            self._tell(member, member.track.end())
            self._notice(member, Notice("reset", member.seconds_of(time.monotonic()), "asked for"))

    def wait(self) -> None:
        """Until a source may have something, or a tenth of a second."""
        due = min((member.feed.due_seconds() for member in self._members.values()), default=0.0)
        pause = _POLL_SECONDS if self.is_paused else min(due - time.monotonic(), _POLL_SECONDS)
        if pause > 0:
            with self.changed:
                self.changed.wait(pause)

    def statuses(self) -> list[SourceStatus]:
        """The sources as they are now, without those that have ended."""
        return [self._status(member, member.feed.state) for member in self._members.values()]

    def final_statuses(self) -> list[SourceStatus]:
        """Those of the sources that have ended, as they were then."""
        return list(self._last)

    def _status(self, member: _Member, state: SourceState) -> SourceStatus:
        steps = max(self.num_steps, 1)
        on_now = member.track.timeline.open
        best = max(on_now, key=lambda segment: segment.score, default=None)
        return SourceStatus(
            name=member.source.name,
            state="paused" if self.is_paused and state != "ended" else state,
            picture=member.picture,
            time_seconds=member.time_seconds,
            label=None if best is None else best.label,
            labels=tuple(segment.label for segment in on_now),
            top=member.top,
            message=member.message,
            frames_in=member.feed.num_in,
            frames_used=member.num_used,
            frames_dropped=member.num_dropped,
            latency_ms=member.latency.milliseconds(),
            stage_ms={stage: round(1e3 * seconds / steps, 3) for stage, seconds in self.stage_seconds.items()},
            totals=SourceTotals(
                member.num_reconnects,
                tuple(sorted(member.num_segments.items())),
                member.latency.num_within(),
                member.latency.total_seconds,
            ),
        )

    def close(self) -> None:
        """Every source goes, and so do the threads."""
        members, end_seconds = list(self._members.values()), time.monotonic() + _CLOSE_SECONDS
        for member in members:
            member.feed.stop()
        for member in members:
            self._leave(member, "", wait_seconds=max(0.0, end_seconds - time.monotonic()))
        self._model.cores.close()
