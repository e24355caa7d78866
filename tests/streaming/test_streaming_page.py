"""The live page in a real browser: what people see, and what they can do with the keyboard alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.serving import site
from pipeline.streaming.serve import PageView
from tests.live import LABELS, Feeder, LiveSource

WAIT_MS = 30_000
ENTRANCE = LiveSource("rtsp://entrance.example/stream1", LABELS)
CAMERA = LiveSource("camera 0", LABELS[2:5])
expect.set_options(timeout=WAIT_MS)


@pytest.fixture
def view() -> Iterator[PageView]:
    view = PageView(port=0)
    yield view
    view.close()


@contextmanager
def opened(
    browser: Browser, view: PageView, has_own_clock: bool = False, may_complain: bool = False, **settings: object
) -> Iterator[Page]:
    """The page in a fresh browser profile; any complaint on the console and any request elsewhere is an error.

    With a clock of its own, time stands still for the page's timers but for ``page.clock.run_for``.
    """
    with browser.new_context(**settings) as context:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((view.url, f"blob:{view.url}")) or faults.append(request.url),
        )
        if has_own_clock:
            page.clock.install(time=0)
            page.clock.pause_at(1_000)
        page.goto(view.url)
        yield page
    assert may_complain or not faults


def at_home(url: str, view: PageView) -> bool:
    return url.startswith((view.url, f"blob:{view.url}"))


def card(page: Page, name: str) -> object:
    return page.get_by_role("article", name=name, exact=True)


def test_the_page_shows_each_source(browser: Browser, view: PageView) -> None:
    for step in range(700):
        view.show([ENTRANCE.status(step), CAMERA.status(step)])
    stalled = replace(CAMERA, state="stalled", message="no picture for 4.2 s")
    with Feeder(view, [ENTRANCE, stalled], step=700), opened(browser, view) as page:
        entrance, camera = card(page, ENTRANCE.name), card(page, "camera 0")
        expect(entrance.locator(".state")).to_have_text("Live")
        expect(camera.locator(".state")).to_have_text("Stalled")
        expect(camera).to_contain_text("no picture for 4.2 s")
        for words in ("42 ms", "63 ms", "89 ms", "embed 22 ms"):
            expect(entrance).to_contain_text(words)
        expect(entrance.locator(".top li").first).to_contain_text("%")
        assert entrance.locator(".strip > span").count() > 10
        assert entrance.locator(".legend").inner_text().count(" s") == len(LABELS)
        expect(page.get_by_role("img", name=f"Picture of {ENTRANCE.name}")).to_be_visible()


def test_the_open_label_is_shown_and_told_now_and_then(browser: Browser, view: PageView) -> None:
    """A screen reader gets the newest words, with pauses, however often the label changes."""
    source = LiveSource("camera 0", ("waving",))
    with opened(browser, view, has_own_clock=True) as page:
        spoken: list[str] = []
        page.expose_function("heard", lambda words: spoken.append(words))
        page.evaluate("""() => {
            const region = document.querySelector("[role=status]");
            new MutationObserver(() => heard(region.textContent)).observe(region, {childList: true});
        }""")
        label = card(page, "camera 0").locator(".open strong")
        for step in (0, 45, 50, 95, 100):
            view.show([source.status(step)])
            expect(label).to_have_text("waving" if step % 50 == 0 else "nothing recognised")
        page.clock.run_for(600)
        assert spoken == ["camera 0: waving"]
        view.show([source.status(145)])
        expect(label).to_have_text("nothing recognised")
        page.clock.run_for(3_000)
        assert len(spoken) == 1
        view.show([replace(source, state="stalled").status(146)])
        expect(page.get_by_text("Stalled")).to_be_visible()
        page.clock.run_for(2_000)
        assert spoken == ["camera 0: waving", "camera 0: Stalled"]


def test_all_labels_that_are_on_are_shown_and_share_the_strip(browser: Browser, view: PageView) -> None:
    source = LiveSource("camera 0", ("waving",))
    for step in range(60):  # the second label from the third second on
        both = ("waving", "running") if step >= 30 else ("waving",)
        view.show([replace(source.status(0), time_seconds=step / 10, labels=both)])
    with opened(browser, view) as page:
        shown = card(page, "camera 0")
        expect(shown.locator(".open strong")).to_have_text(["waving", "running"])
        expect(shown.locator(".open .swatch:visible")).to_have_count(2)
        first, second = shown.locator(".strip > .stretch").all()
        boxes = [bar.bounding_box() for bar in (*first.locator("b").all(), *second.locator("b").all())]
        alone, above, below = (box["height"] for box in boxes if box)
        assert [above, below] == pytest.approx([alone / 2] * 2, abs=0.1)
        expect(shown.locator(".legend li")).to_have_count(2)


def test_the_picture_is_the_newest_and_can_be_held(browser: Browser, view: PageView) -> None:
    view.show([CAMERA.status(0)])
    with opened(browser, view) as page:
        clock, picture = page.locator("figcaption"), page.locator(".picture img")
        expect(clock).to_have_text("0:00.0")
        first = picture.get_attribute("src")
        assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [320, 240]
        view.show([CAMERA.status(15)])
        expect(clock).to_have_text("0:01.5")
        assert picture.get_attribute("src") != first
        page.get_by_label("Hold pictures").check()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        view.show([CAMERA.status(25)])
        expect(page.locator("[data-figure=frames_used]")).to_have_text("25")
        assert not asked
        expect(clock).to_have_text("0:01.5")
        page.get_by_label("Hold pictures").uncheck()
        expect(clock).to_have_text("0:02.5")


def test_sources_come_and_go(browser: Browser, view: PageView) -> None:
    with Feeder(view, []) as feeder, opened(browser, view) as page:
        expect(page.get_by_text("No source yet")).to_be_visible()
        feeder.sources = [CAMERA, ENTRANCE]
        expect(page.get_by_role("heading", level=2)).to_have_text([CAMERA.name, ENTRANCE.name])
        feeder.sources = [ENTRANCE]
        expect(page.get_by_role("heading", level=2)).to_have_text([ENTRANCE.name])
        expect(page.get_by_text("No source yet")).to_be_hidden()


def enter(page: Page) -> None:
    """A click beside all controls: keys go to the page from then on. A browser that has just opened it may still have
    the focus in its own address bar, and a key that is pressed there never comes back."""
    page.bring_to_front()
    page.locator("h1").click()


def tab_to(page: Page, name: str) -> None:
    """Tab until the button has the focus; a page that has just been drawn may miss the first."""
    button = page.get_by_role("button", name=name, exact=True)
    for _ in range(10):
        page.keyboard.press("Tab")
        if button.evaluate("button => button === document.activeElement"):
            return
    expect(button).to_be_focused()


def wait_for_commands(page: Page, feeder: Feeder, commands: list[str]) -> None:
    deadline = time.monotonic() + WAIT_MS / 1000
    while feeder.commands != commands and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert feeder.commands == commands


def test_the_keyboard_is_enough(browser: Browser, view: PageView) -> None:
    with Feeder(view, [CAMERA]) as feeder, opened(browser, view) as page:
        expect(page.get_by_role("button", name="Pause")).to_be_enabled()
        enter(page)
        tab_to(page, "Pause")
        page.keyboard.press("Enter")
        wait_for_commands(page, feeder, ["pause"])
        feeder.sources = [replace(CAMERA, state="paused")]
        expect(page.get_by_role("button", name="Resume")).to_be_focused()
        tab_to(page, "Reset")
        page.keyboard.press("Space")
        wait_for_commands(page, feeder, ["pause", "reset"])
        tab_to(page, "Quit…")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog", name="Quit?")).to_be_visible()
        expect(page.get_by_role("button", name="Go on")).to_be_focused()
        page.keyboard.press("Enter")  # no
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog", name="Quit?")).to_be_visible()
        tab_to(page, "Quit")
        page.keyboard.press("Enter")  # yes
        wait_for_commands(page, feeder, ["pause", "reset", "quit"])


def test_the_end_is_told(browser: Browser, view: PageView) -> None:
    with opened(browser, view) as page:
        expect(page.get_by_text("Connected", exact=True)).to_be_visible()
        view.close()
        expect(page.get_by_text("The program has ended")).to_be_visible()
        expect(page.get_by_role("button", name="Pause")).to_be_disabled()


def test_a_program_that_comes_back_is_shown_again(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = site.event  # a program that dies cannot say that it ends
    monkeypatch.setattr(site, "event", lambda name, content: ":\n\n" if name == "end" else tell(name, content))
    monkeypatch.setattr(site, "_RETRY_MS", 100)
    view = PageView(port=0)
    view.show([CAMERA.status(300)])
    with opened(browser, view, may_complain=True) as page:  # Chromium does, when it cannot connect
        expect(page.get_by_role("heading", level=2)).to_have_text([CAMERA.name])
        view.close()
        expect(page.locator("#connection")).to_have_text("Connection lost")
        view = PageView(port=int(view.url.rstrip("/").rpartition(":")[2]))
        view.show([ENTRANCE.status(0), CAMERA.status(0)])
        expect(page.get_by_role("heading", level=2)).to_have_text([ENTRANCE.name, CAMERA.name])
        expect(page.locator("#connection")).to_have_text("Connected")
        view.close()


def test_the_page_fits_the_screen_and_the_taste(browser: Browser, view: PageView) -> None:
    for step in range(700):
        view.show([ENTRANCE.status(step), CAMERA.status(step)])
    colours = set()
    for scheme in ("light", "dark"):
        phone = {"viewport": {"width": 320, "height": 640}, "color_scheme": scheme, "reduced_motion": "reduce"}
        with opened(browser, view, **phone) as page:
            expect(card(page, ENTRANCE.name)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 320
            bar = page.locator(".top .bar span").first
            assert bar.evaluate("bar => getComputedStyle(bar).transitionDuration") == "0s"
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_a_page_of_another_site_can_do_nothing(browser: Browser, view: PageView) -> None:
    """It tries from another port of this machine, with all that a page may send without asking first."""
    attack = """<!doctype html><title>trying</title><script type="module">
        const base = document.location.hash.slice(1), log = [];
        const attempt = async (name, act) => log.push(name + ": " + await act().then(() => "done", () => "refused"));
        await attempt("read", () => fetch(base + "status.json").then((answer) => answer.text()));
        const headers = {"X-Clipgru-Token": "guessed"};
        await attempt("press", () => fetch(base + "commands/quit", {method: "POST", headers}));
        await attempt("events", () => new Promise((good, bad) => {
            const events = new EventSource(base + "events"); events.onopen = good; events.onerror = bad;
        }));
        await attempt("picture", () => new Promise((good, bad) => {
            const image = new Image(); image.onload = good; image.onerror = bad; image.src = base + "pictures/1.jpg";
        }));
        await fetch(base + "commands/quit", {method: "POST", mode: "no-cors"}).catch(() => 0);
        document.title = log.join(", ");
    </script>"""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(attack.encode())

        def log_message(self, *args: object) -> None:
            pass

    view.show([CAMERA.status(0)])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other, browser.new_context() as context:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{other.server_port}/#{view.url}")
            expect(page).to_have_title("read: refused, press: refused, events: refused, picture: refused")
        finally:
            other.shutdown()
            thread.join()
    assert list(view.show([])) == []
