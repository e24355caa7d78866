"""The HTML page: what is in it, without a browser; and what it does in one, where Chromium is installed."""

from __future__ import annotations

import base64
import html
import json
import re
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from playwright.sync_api import Browser

from pipeline.clip import Prediction, Segment
from pipeline.decode import open_video
from pipeline.report.mp4 import Mp4File
from pipeline.report.page import MAX_SEGMENTS, HtmlPages
from pipeline.report.records import SourceVideo, segment_record
from pipeline.report.strip import ScoreStrip
from tests.browsing import file_in
from tests.videos import encode, picture

LABELS = ("run", "jump </script><b>&", "walk")
SEGMENTS = [Segment(0.4, 1.2, "run", 0.8), Segment(1.6, 3.2, LABELS[1], 0.9), Segment(3.2, 3.9, "walk", 0.7)]
SECONDS = 4.0


def write_page(source: Path, folder: Path, embed_mb: float = 3.0, status: str = "ok", error: str = "") -> Path:
    """A page of a video with a window every 0.2 s, as a run writes it."""
    pages = HtmlPages(folder, LABELS, embed_mb)
    rng = np.random.default_rng(0)
    with open_video(source) as reader:
        pages.begin_video(SourceVideo(str(source), source.stem, reader.info))
        for k in range(16):
            scores = rng.dirichlet(np.ones(3)).astype(np.float32)
            start = 0.2 * k
            top = (("run", float(scores[0])),)
            pages.window(Prediction(str(source), start, start + 0.8, "run", float(scores[0]), top), scores)
        for segment in SEGMENTS:
            pages.segment(segment)
        if pages.wants_frames:
            for frame, time_seconds in reader:
                pages.frame(frame.permute(1, 2, 0).numpy(), time_seconds)
        pages.end_video(status, error)
    return folder / f"{source.stem}.html"


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds that browsers play."""
    path = tmp_path_factory.mktemp("h264") / "a ü#1.mp4"
    out = Mp4File(path, Fraction(25))
    for number in range(100):
        out.write(picture(number), number / 25)
    out.close()
    return path


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of what UCF101 is made of, which browsers do not play."""
    path = encode(tmp_path_factory.mktemp("avi"), "bframes.avi", num_frames=100)
    assert path is not None
    return path


@pytest.fixture(scope="module")
def page(h264: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(h264, tmp_path_factory.mktemp("page"))


class Elements(HTMLParser):
    """Start tags with their attributes; complains of tags that do not match."""

    VOID = frozenset({"meta", "source", "br", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def data_of(path: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)  # type: ignore[no-any-return]


def source_of(path: Path) -> str:
    (attributes,) = Elements(path.read_text()).of("source")
    assert attributes["src"] is not None
    return attributes["src"]


def test_the_page_parses_and_needs_nothing_from_elsewhere(page: Path) -> None:
    text = page.read_text()
    elements = Elements(text)
    assert not {"link", "iframe", "img", "object", "base"} & {tag for tag, _ in elements.found}
    assert all("src" not in attributes for attributes in elements.of("script"))
    assert "://" not in text.replace(source_of(page), "")
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 5_000_000
    assert list(page.parent.iterdir()) == [page]


def test_its_data_is_that_of_the_json(page: Path) -> None:
    data = data_of(page)
    assert data["segments"] == [segment_record(segment) for segment in SEGMENTS]
    assert data["duration_seconds"] == SECONDS
    assert {row["label"] for row in data["strip"]["rows"]} == set(LABELS)
    assert all(len(row["scores"]) == len(data["strip"]["times_seconds"]) == 16 for row in data["strip"]["rows"])
    labels = re.findall(r'<span class="label">(.*?)</span>', page.read_text())
    assert [html.unescape(label) for label in labels] == [segment.label for segment in SEGMENTS]


def test_it_can_be_used_without_a_mouse_and_without_eyes(page: Path) -> None:
    elements = Elements(page.read_text())
    assert elements.of("html")[0]["lang"] == "en"
    (slider,) = [attributes for _, attributes in elements.found if attributes.get("role") == "slider"]
    assert slider["tabindex"] == "0"
    assert slider["aria-label"]
    assert len(elements.of("button")) == len(SEGMENTS)
    assert all(section["aria-label"] for section in elements.of("section"))


def test_a_small_video_is_inside_and_a_large_one_is_linked(h264: Path, page: Path, tmp_path: Path) -> None:
    head, content = source_of(page).split(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == h264.read_bytes()
    linked = write_page(h264, tmp_path / "pages", embed_mb=0.001)
    address = source_of(linked)
    assert re.fullmatch(r"[\w./%-]+", address)
    assert (linked.parent / unquote(address)).resolve() == h264.resolve()
    assert linked.stat().st_size < 60_000


def test_a_video_that_browsers_do_not_play_gets_a_copy_that_they_do(avi: Path, tmp_path: Path) -> None:
    inside = write_page(avi, tmp_path / "inside")
    (tmp_path / "copy.mp4").write_bytes(base64.b64decode(source_of(inside).split(",")[1]))
    linked = write_page(avi, tmp_path / "linked", embed_mb=0)
    assert source_of(linked) == "bframes.preview.mp4"
    assert {path.name for path in (tmp_path / "linked").iterdir()} == {"bframes.html", "bframes.preview.mp4"}
    assert (tmp_path / "linked" / "bframes.preview.mp4").read_bytes() == (tmp_path / "copy.mp4").read_bytes()
    with open_video(tmp_path / "copy.mp4") as reader:
        assert (reader.info.codec, reader.info.num_frames, reader.info.duration_seconds) == ("h264", 100, SECONDS)


def test_a_file_with_another_name_than_its_kind_gets_a_copy_too(shared_cases: Path, tmp_path: Path) -> None:
    source = shared_cases / "video" / "flv_named.mp4"
    inside = write_page(source, tmp_path)
    (tmp_path / "copy.mp4").write_bytes(base64.b64decode(source_of(inside).split(",")[1]))
    with open_video(tmp_path / "copy.mp4") as copy, open_video(source) as whole:
        assert copy.info.container.startswith("mov,mp4")
        assert copy.info.num_frames == whole.info.num_frames


def test_a_file_whose_other_stream_a_browser_might_play_gets_a_copy_too(shared_cases: Path, tmp_path: Path) -> None:
    source = shared_cases / "video" / "thumbfirst.mp4"
    assert base64.b64decode(source_of(write_page(source, tmp_path)).split(",")[1]) != source.read_bytes()


def test_a_page_keeps_to_the_clock_of_the_player(shared_cases: Path, tmp_path: Path) -> None:
    """The pictures begin at 0.7 s of the file, which lasts 5 s."""
    page = write_page(shared_cases / "video" / "delayed.mp4", tmp_path)
    data = data_of(page)
    assert data["duration_seconds"] == 4.7
    assert [segment["start_seconds"] for segment in data["segments"]] == [
        pytest.approx(segment.start_seconds + 0.7) for segment in SEGMENTS
    ]
    assert data["strip"]["times_seconds"][0] == pytest.approx(0.4 + 0.7, abs=0.05)
    assert '<span class="time">0:01.1' in page.read_text()


def test_a_page_shows_pixels_that_are_not_square_in_their_shape(shared_cases: Path, tmp_path: Path) -> None:
    source = shared_cases / "video" / "sar.mp4"
    (element,) = Elements(write_page(source, tmp_path).read_text()).of("video")
    assert (element["width"], element["height"]) == ("279", "128")


def test_without_an_encoder_the_page_says_so(avi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.page.encoder_name", lambda: "mpeg4")
    text = write_page(avi, tmp_path).read_text()
    assert "No browser plays this kind of video" in text
    assert not Elements(text).of("video")


def test_a_video_that_broke_off_says_so(h264: Path, tmp_path: Path) -> None:
    text = write_page(h264, tmp_path, status="error", error="a.mp4: decode: <broken>").read_text()
    assert "error: a.mp4: decode: &lt;broken&gt;" in text


def test_two_runs_give_the_same_page(h264: Path, page: Path, tmp_path: Path) -> None:
    assert write_page(h264, tmp_path).read_bytes() == page.read_bytes()


def test_a_page_of_a_day_stays_small(h264: Path, tmp_path: Path) -> None:
    labels = [f"class {k}" for k in range(400)]
    pages = HtmlPages(tmp_path, labels, 0)
    rng = np.random.default_rng(0)
    with open_video(h264) as reader:
        info = reader.info
    pages.begin_video(SourceVideo("a", "a", info))
    for k in range(0, 86_400, 4):
        scores = rng.random(400, dtype=np.float32)
        pages.window(Prediction("a", k, k + 4, "class 0", 0.5, (("class 0", 0.5),)), scores)
        pages.segment(Segment(k, k + 4, labels[k % 400], 0.5))
    pages.end_video("ok", "")
    path = tmp_path / "a.html"
    assert path.stat().st_size < 1_000_000
    assert len(data_of(path)["segments"]) == MAX_SEGMENTS
    assert f"the first {MAX_SEGMENTS} of 21600 segments" in path.read_text()
    assert 300 <= len(data_of(path)["strip"]["times_seconds"]) <= 600


def test_the_strip_is_the_mean_of_what_falls_into_each_stretch() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 100, 500))
    scores = rng.random((500, 3), dtype=np.float32)
    strip = ScoreStrip(max_bins=64)
    for time, row in zip(times, scores, strict=True):
        strip.add(float(time), row)
    middles, means = np.array(strip.times_seconds), strip.means()
    width = 0.05 * 2**5  # the first that covers the last time with 64 stretches
    assert len(middles) == len(means) <= 64
    for middle, mean in zip(middles, means, strict=True):
        inside = np.abs(times - middle) <= width / 2
        np.testing.assert_allclose(mean, scores[inside].mean(axis=0), rtol=1e-6)
    assert strip.top_labels(2) == np.argsort(-means.max(axis=0))[:2].tolist()
    assert ScoreStrip().top_labels(2) == []


IN_THE_PAGE = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const key = (name, on = document.body, more = {}) =>
    on.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true, cancelable: true, ...more}));
const at = () => Number(strip.getAttribute('aria-valuenow'));
while (video && video.readyState < 1) await wait(50);
"""


def test_labels_that_overlap_have_a_track_each(browser: Browser, h264: Path, tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(12))
    pages = HtmlPages(tmp_path, labels, 3.0, may_overlap=True)
    scores = np.linspace(0.9, 0.1, 12, dtype=np.float32)  # the first eight score best
    segments = [
        Segment(2.0, 2.6, "label 11", 0.5),
        Segment(0.4, 3.0, "label 1", 0.8),
        Segment(1.0, 3.4, "label 0", 0.9),
    ]
    with open_video(h264) as reader:
        pages.begin_video(SourceVideo(str(h264), "a", reader.info))
        for k in range(16):
            pages.window(Prediction("a", 0.2 * k, 0.2 * k + 0.2, "label 0", 0.9, ()), scores)
        for segment in segments:
            pages.segment(segment)
        pages.end_video("ok", "")
    rows = [row["label"] for row in data_of(tmp_path / "a.html")["strip"]["rows"]]
    assert rows == [*labels[:8], "label 11"]  # with a segment, or among the best; in the order of the labels
    found = in_browser(
        browser,
        tmp_path / "a.html",
        """
        const steps = {tracks: {}, hasLane: document.getElementById('lane') !== null};
        for (const row of document.querySelectorAll('.row')) {
            const width = row.getBoundingClientRect().width, left = row.getBoundingClientRect().left;
            steps.tracks[row.querySelector('span').textContent] = Array.from(row.querySelectorAll('b'), (bar) => {
                const box = bar.getBoundingClientRect();
                return [(box.left - left) / width, (box.right - left) / width];
            });
        }
        buttons[2].click();
        steps.spoken = strip.getAttribute('aria-valuetext');
        steps.current = buttons.map((button) => button.getAttribute('aria-current'));
        steps.on = document.querySelectorAll('.row b.on').length;
        return steps;
        """,
    )
    assert not found["hasLane"]
    for label, bars in found["tracks"].items():
        expected = [(s.start_seconds / SECONDS, s.end_seconds / SECONDS) for s in segments if s.label == label]
        assert len(bars) == len(expected)
        for bar, truth in zip(bars, expected, strict=True):
            assert bar == pytest.approx(truth, abs=0.01)
    assert found["spoken"] == "0:02.0, label 1, label 0, label 11"
    assert found["current"] == ["true"] * 3
    assert found["on"] == 3


def in_browser(browser: Browser, page: Path, script: str) -> dict[str, Any]:
    """Opens the page, runs a script in it once the video is there, returns what it returns."""
    with file_in(browser, page) as opened:
        return opened.evaluate(f"async () => {{ {IN_THE_PAGE} {script} }}")  # type: ignore[no-any-return]


def test_clicks_and_keys_go_where_they_say(page: Path, browser: Browser) -> None:
    found = in_browser(
        browser,
        page,
        """
        const steps = {ready: video.readyState >= 1, duration: video.duration, start: at()};
        buttons[1].click(); steps.click = at(); steps.current = buttons[1].getAttribute('aria-current');
        steps.spoken = strip.getAttribute('aria-valuetext'); steps.video = video.currentTime;
        key('n'); steps.next = at(); key('p'); steps.previous = at();
        key('ArrowRight'); steps.right = at(); key('ArrowLeft', strip); steps.left = at();
        key('ArrowRight', document.body, {shiftKey: true}); steps.end = at();
        key('n', document.body, {ctrlKey: true}); steps.browsers_own = at();
        const box = strip.getBoundingClientRect();
        strip.setPointerCapture = () => {};
        strip.dispatchEvent(new PointerEvent('pointerdown', {clientX: box.left + box.width / 4, pointerId: 1}));
        steps.strip = at();
        let played = 0; video.play = () => { played++; }; key(' '); key(' ', buttons[0]); steps.played = played;
        steps.rows = Array.from(document.querySelectorAll('.row span'), (name) => name.textContent);
        steps.bars = document.querySelectorAll('#lane b').length;
        steps.wide = document.documentElement.scrollWidth > innerWidth;
        return steps;
        """,
    )
    assert found["ready"]
    assert found["duration"] == pytest.approx(SECONDS, abs=0.01)
    assert found["start"] == 0
    assert (found["click"], found["current"]) == (1.6, "true")
    assert found["video"] == pytest.approx(1.6)
    assert found["spoken"] == f"0:01.6, {LABELS[1]}"
    assert (found["next"], found["previous"]) == (3.2, 1.6)
    assert (found["right"], found["left"]) == (2.6, 1.6)
    assert found["end"] == found["browsers_own"] == SECONDS
    assert found["strip"] == pytest.approx(1.0, abs=0.05)
    assert found["played"] == 1  # a button's space is its own
    assert sorted(found["rows"]) == sorted(LABELS)
    assert found["bars"] == len(SEGMENTS)
    assert not found["wide"]


def test_the_copy_of_an_avi_plays_and_the_strip_works_without_a_video(
    avi: Path, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = write_page(avi, tmp_path / "copy")
    found = in_browser(browser, copy, "return {duration: video.duration, width: video.videoWidth};")
    assert found == {"duration": pytest.approx(SECONDS, abs=0.01), "width": 128}
    monkeypatch.setattr("pipeline.report.page.encoder_name", lambda: "mpeg4")
    without = write_page(avi, tmp_path / "none")
    found = in_browser(browser, without, "key('n'); key('n'); return {at: at()};")
    assert found == {"at": 1.6}
