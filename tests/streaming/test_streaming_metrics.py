"""Figures as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import DeliveryConfig
from pipeline.sinks.delivery import Delivery, DeliveryFigures
from pipeline.sinks.spool import Spool
from pipeline.streaming.latency import BOUNDS_SECONDS
from pipeline.streaming.metrics import metrics_text
from pipeline.streaming.serve import PageView
from pipeline.streaming.status import SourceStatus, SourceTotals
from tests.sinks.test_sinks_delivery import Held
from tests.streaming.test_streaming_serve import ask

COUNTS = (0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3)

EXPECTED = r"""# HELP clipgru_seconds_since_step Age of the last step.
# TYPE clipgru_seconds_since_step gauge
clipgru_seconds_since_step 0.25
# HELP clipgru_source_up 1 while the source gives pictures.
# TYPE clipgru_source_up gauge
clipgru_source_up{source="a \"door\" \\ü\n"} 1
clipgru_source_up{source="b"} 0
# HELP clipgru_frames_in_total Pictures grabbed from the source.
# TYPE clipgru_frames_in_total counter
clipgru_frames_in_total{source="a \"door\" \\ü\n"} 123456789
clipgru_frames_in_total{source="b"} 0
# HELP clipgru_frames_used_total Frames embedded and scored.
# TYPE clipgru_frames_used_total counter
clipgru_frames_used_total{source="a \"door\" \\ü\n"} 3
clipgru_frames_used_total{source="b"} 0
# HELP clipgru_frames_dropped_total Grid frames that came and went while the model was busy.
# TYPE clipgru_frames_dropped_total counter
clipgru_frames_dropped_total{source="a \"door\" \\ü\n"} 2
clipgru_frames_dropped_total{source="b"} 0
# HELP clipgru_reconnects_total Connections that gave pictures after the first one.
# TYPE clipgru_reconnects_total counter
clipgru_reconnects_total{source="a \"door\" \\ü\n"} 4
clipgru_reconnects_total{source="b"} 0
# HELP clipgru_segments_total Segments that are final.
# TYPE clipgru_segments_total counter
clipgru_segments_total{source="a \"door\" \\ü\n",label="fall"} 2
clipgru_segments_total{source="a \"door\" \\ü\n",label="sit"} 1
# HELP clipgru_latency_seconds From grabbing a frame to its label.
# TYPE clipgru_latency_seconds histogram
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="0.01"} 0
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="0.025"} 1
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="0.05"} 1
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="0.1"} 2
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="0.25"} 2
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="0.5"} 2
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="1.0"} 2
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="2.5"} 2
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="5.0"} 2
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="10.0"} 2
clipgru_latency_seconds_bucket{source="a \"door\" \\ü\n",le="+Inf"} 3
clipgru_latency_seconds_sum{source="a \"door\" \\ü\n"} 12.625
clipgru_latency_seconds_count{source="a \"door\" \\ü\n"} 3
# HELP clipgru_sink_waiting Events in the spool.
# TYPE clipgru_sink_waiting gauge
clipgru_sink_waiting{sink="webhook"} 1
# HELP clipgru_sink_delivered_total Events that the receiver has accepted.
# TYPE clipgru_sink_delivered_total counter
clipgru_sink_delivered_total{sink="webhook"} 2
# HELP clipgru_sink_retries_total Attempts that failed.
# TYPE clipgru_sink_retries_total counter
clipgru_sink_retries_total{sink="webhook"} 3
# HELP clipgru_sink_unsaved_total Events that could not be written to the disk when they came.
# TYPE clipgru_sink_unsaved_total counter
clipgru_sink_unsaved_total{sink="webhook"} 4
# HELP clipgru_sink_lost_total Events that came when too many waited.
# TYPE clipgru_sink_lost_total counter
clipgru_sink_lost_total{sink="webhook"} 5
# HELP clipgru_sink_refused_total Events that the receiver will never accept, kept in a file.
# TYPE clipgru_sink_refused_total counter
clipgru_sink_refused_total{sink="webhook"} 6
"""


def door(name: str = 'a "door" \\ü\n') -> SourceStatus:
    totals = SourceTotals(4, (("fall", 2), ("sit", 1)), COUNTS, 12.625)
    return SourceStatus(name, "live", frames_in=123456789, frames_used=3, frames_dropped=2, totals=totals)


def test_the_text_is_that_of_the_format() -> None:
    """Checked once with the parser of Prometheus's own client."""
    assert len(COUNTS) == len(BOUNDS_SECONDS) + 1
    statuses = [door(), SourceStatus("b", "stalled")]
    assert metrics_text(statuses, [DeliveryFigures("webhook", 1, 2, 3, 4, 5, 6)], 0.25) == EXPECTED
    assert metrics_text([], [], None) == ""


def test_the_page_tells_them_beside_its_health(tmp_path: Path) -> None:
    delivery = Delivery("webhook", Held(), Spool(tmp_path / "a", 10), DeliveryConfig(end_seconds=0), lambda *line: None)
    view = PageView(port=0, deliveries=[delivery])
    try:
        with ask(view, "/metrics") as answer:
            assert "clipgru_seconds_since_step" not in answer.read().decode()
        delivery.put({})
        view.show([door("a")])
        with ask(view, "/metrics") as answer:
            assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            lines = answer.read().decode().splitlines()
        with ask(view, "/metrics", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 400
    finally:
        view.close()
        delivery.close()
    assert 'clipgru_segments_total{source="a",label="fall"} 2' in lines
    assert 'clipgru_sink_waiting{sink="webhook"} 1' in lines
    assert any(line.startswith("clipgru_seconds_since_step 0.") for line in lines)
