"""The page of a model of timelines: figures, strips where the segments are, and a video that plays from a place."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from pipeline.report.mp4 import Mp4File
from pipeline.run_report.page import write_comparison, write_report
from pipeline.run_report.records import read_run
from pipeline.run_report.strips import rank_videos
from pipeline.timeline.metrics.segments import edit_score, match_segments
from tests.browsing import file_in
from tests.run_report.test_run_report import text_of
from tests.runs import made_timelines, make_timeline_run


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds, of which a browser can play any."""
    path = tmp_path_factory.mktemp("long") / "long video #1.mp4"
    out = Mp4File(path, Fraction(5))
    for number in range(200):
        out.write(np.full((48, 64, 3), number, np.uint8), number / 5)
    out.close()
    return path


@pytest.fixture(scope="module")
def run(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_timeline_run(tmp_path_factory.mktemp("runs") / "mine", made_timelines(5, video))


def test_the_page_has_the_figures_of_the_evaluation(run: Path) -> None:
    said = " ".join(text_of(write_report(run)).split())
    (record,) = read_run(run).timelines
    figure = record.evaluation.figures.figures["f1_25_by_video"]
    assert f"{100 * figure.value:.1f} %" in said
    assert f"95 % interval {100 * figure.low:.1f} % to {100 * figure.high:.1f} %" in said
    assert "1 unreadable, counted as empty" in said
    for words in ("F1@25", "Learning curves", "It could not be read: open: no such file", "By frames, in seconds"):
        assert words in said
    assert "clipgru diagnose" not in said  # which is for clips


def test_the_worst_videos_come_first(run: Path) -> None:
    (record,) = read_run(run).timelines
    ranked = rank_videos(record.evaluation)
    assert ranked[0].result.error
    pairs = {pair.name: pair for pair in record.evaluation.pairs()}
    expected = [match_segments(pairs[v.result.name].predicted, pairs[v.result.name].truth, 0.25).f1 for v in ranked]
    assert [v.f1[1] for v in ranked] == expected
    assert expected[1:] == sorted(expected[1:])
    names = re.findall(r"<h3 class=\"path\">(.*?)</h3>", write_report(run, num_clips=3).read_text())
    assert names == [v.result.name for v in ranked[:3]]


def test_the_page_is_the_same_again_and_says_what_it_cannot_play(run: Path, tmp_path: Path, video: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run, run / "again.html").read_bytes()
    made = made_timelines(3, tmp_path / "gone.mp4")
    first, second, third = made.results
    results = (replace(first, is_features=True), second, replace(third, error="", path=str(video)))
    said = text_of(write_report(make_timeline_run(tmp_path / "other", replace(made, results=results))))
    assert "A file of features: there is no video to play." in said
    assert "the page cannot play it" in said


def test_two_runs_are_compared_by_the_videos_that_both_saw(run: Path, video: Path, tmp_path: Path) -> None:
    other = made_timelines(4, video, seed=0)  # the last of which could not be read here
    page = write_comparison(run, make_timeline_run(tmp_path / "second", other), tmp_path / "both.html")
    said = " ".join(text_of(page).split())
    assert "By the 4 videos that both saw" in said
    (first,), (second,) = read_run(run).timelines, read_run(tmp_path / "second").timelines
    edits = [
        np.mean([edit_score(pair.predicted, pair.truth) for pair in record.evaluation.pairs()[:4]])
        for record in (first, second)
    ]
    points = f"{100 * (edits[1] - edits[0]):+.1f} points".replace("-", "\u2212")
    assert f"edit score {100 * edits[0]:.1f} % {100 * edits[1]:.1f} % {points}" in said


def test_strips_lie_where_their_segments_are(run: Path, browser: Browser) -> None:
    (record,) = read_run(run).timelines
    with file_in(browser, write_report(run)) as page:
        for shown in rank_videos(record.evaluation):
            result = shown.result
            strip = page.get_by_role("slider", name=f"Position in {result.name}")
            box = strip.bounding_box()
            assert box is not None
            truth = [span for span in result.truth if span.label != "unlabelled"]
            for side, segments in (("truth", truth), ("found", result.predicted)):
                bars = strip.locator(f".{side} span:not(.nobody)")
                assert bars.all_inner_texts() == [segment.label for segment in segments]
                for bar, segment in zip(bars.all()[:3], segments, strict=False):
                    drawn = bar.bounding_box()
                    assert drawn is not None
                    at = (drawn["x"] - box["x"]) / box["width"] * result.duration_seconds
                    assert at == pytest.approx(segment.start_seconds, abs=0.2)


def test_a_strip_is_walked_along_by_keyboard(run: Path, browser: Browser) -> None:
    (record,) = read_run(run).timelines
    result = rank_videos(record.evaluation)[1].result
    with file_in(browser, write_report(run)) as page:
        strip = page.get_by_role("slider", name=f"Position in {result.name}")
        strip.focus()
        page.keyboard.press("n")
        start = min(span.start_seconds for span in result.truth)
        assert float(strip.get_attribute("aria-valuenow") or 0) == pytest.approx(start, abs=0.01)
        page.keyboard.press("ArrowRight")
        now = start + 1
        assert float(strip.get_attribute("aria-valuenow") or 0) == pytest.approx(now, abs=0.02)
        true, found = (
            ", ".join(s.label for s in side if s.start_seconds <= now < s.end_seconds) or "nothing"
            for side in (result.truth, result.predicted)
        )
        assert (strip.get_attribute("aria-valuetext") or "").endswith(f"true: {true}; answer: {found}")
        page.keyboard.press("End")
        assert strip.get_attribute("aria-valuenow") == "40.00"


def test_a_press_on_a_place_plays_the_video_from_there(run: Path, browser: Browser) -> None:
    page_path = write_report(run)
    with browser.new_context(offline=True) as context:
        page, faults = context.new_page(), []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(page_path.as_uri())
        assert page.locator("video").count() == 0  # nothing is loaded before it is asked for
        strips = page.locator(".strip[data-video]")
        for place in (0, 1):
            box = strips.nth(place).bounding_box()
            assert box is not None
            strips.nth(place).click(position={"x": box["width"] * 0.75, "y": 10})
            player = page.locator("video")
            player.evaluate("video => new Promise((done) => video.readyState > 1 ? done() : video.onloadeddata = done)")
            assert player.evaluate("video => video.currentTime") == pytest.approx(30, abs=4)
            assert player.evaluate(
                "(video, strip) => video.closest('.timeline').contains(strip)", strips.nth(place).element_handle()
            )
        assert player.count() == 1
        strips.nth(1).press("Enter")
        assert player.evaluate("video => video.paused")
        assert not faults
