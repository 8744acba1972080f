"""A browser, as a user has it: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

WIDTH = 1180
SECONDS = 1000.0


@contextmanager
def open_page(*, height: int = 1000) -> Iterator[Page]:
    """A page of a browser with nothing in it; skips the test where there is no browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium here: `apt-get install chromium`, or your system's way")
    with sync_playwright() as playwright:
        # Its sandbox refuses root, which containers often are. All that is shown is our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": height})
        page.set_default_timeout(30 * SECONDS)
        yield page
        browser.close()


def picture(page: Page, name: str) -> None:
    """Save what the page shows now as `name`.png, where `REPLI_SCREENSHOTS` names a folder."""
    if folder := os.environ.get("REPLI_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")
