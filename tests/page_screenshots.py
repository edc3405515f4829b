"""Take the pictures of the page that the documentation shows: python tests/page_screenshots.py ADDRESS USER FOLDER.

The tests run the same steps on a small model; the committed pictures come from the demo:

    ssd4rec demo && ssd4rec events import ml-latest-small --store sqlite:///artifacts/demo-events.db
    ssd4rec serve artifacts/demo --store sqlite:///artifacts/demo-events.db
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright

SIZE = {"width": 1280, "height": 800}


def take(browser: Browser, address: str, user: str, folder: Path) -> list[Path]:
    """Write a picture of each view; of a user, one whose first recommendation is explained."""
    views: dict[str, Callable[[Page], None]] = {
        "user": lambda page: _user(page, user),
        "what-if": lambda page: _what_if(page, user),
        "item": _item,
        "catalog": _catalog,
        "map": _map,
        "models": _models,
        "live": lambda page: _live(page, address, user),
    }
    paths = []
    for name, show in views.items():
        page = browser.new_page(viewport=SIZE, base_url=address, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(60_000)
        show(page)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        paths.append(folder / f"page-{name}.png")
        page.screenshot(path=paths[-1])
        page.close()
    return paths


def _user(page: Page, user: str) -> None:
    page.goto(f"/#/users/{user}")
    page.get_by_role("region", name="Next items").locator("ol a").first.click()
    expect(page.locator(".timeline .bar").first).to_be_visible()
    expect(page.locator(".parts")).to_be_visible()
    expect(page.locator(".why [role=status]")).to_have_count(0, timeout=60_000)


def _what_if(page: Page, user: str) -> None:
    page.goto(f"/#/what-if/{user}")
    before = page.get_by_role("region", name="Before")
    before.get_by_role("button", name="Find events to remove").first.click()
    expect(before.locator("li.gone").or_(page.get_by_text("No set of events")).first).to_be_visible(timeout=60_000)
    expect(page.locator(".lists[aria-busy=false]")).to_be_visible()


def _item(page: Page) -> None:
    page.goto("/#/catalog")
    page.get_by_role("button", name="Long tail").click()
    page.get_by_role("region", name="Items").locator("a").first.click()
    expect(page.get_by_role("region", name="Who gets it").locator("li").first).to_be_visible(timeout=60_000)
    expect(page.get_by_role("region", name="Neighbors").locator("li").first).to_be_visible()


def _catalog(page: Page) -> None:
    page.goto("/#/catalog")
    expect(page.get_by_role("region", name="Items").locator("li").first).to_be_visible(timeout=60_000)


def _map(page: Page) -> None:
    page.goto("/#/map")
    page.get_by_role("region", name="Most frequent in view").locator("button").nth(4).click(timeout=60_000)
    expect(page.get_by_role("heading", name="Neighbors by cosine")).to_be_visible()
    expect(page.locator("main .loading")).to_have_count(0)


def _models(page: Page) -> None:
    page.goto("/#/models")
    expect(page.locator(".version").first).to_be_visible()
    expect(page.locator("main .loading")).to_have_count(0)


def _live(page: Page, address: str, user: str) -> None:
    page.goto("/#/live")
    expect(page.locator(".live-state")).to_have_text("Following")
    rows = page.get_by_role("log").locator("li")
    items = [each["item_id"] for each in httpx.get(f"{address}/v1/users/{user}/recommendations?k=5").json()["items"]]
    for seen, item in enumerate(items[:3]):
        httpx.post(f"{address}/v1/events", json={"events": [{"user_id": "visitor", "item_id": item}]}).raise_for_status()
        expect(rows).to_have_count(2 * seen + 2)
        httpx.get(f"{address}/v1/users/visitor/recommendations?k=5").raise_for_status()
        expect(rows).to_have_count(2 * seen + 3)


if __name__ == "__main__":
    with sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for path in take(browser, sys.argv[1], sys.argv[2], Path(sys.argv[3])):
            print(path, path.stat().st_size)  # noqa: T201 - a script
        browser.close()
