"""The report of a model in a browser: no violation in either theme, and nothing wider than a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

import worlds
from page_checks import axe
from page_world import ITEMS, REPORT, Watch, open_page
from ssd4rec.reports.examples import examine
from ssd4rec.reports.model import write_model_report
from ssd4rec.serving.recommender import Recommender

pytestmark = pytest.mark.thorough


def test_a_report_in_both_themes_and_on_a_phone(browser: Browser, recommender: Recommender, tmp_path: Path):
    protocol = {"split": "leave-last-out", "candidates": f"{ITEMS} items", "exclude_seen": False, "targets": 20}
    training = {**REPORT["training"], "best_epoch": 3, "stopped": "max_epochs", "seconds": 3.0}
    groups = {"by_length": [{"name": "1-4 events", "targets": 20, "hit_rate": 0.2, "ndcg": 0.1}]}
    report = {**REPORT, "protocol": protocol, "training": training, "test_groups": groups, "notes": ["a note"]}
    histories = worlds.world(worlds.cycle(20, ITEMS)).histories
    write_model_report(tmp_path / "report.html", report, recommender.artifact.config, examine(recommender, histories))
    for scheme, width in (("light", 1280), ("dark", 390)):
        watch = Watch()
        page = open_page(browser, watch, color_scheme=scheme, viewport={"width": width, "height": 800})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert axe(page) == []
        assert watch.requests == [(tmp_path / "report.html").as_uri()]
        assert watch.problems == []
        page.close()
