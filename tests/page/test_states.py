"""States of the page that are easy to overlook: popular items, unknown ones, slow answers, an empty history."""

import re

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from page_checks import region, settled, tab_to
from page_world import HISTORY, Site, Watch, open_page

pytestmark = pytest.mark.thorough


def test_popular_items_have_no_reasons(page: Page, site: Site):
    """Their links open the items, and the numbers are training interactions, not scores."""
    site.ask("POST", "/v1/events", json={"events": [{"user_id": "stranger", "item_id": "not in the catalog"}]})
    page.goto("/#/users/stranger")
    answer = site.ask("POST", "/v1/recommendations", json={"user_id": "stranger", "k": 20})
    assert answer["source"] == "popular"
    first = answer["items"][0]
    items = region(page, "Next items")
    expect(items).to_contain_text("The most popular items, with their training interactions.")
    expect(items.locator("ol > li").first).to_contain_text(f"{first['score']:,.0f} training interactions")
    items.locator("a").first.click()
    expect(page).to_have_url(re.compile(rf"#/items/{first['item_id']}$"))


def test_an_item_of_events_only(page: Page, site: Site):
    """Events may name an item that neither the model nor the metadata know; the page does not deny the events."""
    site.ask("POST", "/v1/events", json={"events": [{"user_id": "stranger", "item_id": "not in the catalog"}]})
    page.goto("/#/users/stranger")
    region(page, "Timeline").get_by_role("link", name="not in the catalog").first.click()
    expect(page.get_by_text("This item is unknown")).to_be_visible()
    expect(page.locator("main")).to_contain_text("a model that is trained on them will know it")


def test_a_user_without_events_has_nothing_to_edit(page: Page):
    page.goto("/#/users/nobody")
    expect(page.get_by_text("such a user gets the most popular items")).to_be_visible()
    expect(page.get_by_role("link", name="Edit this history in What if")).to_have_count(0)


def test_the_page_says_what_takes_its_time(page: Page):
    """While effects and a counterfactual are computed, and not after."""
    waiting: list[Route] = []
    page.route("**/v1/explanations", lambda route: waiting.append(route))  # noqa: PLW0108 - playwright takes no builtin

    def answer_the_next() -> None:
        while not waiting:  # the text is on the page before its request is made
            page.wait_for_timeout(20)
        waiting.pop().continue_()

    page.goto("/#/users/ann")
    region(page, "Next items").locator("a").first.click()
    effects = page.get_by_text(f"Leaving out each of {len(HISTORY)} events, one at a time…")
    expect(effects).to_be_visible()
    answer_the_next()
    search = page.get_by_text("Looking for events without which it leaves the top 10…")
    expect(search).to_be_visible()
    expect(effects).to_have_count(0)
    answer_the_next()
    expect(page.get_by_role("link", name=re.compile("Remove (it|them) in What if"))).to_be_visible()
    expect(search).to_have_count(0)


def test_reasons_are_closed_by_keyboard(page: Page):
    page.goto("/#/users/ann")
    settled(page)
    tab_to(page, region(page, "Next items").locator("a").first)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="The events that carry it")).to_be_visible()
    tab_to(page, page.get_by_role("link", name="Back to the timeline"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    expect(page).to_have_url(re.compile("#/users/ann$"))


def test_on_a_phone_a_choice_leads_to_the_reasons_at_once(browser: Browser, site: Site):
    """They are under the list: without scrolling, nothing seems to happen while they are computed."""
    watch = Watch()
    page = open_page(browser, watch, base_url=site.address, viewport={"width": 390, "height": 844})
    page.route("**/v1/explanations", lambda _: None)
    page.goto("/#/users/ann")
    region(page, "Next items").locator("a").first.click()
    expect(page.get_by_role("heading", name="The events that carry it")).to_be_in_viewport()
    page.close()
    assert watch.problems == []


def test_an_empty_history_has_nothing_to_remove(page: Page, site: Site):
    """No buttons that look for events; an item that was inserted is not called gone."""
    page.goto("/#/what-if")
    before = region(page, "Before")
    expect(before.locator("ol > li")).to_have_count(10)
    expect(before.get_by_role("button")).to_have_count(0)
    popular = site.ask("POST", "/v1/recommendations", json={"history": [], "k": 10})["items"][0]
    page.get_by_role("combobox", name="Insert an item").fill(popular["title"] or popular["item_id"])
    page.get_by_role("option").first.click()
    expect(before.locator("ol > li").first).to_contain_text("in the history")
    expect(before).to_contain_text("finds events to remove so that an item leaves the list")


def test_an_audience_of_nobody_is_said_so(page: Page, site: Site):
    """In a sentence about the users, with the best ranks below."""
    items = [each["item_id"] for each in site.ask("POST", "/v1/recommendations", json={"user_id": "ann", "k": 60})["items"]]
    audiences = {item: site.ask("GET", f"/v1/items/{item}/audience") for item in (items[0], items[-1])}
    for item, audience in audiences.items():
        page.goto(f"/#/items/{item}")
        users = f"the {audience['sampled_users']} users whose events arrived last"
        begin = (
            f"In the first 10 items of {audience['reached']} of" if audience["reached"] else "Not in the first 10 items of any of"
        )
        expect(region(page, "Who gets it")).to_contain_text(f"{begin} {users}")
