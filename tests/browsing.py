"""Pages in a real Chromium: opened without a network, watched for complaints, looked at by axe-core."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PHONE = {"viewport": {"width": 360, "height": 740}}
SERIOUS = ("serious", "critical")


def find_chromium() -> str | None:
    """Its path, if there is one."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's browser. Without one a test skips, or with CLIPGRU_BROWSER=required fails."""
    program = find_chromium()
    if program is None:
        message = f"no browser on this machine (looked for {', '.join(CHROMIUMS)})"
        if os.environ.get("CLIPGRU_BROWSER") == "required":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@contextmanager
def file_in(browser: Browser, path: Path, **settings: Any) -> Iterator[Page]:
    """A page from disk in a fresh profile without a network. Any request but for itself, and any complaint on the
    console, is an error."""
    with browser.new_context(offline=True, **settings) as context:
        page, faults = context.new_page(), []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url[:200]) if not _own(request.url, path) else None)
        page.goto(path.as_uri())
        yield page
        assert not faults


def _own(url: str, path: Path) -> bool:
    return url.startswith("data:") or url.partition("#")[0] == path.as_uri()


def serious_findings(page: Page, rule: str = "") -> list[str]:
    """What axe-core calls serious or critical, each with the first element it means; by one rule alone, if asked for.

    A browser on a busy machine may lose the answer; then axe is loaded and asked once more."""
    try:
        violations = _ask_axe(page, rule)
    except TimeoutError:
        violations = _ask_axe(page, rule)
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in violations if v["impact"] in SERIOUS]


def _ask_axe(page: Page, rule: str) -> list[dict[str, Any]]:
    page.evaluate(Axe().axe_script)
    keep = "(found) => { window.axeFound = found.violations; }"
    options = json.dumps({"resultTypes": ["violations"]} | ({"runOnly": [rule]} if rule else {}))
    page.evaluate(f"void axe.run({options}).then({keep})")
    for _ in range(1200):  # not wait_for_function, which the live page's rules for scripts forbid
        found: list[dict[str, Any]] | None = page.evaluate("window.axeFound")
        if found is not None:
            page.evaluate("delete window.axeFound")
            return found
        page.wait_for_timeout(50)
    raise TimeoutError("axe did not answer in a minute")


def fits(page: Page) -> bool:
    """Whether nothing makes the page itself scroll to the side."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
