"""The views of the models and of live traffic, by mouse and by keyboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from page_checks import axe, region, settled, tab_to
from page_world import Site, Watch, copy_model, open_page

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def versions(measured_model: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service with two versions, of which the second one answers."""
    folder = tmp_path_factory.mktemp("versions")
    copy_model(measured_model, folder / "v1")
    copy_model(models, folder / "v2")
    site = Site(folder, f"sqlite:///{folder / 'events.db'}").start()
    yield site
    site.stop()


@pytest.fixture
def admin(browser: Browser, versions: Site) -> Iterator[Page]:
    watch = Watch()
    page = open_page(browser, watch, base_url=versions.address)
    yield page
    page.close()
    assert watch.problems == []


def test_a_version_is_activated_by_mouse_after_a_question(admin: Page, versions: Site):
    versions.ask("POST", "/v1/models/v2/activate")
    admin.goto("/")
    admin.get_by_role("link", name="Models", exact=True).click()
    expect(admin.locator(".version.active")).to_contain_text("v2")
    metrics = region(admin, "Held-out metrics")
    expect(metrics).to_contain_text("0.1200 (0.1000 to 0.1400)")
    expect(metrics).to_contain_text("4.0 times the most popular items")
    expect(region(admin, "Training history").locator("path.line")).to_have_count(1)
    admin.get_by_role("button", name="Activate").click()
    dialog = admin.get_by_role("dialog", name="Activate v1?")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    assert [each["version"] for each in versions.ask("GET", "/v1/models")["models"] if each["active"]] == ["v2"]
    admin.get_by_role("button", name="Activate").click()
    dialog.get_by_role("button", name="Activate").click()
    expect(admin.locator(".version.active")).to_contain_text("v1")
    expect(admin.locator("footer")).to_contain_text("Model v1")
    assert [each["version"] for each in versions.ask("GET", "/v1/models")["models"] if each["active"]] == ["v1"]


def test_a_version_is_activated_by_keyboard(admin: Page, versions: Site):
    versions.ask("POST", "/v1/models/v2/activate")
    admin.goto("/#/models")
    settled(admin)
    tab_to(admin, admin.get_by_role("button", name="Activate"))
    admin.keyboard.press("Enter")
    dialog = admin.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert axe(admin) == []
    admin.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    admin.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    tab_to(admin, dialog.get_by_role("button", name="Activate"))
    admin.keyboard.press("Enter")
    expect(admin.locator(".version.active")).to_contain_text("v1")


def test_a_version_that_the_gate_refuses_can_be_forced(admin: Page, versions: Site):
    versions.ask("POST", "/v1/models/v2/activate")
    problem = {
        "status": 409,
        "code": "gate_failed",
        "detail": "'v1' did not pass the gate: held-out NDCG@10",
        "title": "Conflict",
    }
    admin.route("**/v1/models/v1/activate", lambda route: route.fulfill(status=409, json=problem))
    admin.goto("/#/models")
    admin.get_by_role("button", name="Activate").click()
    dialog = admin.get_by_role("dialog")
    dialog.get_by_role("button", name="Activate").click()
    expect(dialog.get_by_role("alert")).to_contain_text("did not pass the gate")
    dialog.get_by_role("button", name="Activate all the same").click()
    expect(admin.locator(".version.active")).to_contain_text("v1")


LIVE = {"events": 40, "ranked_events": 38, "ndcg": 0.25, "hit_rate": 0.5, "unknown_share": 0.05, "popular_share": 0.0}
PAIRED = {"ranked_events": 38, "difference": 0.031, "interval": [0.004, 0.058], "p_value": 0.024}
ARM = {"arm": "treatment", "answers": 20, "users": 9, "clicked": 3, "followed": 16, "hits": 4, "hit_rate_interval": [0.1, 0.5]}
EXPERIMENT = {
    "name": "wider", "kind": "ab", "control": "v2", "treatment": "v1", "share": 0.5, "started": 1767200000, "ended": None,
    "arms": [ARM], "click_through_difference": [-0.1, 0.2], "interleaving": None, "prequential": PAIRED,
}  # fmt: skip


def test_live_metrics_and_experiments_are_shown_where_the_service_has_them(admin: Page):
    """With the answers of a service that measures live traffic."""

    def models(route: Route) -> None:
        answer = route.fetch().json()
        answer["models"][0] |= {"live": LIVE, "loaded": True, "checks": [{"name": "scores", "passed": True, "detail": "finite"}]}
        route.fulfill(json=answer)

    points = [{"at": 1767200000 + 300 * step, "ndcg": 0.2 + 0.01 * step} for step in range(3)]
    admin.route("**/v1/models", models)
    admin.route("**/v1/models/*/live?hours=24", lambda route: route.fulfill(json={"points": points}))
    admin.route("**/v1/experiments", lambda route: route.fulfill(json={"experiments": [EXPERIMENT]}))
    admin.goto("/#/models")
    expect(region(admin, "Live NDCG@10").locator("path.line").first).to_be_visible()
    expect(admin.locator(".version").first).to_contain_text("0.2500 of 38 events")
    expect(admin.locator(".checks").first).to_contain_text("passed scores: finite")
    experiments = region(admin, "Experiments")
    expect(experiments).to_contain_text("+0.031 (+0.004 to +0.058) over 38 events, p = 0.024")
    expect(experiments).to_contain_text("20 answers to 9 users; the next event was a hit in 25% (10% to 50%) of 16")
    assert axe(admin) == []


def test_an_experiment_of_the_service_is_shown(admin: Page, versions: Site):
    versions.ask("POST", "/v1/models/v2/activate")
    versions.ask("POST", "/v1/experiments", json={"name": "page", "kind": "shadow", "treatment": "v1"})
    admin.goto("/#/models")
    expect(region(admin, "Experiments")).to_contain_text("shadow: v1 against v2")
    versions.ask("POST", "/v1/experiments/page/end")
    admin.reload()
    expect(region(admin, "Experiments").locator(".badge")).to_contain_text("ended")


def send(site: Site, *items: str) -> None:
    site.ask("POST", "/v1/events", json={"events": [{"user_id": "zoë", "item_id": item} for item in items]})


def test_live_by_mouse(page: Page, site: Site):
    page.goto("/")
    page.get_by_role("link", name="Live", exact=True).click()
    state = page.locator(".live-state")
    expect(state).to_have_text("Following")
    send(site, "i20", "i21")
    rows = page.get_by_role("log").locator("li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("Item number 21")
    site.ask("GET", "/v1/users/zoë/recommendations?k=3")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("was recommended")
    page.get_by_role("button", name="Events", exact=True).click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Pause").click()
    send(site, "i22")
    expect(state).to_have_text("Paused, 1 new message")
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Continue").click()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Nothing has happened yet")).to_be_visible()


def test_live_by_keyboard_and_after_a_restart(page: Page, site: Site):
    page.goto("/#/live")
    state = page.locator(".live-state")
    expect(state).to_have_text("Following")
    site.stop()
    expect(page.get_by_text("The service does not answer", exact=True)).to_be_visible()
    site.start()
    expect(state).to_have_text("Following")
    send(site, "i30")
    row = page.get_by_role("log").locator("li").first
    expect(row).to_contain_text("Item number 30")
    assert axe(page) == []
    tab_to(page, page.get_by_role("button", name="Pause"))
    page.keyboard.press("Enter")
    expect(state).to_have_text("Paused, 0 new messages")
    tab_to(page, row.get_by_role("link", name="Item number 30"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Item number 30")


def test_the_list_is_bounded(page: Page, site: Site):
    page.goto("/#/live")
    expect(page.locator(".live-state")).to_have_text("Following")
    events = [{"user_id": "busy", "item_id": f"i{number % 60}"} for number in range(190)]
    for _ in range(2):
        site.ask("POST", "/v1/events", json={"events": events})
        page.wait_for_timeout(1200)
    expect(page.get_by_role("log").locator("li")).to_have_count(200)
