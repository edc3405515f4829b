"""Take the pictures of the page that the documentation shows: python tests/page_screenshots.py ADDRESS USER FOLDER."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

SIZE = {"width": 1280, "height": 800}


def take(browser: Browser, address: str, user: str, folder: Path) -> Path:
    """Write page-user.png: a user whose first recommendation is explained."""
    page = browser.new_page(viewport=SIZE, base_url=address, color_scheme="light", reduced_motion="reduce")
    page.goto(f"/#/users/{user}")
    page.get_by_role("region", name="Next items").locator("ol a").first.click()
    expect(page.locator(".timeline .bar").first).to_be_visible()
    expect(page.locator(".parts")).to_be_visible()
    expect(page.locator(".removal, .why .hint").first).to_be_visible(timeout=60_000)
    page.mouse.move(0, 0)
    path = folder / "page-user.png"
    page.screenshot(path=path)
    page.close()
    return path


if __name__ == "__main__":
    with sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        take(browser, sys.argv[1], sys.argv[2], Path(sys.argv[3]))
        browser.close()
