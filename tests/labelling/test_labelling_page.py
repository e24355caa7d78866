"""The labelling page in a real browser, by keyboard alone but where the mouse is meant."""

from __future__ import annotations

import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.decode import open_video
from pipeline.files import writing
from pipeline.labelling.proposals import Offer
from pipeline.labelling.stretches import Edit, Span
from tests.browsing import PHONE, fits, serious_findings
from tests.labelling.conftest import KINDS, LabelPage
from tests.videos import painted_number

MakePage = Callable[[Path], LabelPage]
WAIT_MS = 20_000
expect.set_options(timeout=WAIT_MS)


@pytest.fixture
def folder(five_videos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(five_videos, tmp_path / "videos"))


@contextmanager
def opened(browser: Browser, label: LabelPage, may_complain: bool = False, **settings: object) -> Iterator[Page]:
    """The page in a fresh profile; any complaint on the console and any request elsewhere is an error."""
    with browser.new_context(**settings) as context:
        page, faults = context.new_page(), list[str]()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((label.url, "blob:")) or faults.append(asked.url))
        page.goto(label.url)
        expect(page.locator("#saved")).to_have_text("Saved")
        expect(page.locator("#picture img")).to_be_visible()
        yield page
        page.wait_for_load_state()
    assert may_complain or not faults


def number_shown(page: Page) -> int:
    """The number that is painted in the picture on the page."""
    shot = page.locator("#picture img").evaluate(
        """image => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )
    png = np.frombuffer(b64decode(shot.partition(",")[2]), np.uint8)
    return painted_number(cv2.imdecode(png, cv2.IMREAD_COLOR))


def see(page: Page, number: int) -> None:
    """Wait for the picture of that number of the video that is open; the number is painted in it too."""
    video = page.url.partition("#")[2]
    expect(page.locator("#picture img")).to_have_attribute("src", f"pictures/{video}/{number}.jpg")
    assert number_shown(page) == number


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def name_label(page: Page, text: str) -> None:
    press(page, "/")
    page.keyboard.type(text)
    press(page, "Enter")


def wait_for_lines(page: Page, label: LabelPage, *wanted: str) -> None:
    for _ in range(WAIT_MS // 50):
        if sorted(label.lines()) == sorted(wanted):
            break
        page.wait_for_timeout(50)
    assert sorted(label.lines()) == sorted(wanted)


def test_by_keyboard_alone_on_five_containers(browser: Browser, make_page: MakePage, folder: Path) -> None:
    """The picture on the page is the picture of the manifest, whatever the container."""
    label = make_page(folder)
    videos = sorted(path.name for path in folder.iterdir() if path.name in KINDS)
    assert len(videos) >= 4
    with opened(browser, label) as page:
        wanted = []
        for place, name in enumerate(videos):
            expect(page.locator("#video-name")).to_have_text(name)
            see(page, 0)
            press(page, "ArrowRight", "ArrowRight", "ArrowRight")
            see(page, 3)
            press(page, "i", "Shift+ArrowRight")
            see(page, 28)
            press(page, "ArrowLeft", "o")
            see(page, 27)
            expect(page.locator("#marked")).to_contain_text("marked")
            wanted_label = "run" if place == 1 else "walk"
            if place < 3:  # a new one, another, and the one that a part of its name finds
                name_label(page, ("walk", "run", "wal")[place])
            else:
                press(page, "1")
            with open_video(folder / name) as video:
                start, end = video.pts_seconds[3], video.pts_seconds[28]
            text = [f"{float(time):.6f}".rstrip("0").rstrip(".") for time in (start, end)]
            wanted.append(f"{name},{wanted_label},{text[0]},{text[1]},,,unlabelled")
            wait_for_lines(page, label, *wanted)
            press(page, "PageDown")


def test_undo_accept_reject_and_next(browser: Browser, make_page: MakePage, folder: Path) -> None:
    label = make_page(folder)
    label.store.change("mpeg4.mp4", "test", [Edit(None, None, Span("walk", 0.4, 0.8))])
    line = "mpeg4.mp4,walk,0.4,0.8,,,unlabelled"
    label.draft("bframes.avi", ("walk", 0.2, 0.6, 0.9), ("run", 1.0, 1.4, 0.6))
    with opened(browser, label) as page:
        drafts = page.locator("#stretch-list .draft")
        expect(drafts).to_have_count(2)
        press(page, "]")
        see(page, 5)
        press(page, "Enter")
        wait_for_lines(page, label, line, "bframes.avi,walk,0.2,0.6,,,unlabelled")
        expect(drafts).to_have_count(1)
        press(page, "Escape", "]", "]")
        see(page, 25)
        press(page, "x")
        expect(drafts).to_have_count(0)
        assert (folder / "rejected_drafts.csv").read_text().splitlines()[1:] == ["bframes.avi,run,1,1.4"]
        press(page, "Control+z")
        expect(drafts).to_have_count(1)
        press(page, "Control+z")
        wait_for_lines(page, label, line)
        expect(drafts).to_have_count(2)
        press(page, "Control+Shift+z")
        wait_for_lines(page, label, line, "bframes.avi,walk,0.2,0.6,,,unlabelled")
        label.offer(Offer("vp9.webm", 1.0, 2.0, "two models disagree"))
        expect(page.locator("#learning-figures")).to_contain_text("50.0%")
        press(page, "n")
        expect(page.locator("#video-name")).to_have_text("vp9.webm")
        expect(page.locator("#announcer")).to_contain_text("two models disagree")
        see(page, 25)
        press(page, "l")
        page.wait_for_timeout(50)


def test_one_stretch_after_the_other_and_the_rest_of_what_was_offered(
    browser: Browser, make_page: MakePage, folder: Path
) -> None:
    label = make_page(folder)
    label.draft("mpeg4.mp4", ("walk", 0.4, 0.8, 0.9))
    label.offer(Offer("bframes.avi", 0.4, 1.6, "it looks new"), Offer("mpeg4.mp4", 0.4, 1.6, "it looks new"))
    with opened(browser, label) as page:
        expect(page.locator("#learning-figures")).to_contain_text("50.0%")
        said = page.locator("#announcer")
        press(page, "7")
        expect(said).to_contain_text("no label has the number 7 yet")
        press(page, "n")
        expect(said).to_contain_text("it looks new, from 0:00.40 to 0:01.60")
        expect(said).to_be_in_viewport()
        press(page, "ArrowRight", "i", "ArrowRight", "ArrowRight", "ArrowRight", "o")
        name_label(page, "walking")
        expect(said).to_contain_text("labelled walking")
        press(page, "ArrowRight", "ArrowRight", "ArrowRight", "i", "ArrowRight", "ArrowRight", "o", "/")
        page.keyboard.type("walk")  # a part of another label's name
        expect(page.locator("#new-label")).to_have_text("New: walkshift-enter")
        press(page, "Shift+Enter", "0")
        times = {"background": ("0.4,0.44", "0.6,0.68", "0.8,1.6"), "walking": ("0.44,0.6",), "walk": ("0.68,0.8",)}
        lines = [f"bframes.avi,{name},{time},,,unlabelled" for name, some in times.items() for time in some]
        wait_for_lines(page, label, *lines)
        press(page, "n")
        expect(page.locator("#video-name")).to_have_text("mpeg4.mp4")
        see(page, 10)
        press(page, "Space")  # all that is offered, to its last picture
        see(page, 39)
        expect(page.locator("#play")).to_have_text("Play")
        press(page, "[", "[")
        see(page, 10)
        press(page, "Enter")  # the draft, not all that is offered
        wait_for_lines(page, label, *lines, "mpeg4.mp4,walk,0.4,0.8,,,unlabelled")


def test_edges_and_labels_of_a_selected_stretch(browser: Browser, make_page: MakePage, folder: Path) -> None:
    label = make_page(folder)
    for span in (Span("walk", 0.4, 0.8), Span("run", 1.2, 1.6)):
        label.store.change("bframes.avi", "test", [Edit(None, None, span)])
    with opened(browser, label) as page:
        # Faster than the server saves: each key sees what the one before has made.
        press(page, "]", "s", "ArrowRight", "i", "2", "ArrowRight", "i", "ArrowRight")
        wait_for_lines(page, label, "bframes.avi,run,0.48,0.8,,,unlabelled", "bframes.avi,run,1.2,1.6,,,unlabelled")
        see(page, 13)
        press(page, "Delete")
        wait_for_lines(page, label, "bframes.avi,run,1.2,1.6,,,unlabelled")
        press(page, "f")
        wait_for_lines(page, label, "bframes.avi,run,1.2,1.6,,,background")
        expect(page.locator("#video-share")).to_have_text("all of it labelled")
        press(page, "?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        press(page, "Enter")
        expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_a_dragged_edge_snaps_to_a_picture(browser: Browser, make_page: MakePage, folder: Path) -> None:
    label = make_page(folder)
    label.store.change("bframes.avi", "test", [Edit(None, None, Span("walk", 0.4, 1.2))])
    with opened(browser, label, viewport={"width": 1400, "height": 1000}) as page:
        box = page.locator("#canvas").bounding_box()
        assert box
        seconds = label.server.site._survey.durations_seconds["bframes.avi"]
        x, y = (lambda time: box["x"] + time / seconds * box["width"]), box["y"] + 35
        page.mouse.move(x(1.2), y)
        page.mouse.down()
        page.mouse.move(x(1.5), y, steps=4)
        page.mouse.move(x(1.611), y, steps=4)
        page.mouse.up()
        wait_for_lines(page, label, "bframes.avi,walk,0.4,1.6,,,unlabelled")


def test_two_tabs_do_not_lose_each_others_work(browser: Browser, make_page: MakePage, folder: Path) -> None:
    label = make_page(folder)
    label.store.change("bframes.avi", "test", [Edit(None, None, Span("walk", 0.4, 0.8))])
    with opened(browser, label, may_complain=True) as one, opened(browser, label) as two:
        # The first tab does not hear of what the second does until it has sent its own change.
        sent: list[str] = []
        one.on("request", lambda asked: sent.append(asked.url) if asked.url.endswith("/changes") else None)
        one.route("**/videos/0.json", lambda route: route.continue_() if sent else route.abort())
        press(two, "]", "s", "ArrowRight", "i")
        wait_for_lines(two, label, "bframes.avi,walk,0.44,0.8,,,unlabelled")
        press(one, "]", "s", "Delete")
        expect(one.locator("#notice")).to_contain_text("Somebody else was quicker")
        assert label.lines() == ["bframes.avi,walk,0.44,0.8,,,unlabelled"]


def test_a_full_disk_and_a_video_that_vanishes_are_told(
    browser: Browser, make_page: MakePage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = make_page(folder)
    with opened(browser, label, may_complain=True) as page:
        make = writing._make_temporary
        monkeypatch.setattr(writing, "_make_temporary", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
        press(page, "ArrowRight", "i", "ArrowRight", "o")
        name_label(page, "walk")
        expect(page.locator("#saved")).to_have_text("Not saved")
        expect(page.locator("#notice")).to_contain_text("the disk is full")
        monkeypatch.setattr(writing, "_make_temporary", make)
        wait_for_lines(page, label, "bframes.avi,walk,0.04,0.12,,,unlabelled")
        expect(page.locator("#saved")).to_have_text("Saved")
        (folder / "vp9.webm").rename(folder / "vp9.gone")
        page.locator("#video-list").get_by_text("vp9.webm").click()
        expect(page.locator("#notice")).to_contain_text("Its labels are kept")


def test_the_page_passes_axe_and_fits_a_phone(browser: Browser, make_page: MakePage, folder: Path) -> None:
    label = make_page(folder)
    for place, name in enumerate(("walk", "run", "a label with a rather long name indeed")):
        label.store.change("bframes.avi", "test", [Edit(None, None, Span(name, place, place + 0.4))])
    label.draft("bframes.avi", ("walk", 1.6, 1.9, 0.9))
    for settings in ({"color_scheme": "light", **PHONE}, {"color_scheme": "dark"}):
        with opened(browser, label, **settings) as page:
            assert fits(page)
            assert serious_findings(page) == []
            page.get_by_role("button", name="Keys").click()
            assert serious_findings(page) == []


SPANS_IN = """async () => {
    const { spansIn } = await import("./spans.js");
    let reads = 0;
    class Span {
        constructor(start, end) { [this.start, this.last] = [start, end]; }
        get end() { reads += 1; return this.last; }
    }
    const spans = Array.from({ length: 20000 }, (_, n) => new Span(n / 2, n / 2 + (n % 7) / 4));
    spans[12000] = new Span(6000, 9000);
    spansIn(spans, 0, 1);  // looks at all of them, once
    let [mostReads, faults] = [0, 0];
    const views = [[-5, 0], [0, 4], [2500.25, 2503], [5999, 6001], [7000, 7001], [9998, 20000], [20000, 20001]];
    for (const [start, end] of views) {
        const wanted = spans.filter((span) => span.last > start && span.start < end);
        reads = 0;
        const found = spansIn(spans, start, end);
        if (start < 6000) mostReads = Math.max(mostReads, reads);
        faults += found.length !== wanted.length || found.some((span, n) => span !== wanted[n]);
    }
    return [faults, mostReads, spansIn([], 0, 1).length];
}"""


def test_500_videos_and_20000_stretches_open_at_once(browser: Browser, make_page: MakePage, tmp_path: Path) -> None:
    """As many elements as fit, not one for each stretch: how long it takes is told by the size of the page."""
    lines = ["path,label,start_seconds,end_seconds"]
    for number in range(500):
        lines += [f"v{number}.mp4,label {n % 12},{2 * n},{2 * n + 1}" for n in range(40)]
    lines += [f"big.mp4,label {n % 12},{n / 2},{n / 2 + 0.25}" for n in range(10_000)]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    label = make_page(tmp_path)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(label.url)
        expect(page.locator("#video-list li")).to_have_count(501)
        page.locator("#filter").fill("big")
        page.locator("#video-list").get_by_text("big.mp4").click()
        expect(page.locator("#stretch-list li")).to_have_count(201)
        assert page.evaluate("document.querySelectorAll('*').length") < 5_000
        faults, most_reads, num_of_none = page.evaluate(SPANS_IN)
        assert (faults, num_of_none) == (0, 0)
        assert most_reads < 20


def test_pictures_are_those_of_the_decoder(make_page: MakePage, folder: Path) -> None:
    from pipeline.config import DecodeConfig
    from pipeline.decode import VideoOpener
    from pipeline.labelling.pictures import PictureServer

    with VideoOpener(DecodeConfig()) as opener:
        pictures = PictureServer(opener)
        for path in sorted(folder.iterdir()):
            for number in (0, 17, 59, 31, 32, 3):
                jpeg = np.frombuffer(pictures.jpeg(path, number), np.uint8)
                assert painted_number(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) == number
        pictures.close()
