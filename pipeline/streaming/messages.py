"""Segments as messages for other programs: what is sent to a webhook or an MQTT topic, and the deliveries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.clip import Segment
from pipeline.errors import unknown_name
from pipeline.options import WebcamOptions
from pipeline.report.records import segment_record
from pipeline.sinks.addresses import read_address
from pipeline.sinks.delivery import Delivery
from pipeline.sinks.mqtt import MqttTopic
from pipeline.sinks.spool import Spool
from pipeline.sinks.webhook import Webhook
from pipeline.streaming.streams import Notice, StreamEvent
from pipeline.streaming.track import Begun
from pipeline.terminal import PlainConsole


@contextmanager
def open_deliveries(options: WebcamOptions, labels: Sequence[str], console: PlainConsole) -> Iterator[list[Delivery]]:
    """The deliveries that the options ask for; in the end what can be sent soon is sent.

    Raises:
        UserError: an address is none, a label is none of the model's, or the spool cannot be had.
    """
    for label in options.delivery.labels:
        if label not in labels:
            raise unknown_name("label in delivery.labels", label, labels)

    def say(text: str, is_error: bool) -> None:
        if is_error:
            console.print(f"error: {text}", style="red")
        elif not options.quiet:
            console.print(text, style="dim")

    receivers: dict[str, Webhook | MqttTopic] = {}
    if options.webhook is not None:
        receivers["webhook"] = Webhook(read_address(options.webhook, "--webhook", ("http", "https")))
    if options.mqtt is not None:
        receivers["mqtt"] = MqttTopic(read_address(options.mqtt, "--mqtt", ("mqtt", "mqtts")))
    with ExitStack() as stack:
        deliveries: list[Delivery] = []
        for sink, receiver in receivers.items():
            spool = Spool(Path(options.delivery.spool) / f"{sink}.jsonl", options.delivery.max_events)
            deliveries.append(Delivery(sink, receiver, spool, options.delivery, say))
            stack.callback(deliveries[-1].close)
        yield deliveries
        for delivery in deliveries:  # all at once, before any is waited for
            delivery.stop()


class MessageOutput:
    """Segments, and where that is asked for their beginnings, to all deliveries.

    A source's ``begin`` and ``segment`` of one label and ``start_seconds`` belong together, and come in that order.
    """

    def __init__(self, deliveries: Sequence[Delivery], labels: Sequence[str], begin: bool) -> None:
        self._deliveries, self._labels, self._begin = deliveries, frozenset(labels), begin
        self._origins: dict[str, float] = {}
        self._begun: set[tuple[str, str, float]] = set()

    def on_event(self, name: str, event: StreamEvent) -> None:
        """Put a segment, or its beginning, into the spools; of the rest learn the clock of the source."""
        if isinstance(event, Notice) and event.origin_seconds is not None:
            self._origins[name] = event.origin_seconds
        elif isinstance(event, Begun) and self._begin:
            self._tell_begin(name, event.segment)
        elif isinstance(event, Segment):
            key = (name, event.label, event.start_seconds)
            if self._begin and key not in self._begun:  # began and ended within one step
                self._tell_begin(name, event)
            self._begun.discard(key)
            self._tell("segment", name, segment_record(event), event.start_seconds, event.end_seconds)

    def _tell_begin(self, name: str, segment: Segment) -> None:
        self._begun.add((name, segment.label, segment.start_seconds))
        record = {key: value for key, value in segment_record(segment).items() if key != "end_seconds"}
        self._tell("begin", name, record, segment.start_seconds)

    def _tell(self, kind: str, name: str, record: dict[str, Any], *seconds: float) -> None:
        if self._labels and record["label"] not in self._labels:
            return
        origin, message = self._origins.get(name), {"event": kind, "source": name} | record
        if origin is not None:
            times = [_wall_clock(origin + second) for second in seconds]
            message |= dict(zip(("start_time", "end_time"), times, strict=False))
        for delivery in self._deliveries:
            delivery.put(message)

    def close(self) -> None:
        """Nothing to close: deliveries outlive the outputs, which end with the last segments."""


def _wall_clock(at_seconds: float) -> str:
    """Date and time in UTC, as ISO 8601, of a reading of the monotonic clock."""
    seconds = time.time() + at_seconds - time.monotonic()
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
