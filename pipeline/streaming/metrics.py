"""The state of all sources and deliveries as Prometheus reads it: its text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.sinks.delivery import DeliveryFigures
from pipeline.streaming.latency import BOUNDS_SECONDS
from pipeline.streaming.status import SourceStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SOURCES = {
    "frames_in_total": "Pictures grabbed from the source.",
    "frames_used_total": "Frames embedded and scored.",
    "frames_dropped_total": "Grid frames that came and went while the model was busy.",
    "reconnects_total": "Connections that gave pictures after the first one.",
}
_SINKS = {
    "waiting": "Events in the spool.",
    "delivered_total": "Events that the receiver has accepted.",
    "retries_total": "Attempts that failed.",
    "unsaved_total": "Events that could not be written to the disk when they came.",
    "lost_total": "Events that came when too many waited.",
    "refused_total": "Events that the receiver will never accept, kept in a file.",
}


def metrics_text(
    statuses: Sequence[SourceStatus], deliveries: Sequence[DeliveryFigures], seconds_since_step: float | None
) -> str:
    """Return all figures, each family with its meaning and its kind.

    Args:
        statuses: of the sources.
        deliveries: of the receivers.
        seconds_since_step: None before the first step.
    """
    lines: list[str] = []
    if seconds_since_step is not None:
        lines += _family("seconds_since_step", "Age of the last step.", [("", {}, seconds_since_step)])
    up = [("", {"source": s.name}, float(s.state == "live")) for s in statuses]
    lines += _family("source_up", "1 while the source gives pictures.", up)
    for name, meaning in _SOURCES.items():
        values = [_source_value(status, name.removesuffix("_total")) for status in statuses]
        lines += _family(name, meaning, [("", {"source": s.name}, v) for s, v in zip(statuses, values, strict=True)])
    segments = [("", {"source": s.name, "label": label}, n) for s in statuses for label, n in s.totals.segments]
    lines += _family("segments_total", "Segments that are final.", segments)
    latencies = [sample for status in statuses for sample in _histogram(status)]
    lines += _family("latency_seconds", "From grabbing a frame to its label.", latencies, "histogram")
    for name, meaning in _SINKS.items():
        samples = [("", {"sink": d.sink}, getattr(d, name.removesuffix("_total"))) for d in deliveries]
        lines += _family(f"sink_{name}", meaning, samples)
    return "".join(f"{line}\n" for line in lines)


_Sample = tuple[str, dict[str, str], float]
"""Suffix of the name, labels, value."""


def _source_value(status: SourceStatus, name: str) -> int:
    return status.totals.reconnects if name == "reconnects" else int(getattr(status, name))


def _histogram(status: SourceStatus) -> Iterator[_Sample]:
    source, totals = {"source": status.name}, status.totals
    for bound, count in zip((*map(str, BOUNDS_SECONDS), "+Inf"), totals.latency_counts, strict=False):
        yield "_bucket", source | {"le": bound}, count
    if totals.latency_counts:
        yield "_sum", source, totals.latency_seconds
        yield "_count", source, totals.latency_counts[-1]


def _family(name: str, meaning: str, samples: Sequence[_Sample], kind: str = "") -> list[str]:
    if not samples:
        return []
    full = f"clipgru_{name}"
    kind = kind or ("counter" if name.endswith("_total") else "gauge")
    values = [f"{full}{suffix}{_labels(labels)} {value:.12g}" for suffix, labels, value in samples]
    return [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}", *values]


def _labels(labels: dict[str, str]) -> str:
    escaped = {key: value.translate({92: r"\\", 34: r"\"", 10: r"\n"}) for key, value in labels.items()}
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}" if labels else ""
