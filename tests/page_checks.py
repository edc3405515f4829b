"""Shared by the tests of the page: regions and lists by their names, the Tab key, axe."""

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

AXE = Path(__file__).parent / "page" / "vendor" / "axe.min.js"


def region(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def list_of(page: Page, name: str) -> Locator:
    return region(page, name).locator("ol > li .title")


def tab_to(page: Page, wanted: Locator, limit: int = 80) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"{wanted} cannot be reached with the Tab key")


def axe(page: Page) -> list[str]:
    """Return the violations that axe finds."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{rule['id']}: {node['html'][:200]}" for rule in result["violations"] for node in rule["nodes"]]


def settled(page: Page) -> None:
    """Wait until nothing is loading."""
    expect(page.get_by_role("heading", level=1).or_(page.locator(".notice")).first).to_be_visible()
    expect(page.locator("main .loading, main [aria-busy=true]")).to_have_count(0)
