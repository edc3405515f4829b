"""Fixtures of the page: a service on loopback, and a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from page_world import ARGUMENTS, HISTORY, LONG_USER, REPORT, Site, Watch, open_page, save_world
from ssd4rec.serving.recommender import Recommender


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one model."""
    folder = tmp_path_factory.mktemp("page") / "first"
    save_world(folder)
    return folder


@pytest.fixture(scope="session")
def measured_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same model with the report of a training."""
    folder = tmp_path_factory.mktemp("measured") / "first"
    save_world(folder, REPORT)
    return folder


@pytest.fixture(scope="session")
def recommender(models: Path) -> Recommender:
    """The library's recommender of the same folder: what the page must show."""
    return Recommender.load(models)


@pytest.fixture(scope="module")
def site(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service with two users."""
    site = Site(models, f"sqlite:///{tmp_path_factory.mktemp('page-store') / 'events.db'}").start()
    events = [{"user_id": user, "item_id": item} for user in ("ann", LONG_USER) for item in HISTORY]
    site.ask("POST", "/v1/events", json={"events": events})
    yield site
    site.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; required in CI, elsewhere its tests are skipped where it is missing."""
    executable = shutil.which("chromium")
    if executable is None:
        message = "Chromium is missing; apt-get install chromium"
        if os.environ.get("SSD4REC_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    expect.set_options(timeout=20_000)  # a busy machine is not a wrong answer
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of 1,280 pixels. In the end no request left the service, and nothing was refused or thrown."""
    watch = Watch()
    page = open_page(browser, watch, base_url=site.address)
    yield page
    page.close()
    assert [url for url in watch.requests if not url.startswith(site.address + "/")] == []
    assert watch.problems == []
