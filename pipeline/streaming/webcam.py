"""``clipgru webcam``: sources in, a view and events out, until somebody says stop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from pipeline.files.failures import STDOUT
from pipeline.files.outputs import check_outputs
from pipeline.files.stopping import StopRequest
from pipeline.files.writing import write_atomically
from pipeline.inference import Model
from pipeline.options import WebcamOptions
from pipeline.schema import to_json
from pipeline.serving.server import parse_address
from pipeline.sinks.delivery import Delivery
from pipeline.streaming.messages import MessageOutput, open_deliveries
from pipeline.streaming.outputs import EventOutput, Output, PeopleOutput, Recordings, told_to_all
from pipeline.streaming.sources import Source
from pipeline.streaming.status import Command, SourceStatus, View
from pipeline.streaming.streams import Streams
from pipeline.terminal import PlainConsole


def run_webcam(model: Model, sources: Sequence[Source], options: WebcamOptions, console: PlainConsole) -> int:
    """Watches the sources until all have ended, the time is over, somebody quits, or a signal comes.

    Returns:
        0; 1 if a file could not be read to its end; 128 + the signal.

    Raises:
        UserError: the model cannot stream, there is no display, or an output cannot be written.
    """
    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # OpenCV's own words would mix with ours, and may hold a URL's password
    with StopRequest().listening() as stop, ExitStack() as stack:
        deliveries = stack.enter_context(open_deliveries(options, model.labels, console))
        view = _open_view(options, console, deliveries)
        if view is not None:
            stack.callback(view.close)
        heard = stack.enter_context(told_to_all(_open_outputs(model, sources, options, console, deliveries)))
        streams = Streams(
            model,
            heard,
            options.inference,
            options.timeline,
            options.streaming,
            top_k=options.top_k,
            wants_pictures=bool(options.record),
        )
        stack.callback(streams.close)
        for source in sources:
            streams.add(source)
        _run(streams, view, stop, options.seconds)
        streams.close()
        _report(streams, options, console)
    return stop.exit_code or (1 if streams.num_failed else 0)


def _run(streams: Streams, view: View | None, stop: StopRequest, seconds: float | None) -> None:
    end_seconds = None if seconds is None else time.monotonic() + seconds
    while streams.names and not stop and (end_seconds is None or time.monotonic() < end_seconds):
        if not streams.step():
            streams.wait()
        if view is not None:
            with streams.timed("show"):
                commands = view.show(streams.statuses())
            if not all(obey(streams, command) for command in commands):
                return


def obey(streams: Streams, command: Command) -> bool:
    """Does what somebody who watches asks for. False if that is to stop."""
    if command == "pause":
        streams.pause()
    elif command == "reset":
        streams.reset()
    return command != "quit"


def _open_view(options: WebcamOptions, console: PlainConsole, deliveries: Sequence[Delivery]) -> View | None:
    """The window or the page that the options ask for.

    Raises:
        UserError: there is no display, or the page cannot be served.
    """
    if options.serve is not None:
        host, port = parse_address(options.serve)
        from pipeline.streaming.serve import PageView

        page = PageView(host, port, options.allow_network, options.allowed_hosts, deliveries)
        if not options.quiet:
            console.print(f"watch at {page.url}")
        return page
    if options.headless:
        return None
    from pipeline.streaming.window import WindowView

    return WindowView()


def _open_outputs(
    model: Model,
    sources: Sequence[Source],
    options: WebcamOptions,
    console: PlainConsole,
    deliveries: Sequence[Delivery],
) -> list[Output]:
    sample_fps = model.file.sampling.sample_fps
    if options.record:
        check_outputs({"--record": Path(options.record)})
    recordings = [Recordings(Path(options.record), sources, model.facts, sample_fps)] if options.record else []
    # First, so that what has been printed outlives a kill.
    messages = [MessageOutput(deliveries, options.delivery.labels, options.delivery.begin)] if deliveries else []
    return [
        *messages,
        *recordings,
        EventOutput(Path(STDOUT), model.facts) if options.headless else PeopleOutput(console, options.quiet),
    ]


def _report(streams: Streams, options: WebcamOptions, console: PlainConsole) -> None:
    statuses = streams.final_statuses()
    if options.stats:
        write_atomically(Path(options.stats), to_json(figures(statuses), indent=1) + "\n")
    if options.quiet:
        return
    for status in statuses:
        counts = f"{status.frames_in} frames in, {status.frames_used} used, {status.frames_dropped} dropped"
        latency = ", ".join(f"{name} {value:.0f} ms" for name, value in status.latency_ms.items())
        console.print(f"{status.name}: {counts}" + (f"; latency {latency}" if latency else ""))
    stages = ", ".join(f"{name} {value:.1f}" for name, value in (statuses[-1].stage_ms if statuses else {}).items())
    console.print(f"milliseconds a step: {stages}")


def figures(statuses: Sequence[SourceStatus]) -> list[dict[str, Any]]:
    """Counts and times of each source, for JSON."""
    kept = ("name", "time_seconds", "frames_in", "frames_used", "frames_dropped", "latency_ms", "stage_ms")
    return [{key: value for key, value in asdict(status).items() if key in kept} for status in statuses]
