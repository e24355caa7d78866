"""Files for other programs, read by these programs' own code, or by the library that is usual for them.

Programs that want an environment of their own are asked by ``tools/check_formats.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import srt
import webvtt
from pympi import Elan

from pipeline.datasets.timelines.frames import clock_at
from pipeline.datasets.timelines.writing import write_labelled
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

SPANS = (
    LabelledSpan(0.4, 2.0, "turn, slowly"),
    LabelledSpan(1.25, 3.5, "fall"),
    LabelledSpan(3.5, 4.001, "fall"),
    LabelledSpan(3700.5, 3701.0, "é 跳"),
)


@pytest.fixture(params=["elan", "srt", "vtt"])
def written(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    write_labelled(
        [LabelledVideo("film.mp4", SPANS, 3800.0)], tmp_path, request.param, lambda _: clock_at(25.0, 3800.0)
    )
    (file,) = tmp_path.iterdir()
    return request.param, file


def test_others_read_what_we_write(written: tuple[str, Path]) -> None:
    name, file = written
    found = {"elan": by_pympi, "srt": by_srt, "vtt": by_webvtt}[name](file)
    assert sorted(found) == sorted((span.start_seconds, span.end_seconds, span.label) for span in SPANS)


def by_pympi(file: Path) -> list[tuple[float, float, str]]:
    document = Elan.Eaf(str(file))
    return [
        (start / 1000, end / 1000, label)
        for tier in document.get_tier_names()
        for start, end, label, *_ in document.get_annotation_data_for_tier(tier)
    ]


def by_srt(file: Path) -> list[tuple[float, float, str]]:
    captions = srt.parse(file.read_text(encoding="utf-8"))
    return [(one.start.total_seconds(), one.end.total_seconds(), one.content) for one in captions]


def by_webvtt(file: Path) -> list[tuple[float, float, str]]:
    def seconds(clock: str) -> float:
        hours, minutes, rest = clock.split(":")
        return round(3600 * int(hours) + 60 * int(minutes) + float(rest), 3)

    return [(seconds(one.start), seconds(one.end), one.text) for one in webvtt.read(str(file))]
