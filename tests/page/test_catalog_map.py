"""The views of the catalog and of the map, by mouse and by keyboard, against the API."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from page_checks import list_of, region, settled, tab_to
from page_world import ITEMS, Site

PICTURE = "canvas => canvas.toDataURL()"

pytestmark = pytest.mark.thorough


def test_catalog_by_mouse(page: Page, site: Site):
    page.goto("/")
    page.get_by_role("link", name="Catalog", exact=True).click()
    catalog = site.ask("GET", "/v1/catalog")
    expect(region(page, "Coverage").get_by_role("row", name="Gini index")).to_contain_text(
        f"{catalog['recommended']['gini']:.3f}"
    )
    groups = region(page, "Popularity bias").locator("li")
    expect(groups).to_have_count(len(catalog["groups"]))
    for group, row in zip(catalog["groups"], groups.all(), strict=True):
        expect(row).to_contain_text(f"{group['name']} {group['items']} item")
        expect(row).to_contain_text(f"{round(100 * group['recommended'], 1):g}%")
    expect(region(page, "Lorenz curve").locator("path.line")).to_have_count(2)
    items = region(page, "Items")
    expect(items.locator(".title")).to_have_text([each["title"] or each["item_id"] for each in catalog["more"]])
    items.get_by_role("button", name="Neglected").click()
    expect(items.locator(".title")).to_have_text([each["title"] or each["item_id"] for each in catalog["less"]])
    items.locator("a").first.click()
    expect(page).to_have_url(re.compile(rf"#/items/{catalog['less'][0]['item_id']}$"))


def test_catalog_by_keyboard_to_the_audience_of_an_item(page: Page, site: Site):
    page.goto("/#/catalog")
    settled(page)
    tab_to(page, page.get_by_role("button", name="Long tail"))
    page.keyboard.press("Enter")
    tab_to(page, region(page, "Items").locator("a").first)
    page.keyboard.press("Enter")
    item = site.ask("GET", "/v1/catalog")["tail"][0]["item_id"]
    expect(page).to_have_url(re.compile(rf"#/items/{item}$"))
    audience = site.ask("GET", f"/v1/items/{item}/audience")
    assert audience["reached"] > 0
    expect(list_of(page, "Who gets it")).to_have_text([each["user_id"] for each in audience["users"]])
    tab_to(page, region(page, "Who gets it").locator("a").first)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="The events that carry it")).to_be_visible()


def canvas_of(page: Page) -> Locator:
    canvas = page.locator("canvas")
    expect(canvas).to_be_visible()
    # A function: the policy of the page would refuse the second evaluation of an expression.
    page.wait_for_function("() => document.querySelector('canvas').width > 300")
    return canvas


def test_map_by_mouse(page: Page, site: Site):
    page.goto("/#/map")
    canvas = canvas_of(page)
    expect(region(page, "Most frequent in view").locator("p[role=status]")).to_have_text(f"{ITEMS} of {ITEMS} items in view")
    page.get_by_role("combobox", name="Find an item on the map").fill("number 20")
    page.get_by_role("option", name="Item number 20").click()
    similar = site.ask("GET", "/v1/items/i20/similar?k=12")["items"]
    chosen = region(page, "Item number 20")
    expect(chosen.locator("ol .title")).to_have_text([each["title"] or each["item_id"] for each in similar])
    expect(region(page, "Most frequent in view").locator("p[role=status]")).not_to_contain_text(f"{ITEMS} of")
    page.get_by_role("button", name="Clear the choice").click()
    page.get_by_role("button", name="Whole map").click()
    expect(region(page, "Most frequent in view").locator("p[role=status]")).to_have_text(f"{ITEMS} of {ITEMS} items in view")
    points, box = site.ask("GET", "/v1/map"), canvas.bounding_box()
    scale = min(box["width"], box["height"]) - 24
    x = box["x"] + box["width"] / 2 + (points["x"][20] / points["size"] - 0.5) * scale
    y = box["y"] + box["height"] / 2 + (0.5 - points["y"][20] / points["size"]) * scale
    page.mouse.move(x, y)
    expect(page.locator(".map-label")).to_contain_text("Item number 20")
    page.mouse.click(x, y)
    expect(chosen).to_be_visible()
    chosen.get_by_role("link", name="Open the item").click()
    page.get_by_role("link", name="Show on the map").click()
    expect(region(page, "Item number 20")).to_be_visible()


def test_map_drag_and_wheel_move_the_points(page: Page):
    page.goto("/#/map")
    canvas = canvas_of(page)
    settled(page)
    first, box = canvas.evaluate(PICTURE), canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -600)
    expect(region(page, "Most frequent in view").locator("p[role=status]")).not_to_contain_text(f"{ITEMS} of")
    zoomed = canvas.evaluate(PICTURE)
    page.mouse.down()
    page.mouse.move(middle[0] + 80, middle[1] + 30, steps=4)
    page.mouse.up()
    page.wait_for_timeout(100)
    assert len({first, zoomed, canvas.evaluate(PICTURE)}) == 3


def test_map_by_keyboard(page: Page):
    page.goto("/#/map")
    canvas = canvas_of(page)
    status = region(page, "Most frequent in view").locator("p[role=status]")
    expect(status).to_have_text(f"{ITEMS} of {ITEMS} items in view")
    tab_to(page, canvas)
    for key in ("+", "+", "+", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    expect(status).not_to_have_text(f"{ITEMS} of {ITEMS} items in view")
    page.keyboard.press("0")
    expect(status).to_have_text(f"{ITEMS} of {ITEMS} items in view")
    choice = region(page, "Most frequent in view").locator("button").nth(1)
    name = choice.locator(".title").inner_text()
    tab_to(page, choice)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
