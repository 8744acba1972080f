"""A browser, as a user has it: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, expect, sync_playwright

WIDTH, HEIGHT = 1180, 1000
SECONDS = 1000.0
COMES_UP_WITHIN_S = 120
DRAWN_AFTER = 2 * SECONDS


def wait_for_dashboard(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the dashboard of this process answers; fail if it ends before."""
    deadline = time.monotonic() + COMES_UP_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{url}_stcore/health", timeout=20):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the dashboard did not come up; its exit status is {process.poll()}")


@contextmanager
def open_page() -> Iterator[Page]:
    """A page of a browser with nothing in it; skips the test where there is no browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium here: `apt-get install chromium`, or your system's way")
    with sync_playwright() as playwright:
        # Its sandbox refuses root, which containers often are. All that is shown is our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(COMES_UP_WITHIN_S * SECONDS)
        expect.set_options(timeout=COMES_UP_WITHIN_S * SECONDS)  # otherwise five seconds
        yield page
        browser.close()


def picture(page: Page, name: str, *, height: int) -> None:
    """Save what the page shows now as `name.png`, where `REPLI_SCREENSHOTS` names a folder."""
    if folder := os.environ.get("REPLI_SCREENSHOTS"):
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.wait_for_timeout(DRAWN_AFTER)
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
