"""Every page that clipgru writes or serves, in a real browser: nothing asked of a network, nothing that axe-core calls
serious, no scrolling to the side on a phone, all of it to be reached by keyboard."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from pipeline.evaluation import write_evaluation
from pipeline.report.mp4 import Mp4File
from pipeline.run_report.page import write_comparison, write_report
from pipeline.streaming.serve import PageView
from tests.browsing import PHONE, file_in, fits, serious_findings
from tests.live import LABELS, LiveSource
from tests.report.test_report_page import write_page
from tests.runs import made_results, made_timelines, make_run, make_timeline_run


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose pictures are as large as JPEG can make them."""
    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    rng = np.random.default_rng(0)
    out = Mp4File(path, Fraction(10))
    for number in range(12):
        out.write(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8), number / 10)
    out.close()
    return path


@pytest.fixture(scope="module")
def pages(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind. ``large`` has 500 test videos of 40 classes; ``run`` 30 of 5, and as many for validation."""
    folder = tmp_path_factory.mktemp("pages")
    few = made_results(30, 5, noise)
    first = make_run(folder / "first", few)
    second = make_run(folder / "second", made_results(30, 5, noise, seed=1), heads=("mean",), diagnosed=False)
    write_evaluation(few, first / "evaluation_val", few.summary())
    return {
        "large": write_report(make_run(folder / "large", made_results(500, 40, noise))),
        "run": write_report(first),
        "comparison": write_comparison(first, second),
        "video": write_page(noise, folder / "videos"),
        "timelines": write_report(make_timeline_run(folder / "timelines", made_timelines(5, noise))),
        "tracks": write_report(make_timeline_run(folder / "tracks", made_timelines(3, noise, several=True))),
    }


def test_a_report_of_500_clips_is_below_5_megabytes(pages: dict[str, Path]) -> None:
    content = pages["large"].read_text()
    assert pages["large"].stat().st_size < 5_000_000
    assert content.count('class="player"') == 24
    assert content.count("<tr>") > 500


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("large", "light"),
        ("tracks", "dark"),
        *((name, scheme) for name in ("run", "comparison", "video", "timelines") for scheme in ("light", "dark")),
    ],
)
def test_pages_on_a_phone_pass_axe(name: str, scheme: str, pages: dict[str, Path], browser: Browser) -> None:
    """In the dark the colours alone are others. The rows of a table are alike: axe looks at the first ten."""
    with file_in(browser, pages[name], color_scheme=scheme, **PHONE) as page:
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert fits(page)
        page.evaluate("document.querySelectorAll('tbody tr:nth-child(n + 11)').forEach((row) => row.remove())")
        assert serious_findings(page, "color-contrast" if scheme == "dark" else "") == []


@pytest.mark.parametrize("name", ["run", "comparison", "timelines"])
def test_pages_on_a_desk_fit_and_follow_the_taste(name: str, pages: dict[str, Path], browser: Browser) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        with file_in(browser, pages[name], color_scheme=scheme) as page:
            assert fits(page)
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_the_live_page_passes_axe(browser: Browser) -> None:
    view = PageView(port=0)
    try:
        source = LiveSource("rtsp://entrance.example/stream1", LABELS)
        for step in range(700):
            view.show([source.status(step)])
        for scheme, rule in (("light", ""), ("dark", "color-contrast")):
            with browser.new_context(color_scheme=scheme, **PHONE) as context:
                page = context.new_page()
                page.goto(view.url)
                expect(page.get_by_role("article").locator(".top li").first).to_be_visible()
                expect(page.get_by_role("article").locator("img")).to_be_visible()
                assert fits(page)
                assert serious_findings(page, rule) == []
                page.get_by_role("button", name="Quit…").click()
                expect(page.get_by_role("dialog")).to_be_visible()
                assert serious_findings(page, rule) == []
    finally:
        view.close()


def test_tables_sort_and_filter_from_the_keyboard(pages: dict[str, Path], browser: Browser) -> None:
    with file_in(browser, pages["large"]) as page:
        table = page.get_by_role("group", name="Recall by class, test videos")
        heading = table.get_by_role("button", name="class", exact=True)
        heading.focus()
        page.keyboard.press("Enter")
        names = table.locator("tbody th").all_inner_texts()
        assert names[1:4] == ["class 0", "class 1", "class 2"]  # numbers in words count
        page.keyboard.press("Enter")
        assert table.locator("tbody th").all_inner_texts() == names[::-1]
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
        table.get_by_role("button", name="right").press("Space")
        shares = [float(text.split()[0]) for text in table.locator("tbody .figure").all_inner_texts()]
        assert shares == sorted(shares, reverse=True)

        videos = page.locator("#videos-test")
        expect(videos.get_by_role("status")).to_have_text("500 of 500")
        videos.get_by_role("searchbox").fill("class 7/")
        shown = videos.locator("tbody tr:not([hidden])")
        assert 12 <= shown.count() < 60
        assert all("class" in text and "7/" in text for text in shown.all_inner_texts())
        before = shown.count()
        videos.get_by_role("checkbox").press("Space")
        assert 0 < shown.count() < before
        assert shown.locator(".right").count() == 0


def test_clips_play_and_stop(pages: dict[str, Path], browser: Browser) -> None:
    with file_in(browser, pages["run"]) as page:
        first, second = page.locator(".player").nth(0), page.locator(".player").nth(1)
        place = first.get_attribute("data-shown")
        shown = first.locator("img").evaluate("image => getComputedStyle(image).transform")
        first.focus()
        page.keyboard.press("ArrowRight")
        assert first.get_attribute("data-shown") == str(int(place or 0) + 1)
        assert first.locator("img").evaluate("image => getComputedStyle(image).transform") != shown
        page.keyboard.press("Enter")
        expect(first).to_have_attribute("aria-pressed", "true")
        expect(first).not_to_have_attribute("data-shown", str(int(place or 0) + 1))
        second.click()
        expect(first).to_have_attribute("aria-pressed", "false")
        expect(second).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("Escape")
        expect(second).to_have_attribute("aria-pressed", "false")


@pytest.mark.parametrize("name", ["run", "timelines"])
def test_tab_reaches_every_control(name: str, pages: dict[str, Path], browser: Browser) -> None:
    """Each that is there is met once, in the order of the page."""
    with file_in(browser, pages[name]) as page:
        controls = "a[href], button, input, summary, [tabindex='0']"
        page.evaluate(
            f"document.querySelectorAll({controls!r}).forEach((control, place) => {{ control.dataset.place = place; }})"
        )
        visible = page.locator(controls).evaluate_all(
            "all => all.filter((one) => one.checkVisibility()).map((one) => Number(one.dataset.place))"
        )
        met = []
        for _ in visible:
            page.keyboard.press("Tab")
            met.append(page.evaluate("Number(document.activeElement.dataset.place)"))
        assert met == visible
