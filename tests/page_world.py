"""A service with the page on loopback, a model for it, and pages that write down what the browser does."""

import asyncio
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import uvicorn
from playwright.sync_api import Browser, Page

import service_world
import worlds
from packed import randomized
from ssd4rec.artifact import Artifact, save_artifact
from ssd4rec.config import SSD4RecConfig
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.split import training_counts
from ssd4rec.models.next_item import make_model
from ssd4rec.service.app import create_app

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ITEMS = 60
HISTORY = ["i3", "i4", "i5", "i9", "i1", "i11", "i2", "i20", "i7"]
LONG_USER = "پیدایش/a?b#c%41 <b>&" + "x" * 200
TITLES = {
    1: "<img src=x onerror=alert(1)>",
    2: "مكتبة بابل",
    3: "Eine unendlich lange Überschrift " + "ohneLeerzeichen" * 30,
    4: "千と千尋の神隠し",
    5: "Item \u202e reversed",
    6: None,
}


REPORT = {
    "test": {"ndcg@10": 0.12, "hr@10": 0.21},
    "intervals": {"model": {"ndcg@10": [0.1, 0.14], "hr@10": [0.18, 0.24]}},
    "popularity": {"test": {"ndcg@10": 0.03, "hr@10": 0.07}},
    "training": {"history": [{"epoch": epoch, "loss": 1.0, "ndcg": 0.04 * epoch, "seconds": 1.0} for epoch in (1, 2, 3)]},
}


def save_world(folder: Path, report: dict[str, object] | None = None, **backbone: object) -> None:
    """Write an untrained model in which every event matters, with titles of many scripts."""
    world = worlds.world(worlds.cycle(120, ITEMS))
    settings = SSD4RecConfig(width=16, state_dim=8, head_width=8, dropout=0.0, layers=1, backward_weight=0.7, **backbone)
    config = worlds.config().model_copy(update={"backbone": settings})
    model = randomized(make_model(config, ITEMS)).eval()
    titles = [TITLES.get(index, f"Item number {index}") for index in range(ITEMS)]
    catalog = Catalog(pl.Series("id", [f"i{index}" for index in range(ITEMS)]), pl.Series("title", titles))
    counts = training_counts(world.histories, world.split.train, ITEMS)
    artifact = Artifact(model, catalog, config, {}, counts)
    save_artifact(folder, artifact.model, catalog, artifact.config, report or {}, artifact.training_counts, artifact.fusion)


def save_large_world(folder: Path, items: int) -> None:
    """Write an untrained model of many items, for measuring."""
    config = worlds.config().model_copy(update={"backbone": SSD4RecConfig(dropout=0.0)})
    model = make_model(config, items).eval()
    names = [f"Item number {index}" for index in range(items)]
    catalog = Catalog(pl.Series("id", [f"i{index}" for index in range(items)]), pl.Series("title", names))
    counts = np.concatenate([[0], np.random.default_rng(0).zipf(1.4, items).clip(0, 100_000)])
    save_artifact(folder, model, catalog, config, {}, counts, None)


class Site:
    """A service that can be stopped and started again on the same port."""

    def __init__(self, models: Path, store: str, **settings: object) -> None:
        self.port = service_world.free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._settings = service_world.settings(models, store, page=True, **settings)

    def start(self) -> "Site":
        """Serve until `stop`."""
        self._app = create_app(self._settings)
        config = uvicorn.Config(self._app, port=self.port, log_level="warning", ws="none", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Stop as on SIGTERM, whose handler this thread has not."""
        self._app.state.service.feed.close()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(self, method: str, path: str, **arguments: object) -> dict[str, object]:
        """Ask the API without the page."""
        answer = httpx.request(method, self.address + path, timeout=30, **arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()


@dataclass
class Watch:
    """The requests and errors of a browser."""

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def open_page(browser: Browser, watch: Watch, **options: object) -> Page:
    """Return an empty page that writes down its requests, its errors, and messages about its security policy."""
    page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
    page.set_default_timeout(20_000)
    page.on("request", lambda request: watch.requests.append(request.url))
    page.on("pageerror", lambda error: watch.problems.append(str(error)))
    page.on("dialog", lambda dialog: watch.problems.append(dialog.message))
    page.on("console", lambda message: _note(watch, message.type, message.text))
    return page


def _note(watch: Watch, kind: str, text: str) -> None:
    if kind in {"error", "warning"} and not text.startswith("Failed to load resource"):  # a status that the page shows
        watch.problems.append(text)


def copy_model(source: Path, target: Path) -> None:
    """Let a model appear in a folder, complete or not at all."""
    shutil.copytree(source, target.with_suffix(".copy"))
    target.with_suffix(".copy").rename(target)
