"""`repli serve` as a person has it who never types a command: the Prefect UI, in a browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import SECONDS, open_page, picture
from tests.support.command_line import write_manifest
from tests.support.serving import Serving

pytestmark = pytest.mark.timeout(900)


def parameter(page: Page, title: str) -> Locator:
    """The part of the form that asks for this parameter."""
    label = page.get_by_text(re.compile(rf"^{title}( \(Optional\))?$"))
    return page.locator(".schema-form-property", has=label).last  # the innermost


def choose(page: Page, title: str, option: str) -> None:
    """Choose from what the form offers for this parameter."""
    parameter(page, title).locator("button.p-select-button__control").press("Space")
    page.get_by_text(option, exact=True).last.click()


@pytest.mark.campaign
def test_a_run_from_the_form_to_its_report(served: Serving, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The `enrich` deployment is run from its form with a fault, ends *Degraded*, and its report shows the chart."""
    manifest = write_manifest(tmp_path_factory.mktemp("my_catalogue", numbered=False), 12)
    with open_page() as page:
        page.goto(f"{served.ui_url}/deployments")
        page.get_by_role("link", name="enrich", exact=True).first.click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run").click()
        parameter(page, "Source").locator("textarea").fill(str(manifest))
        parameter(page, "Batch size").get_by_role("button", name="int").click()
        parameter(page, "Batch size").locator("input").fill("4")
        parameter(page, "Faults").get_by_role("button", name="Add item").click()
        choose(page, "Rung", "classify_image.gpu")
        choose(page, "Kind", "oom")
        expect(parameter(page, "Rate").locator("input")).to_have_value("1")
        picture(page, "serve-form", height=1520)
        page.get_by_role("button", name="Submit").click()

        page.get_by_role("button", name="View run").first.dispatch_event("click")  # it slides in, and covers itself
        state = page.locator(".page-heading").get_by_text("Degraded", exact=True)
        expect(state).to_be_visible(timeout=300 * SECONDS)
        page.reload()
        report = page.get_by_text("enrich-report", exact=True)
        page.get_by_text("Artifacts", exact=True).click()
        expect(report).to_be_visible()
        picture(page, "serve-run", height=850)

        report.click()
        said = re.compile(r"12 of 12 items stored, mean quality 0\.900, expected accuracy 0\.\d+, 12 degraded")
        expect(page.get_by_text(said).first).to_be_visible()
        expect(page.get_by_text(f"Source {manifest} ·")).to_be_visible()  # its underscore as it is
        chart = page.locator("img[src^='data:image/png']")
        expect(chart).to_be_visible()
        assert chart.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
        picture(page, "report", height=1240)
