"""Somebody at the labelling page who knows what happens when, from a table of true times, and has a keyboard alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Page, expect

from pipeline.labelling.stretches import Span

Truth = Mapping[str, Sequence[Span]]
"""By the name of a video what happens in it, by start."""

_WAIT_MS = 60_000
_LEARN_SECONDS = 300
_LEAST_SECONDS = 0.3
"""Of what somebody notices in an offered stretch."""
_AROUND_SECONDS = 5.0
"""How far before and after it somebody looks for where an action begins and ends."""
_EDGE_SECONDS = 0.4
"""A draft whose edge is nearer to the true one is left as it is."""
_SAME_SHARE = 0.5
"""Of a draft that must be of one action, or it is wrong."""


@dataclass(frozen=True)
class Pace:
    """Seconds that a person needs, after the keystroke-level model of Card, Moran and Newell (1980)."""

    key_seconds: float = 0.28
    """For each key, of somebody who types as most people do."""
    think_seconds: float = 1.35
    """Before each decision."""
    watch_share: float = 1.0
    """Of a stretch's own time, in which it is watched before it is labelled."""


AT_ONCE = Pace(0.0, 0.0, 0.0)


@dataclass
class Work:
    """The work of a labeller, in numbers."""

    num_keys: int = 0
    num_offers: int = 0
    watched_seconds: float = 0.0
    num_accepted: int = 0
    num_relabelled: int = 0
    num_rejected: int = 0
    num_drafts: int = 0


class Labeller:
    """Presses the keys that docs/tutorial.md tells of, and reads what stands on the page.

    Args:
        page: the labelling page, open.
        truth: of its videos.
        pace: how long keys, decisions and looks take.

    Attributes:
        work: what was done so far.
    """

    def __init__(self, page: Page, truth: Truth, pace: Pace = AT_ONCE) -> None:
        self._page, self._truth, self._pace, self.work = page, truth, pace, Work()
        page.set_default_timeout(_WAIT_MS)
        expect(page.locator("#picture img")).to_be_visible(timeout=_WAIT_MS)

    # What the tutorial asks for

    def label_offers(self, is_over: Callable[[], bool]) -> None:
        """Label what is offered until it is over, or nothing is: each action in it, and the rest as background."""
        while not is_over() and (offer := self._next(is_over)):
            start, end = offer
            self._watch(start, end)
            self.work.num_offers += 1
            for span in self._truth[self._video]:
                if _shared(span, start, end) >= _LEAST_SECONDS:
                    low, high = max(start - _AROUND_SECONDS, span.start_seconds), span.end_seconds
                    self._label(Span(span.label, low, min(end + _AROUND_SECONDS, high)))
            self._think()
            with self._told():
                self._press("0")

    def learn(self) -> dict[str, str]:
        """Learn, and wait until it is done. Returns the figures that the page shows then."""
        self._think()
        with self._page.expect_response("**/learn"):
            self._press("l")
        for _ in range(_LEARN_SECONDS * 10):
            if self._learning["state"] not in ("waiting", "learning"):
                break
            self._page.wait_for_timeout(100)
        expect(self._page.locator("#learning-words")).to_contain_text("learned in", timeout=_WAIT_MS)
        names, values = (self._page.locator(f"#learning-figures {tag}").all_inner_texts() for tag in ("dt", "dd"))
        return dict(zip(names, values, strict=True))

    def correct_drafts(self, is_over: Callable[[], bool]) -> None:
        """Go through the open video from draft to draft, and decide on each, until there is none or it is over."""
        self._press("Home", "a")
        before = -1
        while not is_over() and self._frame != before:
            before = self._frame
            if draft := self._draft_here():
                self._decide(*draft)
                before = -1
            else:
                self._press("]")

    def open_next_video(self) -> bool:
        """Open the next one of the list. False at its end."""
        name, names = self._video, self._page.locator("#video-list .name").all_text_contents()
        self._press("PageDown")
        if name == names[-1]:
            return False
        expect(self._page.locator("#video-name")).not_to_have_text(name, timeout=_WAIT_MS)
        return True

    # Decisions

    def _next(self, is_over: Callable[[], bool]) -> tuple[float, float] | None:
        """What is offered. At first a video must have been looked at."""
        while self._is_nothing_offered():
            if is_over() or self._learning["state"] == "idle":
                return None
            self._page.wait_for_timeout(500)
        marked = self._page.locator("#marked")
        expect(marked).to_contain_text("marked", timeout=_WAIT_MS)
        _, start, _, end = (marked.text_content() or "").split(" ")
        self._think()
        return _seconds(start), _seconds(end)

    def _is_nothing_offered(self) -> bool:
        with self._page.expect_response("**/next") as answer:
            self._press("n")
        return answer.value.json()["video"] is None

    def _label(self, span: Span) -> None:
        self._go_to(span.start_seconds)
        self._press("i")
        self._go_to(span.end_seconds, is_end=True)
        self._press("o")
        self._think()
        self._name(span.label)

    def _name(self, label: str) -> None:
        """By its number, or, when it is new or has none, by its name."""
        number = self._numbers().get(label, "")
        with self._told():
            if number:
                self._press(number)
            else:
                self._press("/")
                self._page.keyboard.type(label, delay=1000 * self._pace.key_seconds)
                self.work.num_keys += len(label)
                has_part = self._page.locator("#new-label").is_visible() and self._text("#new-label kbd") != "enter"
                self._press("Shift+Enter" if has_part else "Enter")

    def _decide(self, label: str, start: float, end: float) -> None:
        """Accept a draft, give it another label, or reject it; and put its edges right."""
        self._watch(start, end)
        self.work.num_drafts += 1
        true = max(self._truth[self._video], key=lambda span: _shared(span, start, end), default=None)
        self._think()
        if true is None or _shared(true, start, end) < _SAME_SHARE * (end - start):
            self.work.num_rejected += 1
            with self._told():
                self._press("x")
            return
        if true.label == label:
            self.work.num_accepted += 1
            with self._told():
                self._press("Enter")
        else:
            self.work.num_relabelled += 1
            self._name(true.label)
        self._put_right(true, start, end)

    def _put_right(self, true: Span, start: float, end: float) -> None:
        is_late = abs(true.start_seconds - start) > _EDGE_SECONDS
        is_wrong = abs(true.end_seconds - end) > _EDGE_SECONDS
        if is_late or is_wrong:
            self._press("s")
        if is_late:
            self._go_to(true.start_seconds)
            with self._told():
                self._press("i")
        if is_wrong:
            self._go_to(true.end_seconds, is_end=True)
            with self._told():
                self._press("o")
        if is_late or is_wrong:
            self._press("Escape")

    # Keys

    def _press(self, *keys: str) -> None:
        for key in keys:
            self._page.keyboard.press(key)
            self.work.num_keys += 1
            self._wait(self._pace.key_seconds)

    def _think(self) -> None:
        self._wait(self._pace.think_seconds)

    def _wait(self, seconds: float) -> None:
        if seconds:
            self._page.wait_for_timeout(1000 * seconds)

    def _watch(self, start: float, end: float) -> None:
        """Play a stretch that begins here."""
        seconds = self._pace.watch_share * (end - start)
        self.work.watched_seconds += end - start
        if seconds:
            self._press("Space")
            self._wait(seconds)
            expect(self._page.locator("#play")).to_have_text("Play", timeout=_WAIT_MS)  # it stops by itself

    def _go_to(self, seconds: float, is_end: bool = False) -> None:
        """To the picture that is shown then, or, of an end, to the one before it: by seconds, then by pictures."""
        steps = round(seconds - self._time)
        self._press(*["Shift+ArrowRight" if steps > 0 else "Shift+ArrowLeft"] * abs(steps))
        while self._time < seconds - 1e-3:
            before = self._frame
            self._press("ArrowRight")
            if self._frame == before:  # the last one
                return
        while self._time > seconds + 1e-3 - 2e-3 * is_end and self._frame:
            self._press("ArrowLeft")

    # What stands on the page

    def _text(self, selector: str) -> str:
        return self._page.locator(selector).text_content() or ""

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Wait until the page has said what became of the keys."""
        before = self._text("#announcer")
        yield
        expect(self._page.locator("#announcer")).not_to_have_text(before, timeout=_WAIT_MS)

    @property
    def _video(self) -> str:
        return self._text("#video-name")

    @property
    def _frame(self) -> int:
        return int(self._page.locator("#slider").get_attribute("aria-valuenow") or 0)

    @property
    def _time(self) -> float:
        return _seconds(self._text("#picture figcaption").split(" ")[0])

    def _numbers(self) -> dict[str, str]:
        """By label its number; nothing for those from the tenth on."""
        pairs = self._page.locator("#label-list button").all_inner_texts()
        parts = [text.split("\n") for text in pairs]
        return {part[0]: part[1] if len(part) > 1 else "" for part in parts}

    def _draft_here(self) -> tuple[str, float, float] | None:
        """Label and times of the draft at this moment, as the list tells them."""
        if ", draft " not in (self._page.locator("#slider").get_attribute("aria-valuetext") or ""):
            return None
        here = self._page.locator("#stretch-list .draft", has=self._page.locator("[aria-current=true]")).first
        start, _, end = (here.locator(".times").text_content() or "").split(" ")
        return here.locator(".name").text_content() or "", _seconds(start), _seconds(end)

    @property
    def _learning(self) -> dict[str, object]:
        url = self._page.url.partition("#")[0]
        learning: dict[str, object] = self._page.request.get(f"{url}folder.json").json()["learning"]
        return learning


def _seconds(clock: str) -> float:
    """Of 1:02:03.45, or less of it."""
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total


def _shared(span: Span, start: float, end: float) -> float:
    return min(span.end_seconds, end) - max(span.start_seconds, start)
