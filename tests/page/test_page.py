"""The page in a browser: every view by mouse and by keyboard, against the answers of the library and of the API."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import page_screenshots
from page_checks import axe, list_of, region, settled, tab_to
from page_world import HISTORY, LONG_USER, Site, Watch, copy_model, open_page, save_world
from ssd4rec.service import recommending
from ssd4rec.service.routes import explanations
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.keys import create_key
from ssd4rec.serving.recommender import Recommender

pytestmark = pytest.mark.thorough

USER, WHAT_IF, ITEM = "/#/users/ann", "/#/what-if/ann", "/#/items/i20"
VIEWS = [
    "/#/",
    USER,
    f"{USER}/items/{{top}}",
    f"/#/users/{quote(LONG_USER, safe='')}",
    WHAT_IF,
    "/#/what-if",
    ITEM,
    "/#/users/nobody",
    "/#/catalog",
    "/#/map",
    "/#/map?item=i20",
    "/#/models",
    "/#/live",
]


def titles(recommender: Recommender, history: list[str], k: int, deny: list[str] | None = None) -> list[str]:
    """The recommendations of the library, as the page names them."""
    return [each.title or str(each.item) for each in recommender.recommend(history, k, deny=deny).items]


def top(recommender: Recommender) -> str:
    return str(recommender.recommend(HISTORY, 1).items[0].item)


def test_user_view_by_mouse(page: Page, site: Site, recommender: Recommender):
    page.goto("/")
    page.get_by_role("link", name="ann").click()
    expect(list_of(page, "Next items")).to_have_text(titles(recommender, HISTORY, 20))
    expect(region(page, "Timeline").locator("li")).to_have_count(len(HISTORY))
    list_of(page, "Next items").first.click()
    expect(page).to_have_url(re.compile(rf"#/users/ann/items/{top(recommender)}$"))
    check_effects(page, site, top(recommender))


def check_effects(page: Page, site: Site, item: str) -> None:
    """The bars, the texts and the parts are those of POST /v1/explanations."""
    body = {"user_id": "ann", "item_id": item}
    explanation = site.ask("POST", "/v1/explanations", json=body)["explanation"]
    events = region(page, "The events that carry it")
    expect(events.locator(".timeline li")).to_have_count(len(HISTORY))
    order = [int(each.get_attribute("data-position") or -1) for each in events.locator(".timeline li").all()]
    effects = {each["position"]: each for each in explanation["events"]}
    assert order == sorted(effects, key=lambda position: -abs(effects[position]["score_change"]))
    largest = max(abs(each["score_change"]) for each in effects.values())
    for position in order:
        row, effect = events.locator(f"li[data-position='{position}']"), effects[position]
        change, rank = effect["score_change"], explanation["rank"]
        expect(row).to_contain_text("carries it" if change < 0 else "works against it")
        sign = "\u2212" if change < 0 else "+"
        expect(row).to_contain_text(f"{sign}{abs(change):.3f}")
        moved = f"rank {rank} → {rank + effect['rank_change']}" if effect["rank_change"] else f"stays at rank {rank}"
        expect(row).to_contain_text(moved)
        width = float(row.locator("svg .value").get_attribute("width") or -1)
        assert width == pytest.approx(50 * abs(change) / largest, abs=1e-3)
    parts = site.ask("POST", "/v1/explanations", json=body | {"level": "parts"})["explanation"]
    expect(events.locator(".parts dd").first).to_have_text(f"{parts['score']:.3f}")
    events.get_by_role("button", name="Newest first").click()
    expect(events.locator(".timeline li").first).to_have_attribute("data-position", str(len(HISTORY) - 1))


def test_user_view_by_keyboard(page: Page, site: Site, recommender: Recommender):
    page.goto("/")
    settled(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.goto("/#/what-if")
    settled(page)
    tab_to(page, page.get_by_role("combobox", name="Search users and items"))
    page.keyboard.type("an")
    expect(page.get_by_role("option", name="ann")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(list_of(page, "Next items")).to_have_text(titles(recommender, HISTORY, 20))
    tab_to(page, region(page, "Next items").locator("a").first)
    page.keyboard.press("Enter")
    check_effects(page, site, top(recommender))


def test_a_cause_is_removed_and_the_item_leaves_the_list(page: Page, site: Site, recommender: Recommender):
    item = top(recommender)
    body = {"user_id": "ann", "item_id": item, "level": "counterfactual"}
    explanation = site.ask("POST", "/v1/explanations", json=body)["explanation"]
    assert explanation["success"]
    positions = [each["position"] for each in explanation["removed"]]
    page.goto(f"{USER}/items/{item}")
    page.get_by_role("link", name=re.compile("Remove (it|them) in What if")).click()
    expect(page).to_have_url(re.compile(rf"#/what-if/ann\?without={','.join(map(str, positions))}$"))
    edited = [each for position, each in enumerate(HISTORY) if position not in positions]
    removed = [HISTORY[position] for position in positions]
    expected = titles(recommender, edited, 10, removed)
    expect(list_of(page, "After")).to_have_text(expected)
    assert titles(recommender, HISTORY, 1)[0] not in expected


def rows(page: Page) -> Locator:
    return region(page, "History").locator(".timeline > li")


def test_what_if_by_mouse(page: Page, recommender: Recommender):
    page.goto(WHAT_IF)
    before = titles(recommender, HISTORY, 10)
    expect(list_of(page, "Before")).to_have_text(before)
    expect(list_of(page, "After")).to_have_text(before)
    rows(page).nth(0).get_by_role("button", name="Remove").click()
    expect(list_of(page, "After")).to_have_text(titles(recommender, HISTORY[:-1], 10, HISTORY[-1:]))
    page.get_by_label("Do not recommend the removed items themselves").uncheck()
    expect(list_of(page, "After")).to_have_text(titles(recommender, HISTORY[:-1], 10))
    page.get_by_role("combobox", name="Insert an item").fill("number 30")
    page.get_by_role("option", name="Item number 30").click()
    edited = [*HISTORY[:-1], "i30"]
    expect(list_of(page, "After")).to_have_text(titles(recommender, edited, 10))
    rows(page).nth(0).get_by_role("button", name="Move earlier").click()  # past the removed one, which is not read
    rows(page).nth(1).get_by_role("button", name="Move earlier").click()
    edited[-2:] = edited[:-3:-1]
    expect(list_of(page, "After")).to_have_text(titles(recommender, edited, 10))
    check_moves(page, before, titles(recommender, edited, 10))
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(list_of(page, "After")).to_have_text(titles(recommender, [*HISTORY[:-1], "i30"], 10))
    page.get_by_role("button", name="Reset").click()
    expect(list_of(page, "After")).to_have_text(before)
    region(page, "Before").get_by_role("button", name="Find events to remove").first.click()
    expect(region(page, "Before").locator("li.gone .title").first).to_have_text(before[0])


def check_moves(page: Page, before: list[str], after: list[str]) -> None:
    """Each item of the list says how far it moved."""
    for place, title in enumerate(after):
        change = before.index(title) - place if title in before else None
        text = "new" if change is None else "same place" if change == 0 else f"{abs(change)} {'up' if change > 0 else 'down'}"
        expect(region(page, "After").locator("ol > li").nth(place)).to_contain_text(text)


def test_what_if_by_keyboard(page: Page, recommender: Recommender):
    page.goto("/#/what-if")
    expect(page.get_by_text("An empty history")).to_be_visible()
    tab_to(page, page.get_by_role("combobox", name="Insert an item"))
    for item in ("i20", "i7"):
        page.keyboard.type(item)
        expect(page.get_by_role("option").first).to_contain_text(item)
        page.keyboard.press("Enter")
        expect(rows(page).first).to_contain_text(item[1:])
    expect(list_of(page, "After")).to_have_text(titles(recommender, ["i20", "i7"], 10))
    tab_to(page, rows(page).nth(1).get_by_role("button", name="Move later"))
    page.keyboard.press("Enter")
    expect(list_of(page, "After")).to_have_text(titles(recommender, ["i7", "i20"], 10))
    expect(page.locator("main [role=status]").first).to_contain_text("is now event 2 of 2")
    expect(rows(page).nth(0).get_by_role("button", name="Move earlier")).to_be_visible()
    expect(page.locator(":focus")).to_have_accessible_name("Move earlier: Item number 20")
    tab_to(page, rows(page).nth(1).get_by_role("button", name="Remove"))
    page.keyboard.press("Enter")
    expect(list_of(page, "After")).to_have_text(titles(recommender, ["i20"], 10))
    expect(page.locator(":focus")).to_have_accessible_name("Remove: Item number 20")


def test_item_view_by_mouse(page: Page, site: Site):
    page.goto("/")
    page.get_by_role("combobox", name="Search users and items").fill("number 20")
    page.get_by_role("option", name="Item number 20").click()
    similar = site.ask("GET", "/v1/items/i20/similar?k=12")["items"]
    expect(list_of(page, "Neighbors")).to_have_text([each["title"] or each["item_id"] for each in similar])
    page.get_by_text("Edit", exact=True).click()
    page.get_by_label("Categories").fill("drama, 喜劇")
    page.get_by_label("Hidden").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    expect(region(page, "Metadata")).to_contain_text("no, hidden")
    item = site.ask("GET", "/v1/items/i20")
    assert (item["hidden"], item["categories"], item["title"]) == (True, ["drama", "喜劇"], "Item number 20")
    site.ask("PUT", "/v1/items/i20", json={})
    list_of(page, "Neighbors").first.click()
    expect(page).to_have_url(re.compile(rf"#/items/{similar[0]['item_id']}$"))


def test_item_view_by_keyboard(page: Page, site: Site):
    page.goto(ITEM)
    settled(page)
    tab_to(page, page.locator("summary"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("Title"))
    page.keyboard.press("Control+A")
    page.keyboard.type("Another title")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Another title")
    assert site.ask("GET", "/v1/items/i20")["title"] == "Another title"
    site.ask("PUT", "/v1/items/i20", json={})


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_violation_in_either_theme(page: Page, recommender: Recommender, view: str):
    page.emulate_media(reduced_motion="reduce")
    page.goto(view.format(top=top(recommender)))
    settled(page)
    for theme in ("light", "dark"):
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        assert axe(page) == [], theme
        page.get_by_role("button", name=re.compile("Use (dark|light) colors")).click()


def test_narrow_pages_have_no_horizontal_scrolling(browser: Browser, site: Site, recommender: Recommender):
    watch = Watch()
    page = open_page(browser, watch, base_url=site.address, viewport={"width": 390, "height": 844})
    for view in VIEWS:
        page.goto(view.format(top=top(recommender)))
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        if "/items/" in view and "/users/" in view:  # the reasons are under the list, and were scrolled to
            expect(page.get_by_role("heading", name="The events that carry it")).to_be_in_viewport()
    page.close()
    assert watch.problems == []


def test_titles_and_ids_are_text(page: Page):
    page.goto(f"/#/users/{quote(LONG_USER, safe='')}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(LONG_USER)
    expect(region(page, "Timeline")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("main img").count() == 0
    assert region(page, "Timeline").locator("bdi.title").count() == len(HISTORY)


def test_the_theme_follows_the_system_and_the_choice_is_remembered(browser: Browser, site: Site):
    page = open_page(browser, Watch(), base_url=site.address, color_scheme="dark")
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Use light colors").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.close()


@pytest.mark.slow
def test_the_pictures_of_the_documentation_can_be_taken(browser: Browser, site: Site, tmp_path: Path):
    assert all(path.stat().st_size > 10_000 for path in page_screenshots.take(browser, site.address, "ann", tmp_path))


def test_addresses_without_data(page: Page):
    page.goto("/#/users/nobody")
    expect(page.get_by_text("This user has no events")).to_be_visible()
    page.goto("/#/items/nothing")
    expect(page.get_by_text("This item is unknown")).to_be_visible()
    page.goto("/#/no/such/view")
    expect(page.get_by_text("This address has no view")).to_be_visible()


def test_the_page_recovers_when_the_server_restarts(page: Page, site: Site, recommender: Recommender):
    page.goto(USER)
    expect(list_of(page, "Next items")).to_have_count(20)
    site.stop()
    page.get_by_role("link", name="What if", exact=True).click()
    expect(page.get_by_text("The service does not answer", exact=True)).to_be_visible()
    site.start()
    expect(page.get_by_text("The service does not answer", exact=True)).to_have_count(0)
    expect(list_of(page, "After")).to_have_text(titles(recommender, [], 10))


def test_no_model_yet_and_then_one(browser: Browser, tmp_path: Path, models: Path):
    folder = tmp_path / "models"
    folder.mkdir()
    site = Site(folder, f"sqlite:///{tmp_path / 'events.db'}").start()
    try:
        page = open_page(browser, Watch(), base_url=site.address)
        page.goto("/")
        expect(page.get_by_role("heading", name="No model yet")).to_be_visible()
        assert axe(page) == []
        copy_model(models, folder / "first")
        expect(page.get_by_text("No users yet")).to_be_visible(timeout=30_000)
        assert axe(page) == []
        page.close()
    finally:
        site.stop()


def test_a_model_that_reads_the_time_of_a_request(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What belongs to a list is for the time of the list, however late it is asked for."""
    save_world(tmp_path / "timed", request_time=True)
    library, last, clock = Recommender.load(tmp_path / "timed"), 1_715_000_000, [1_715_003_000]
    for module in (recommending, explanations):
        monkeypatch.setattr(module, "now", lambda: clock[0] * 1_000_000)
    site = Site(tmp_path / "timed", f"sqlite:///{tmp_path / 'events.db'}").start()
    try:
        events = [{"user_id": "ann", "item_id": each, "timestamp": last} for each in HISTORY]
        site.ask("POST", "/v1/events", json={"events": events})
        page, at = open_page(browser, Watch(), base_url=site.address), clock[0]
        page.goto(USER)
        expected = library.recommend(HISTORY, 20, at=at, last_event=last).items
        expect(list_of(page, "Next items")).to_have_text([each.title or str(each.item) for each in expected])
        clock[0] += 90 * 86_400 + 7 * 3600
        assert library.recommend(HISTORY, 20, at=clock[0], last_event=last).items != expected
        list_of(page, "Next items").first.click()
        reasons = region(page, "The events that carry it")
        expect(reasons.locator(".badge").first).to_have_text("rank 1")
        expect(reasons.locator(".parts dd").first).to_have_text(f"{expected[0].score:.3f}")
        page.goto(f"{WHAT_IF}?without=0")
        later = {"at": clock[0], "last_event": last}
        for name, history, deny in (("Before", HISTORY, []), ("After", HISTORY[1:], HISTORY[:1])):
            of_library = library.recommend(history, 10, deny=deny, **later).items
            expect(list_of(page, name)).to_have_text([each.title or str(each.item) for each in of_library])
        clock[0] += 90 * 86_400 + 7 * 3600
        page.get_by_role("button", name="Reset").click()
        of_library = library.recommend(HISTORY, 10, **later).items  # still the time of the other list
        expect(list_of(page, "After")).to_have_text([each.title or str(each.item) for each in of_library])
        page.close()
    finally:
        site.stop()


def test_a_key_opens_the_page(browser: Browser, tmp_path: Path, models: Path):
    store = f"sqlite:///{tmp_path / 'events.db'}"
    site = Site(models, store, require_key=True).start()
    try:
        engine = open_engine(store)
        with engine.begin() as connection:
            _, key = create_key(connection, "page", ("read",))
        engine.dispose()
        page = open_page(browser, Watch(), base_url=site.address)
        page.goto("/#/what-if")
        expect(page.get_by_role("heading", name="This service needs a key")).to_be_visible()
        assert axe(page) == []
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert")).to_contain_text("the key is not valid")
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        expect(list_of(page, "After")).to_have_count(10, timeout=30_000)
        page.reload()
        expect(list_of(page, "After")).to_have_count(10)
        assert page.evaluate("document.cookie") == ""
        page.close()
    finally:
        site.stop()
