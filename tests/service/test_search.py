"""Search for users and items; titles of stored events."""

from starlette.testclient import TestClient

from service_world import send


def users(client: TestClient, **parameters: object) -> list[str]:
    answer = client.get("/v1/users", params=parameters)
    assert answer.status_code == 200, answer.text
    return [user["user_id"] for user in answer.json()["users"]]


def items(client: TestClient, **parameters: object) -> list[str]:
    answer = client.get("/v1/items", params=parameters)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_users_are_those_of_the_last_events_or_with_a_prefix(client: TestClient):
    assert users(client) == []
    for user in ("ann", "bob", "an%", "an_x"):
        send(client, user, "i3")
    assert users(client) == ["an_x", "an%", "bob", "ann"]
    assert users(client, limit=2) == ["an_x", "an%"]
    assert sorted(users(client, prefix="an")) == ["an%", "an_x", "ann"]
    assert users(client, prefix="an%") == ["an%"]  # not a pattern
    assert users(client, prefix="an_") == ["an_x"]
    assert users(client, prefix="zoe") == []
    for bad in ({"prefix": "\x00"}, {"limit": 0}, {"limit": 101}, {"prefix": "x" * 513}):
        assert client.get("/v1/users", params=bad).status_code == 422


def test_items_by_title_and_by_id(client: TestClient):
    assert items(client, query="i1")[0] == "i1"  # an equal id comes first
    assert set(items(client, query="i1")) == {"i1", "i10", "i11"}
    assert items(client, query="ITEM 7") == ["i7"]
    assert items(client, query="em 7") == ["i7"]
    assert len(items(client, query="item", limit=5)) == 5
    counts = client.get("/v1/items", params={"query": "Item", "limit": 100}).json()["items"]
    assert [each["training_interactions"] for each in counts] == sorted(
        (each["training_interactions"] for each in counts), reverse=True
    )
    assert items(client, query="nothing") == []
    assert client.get("/v1/items", params={"query": "\x00"}).status_code == 422


def test_events_have_titles_of_the_store_or_the_catalog(client: TestClient):
    client.put("/v1/items/i4", json={"title": "Stored"})
    client.put("/v1/items/other", json={"title": "Not in the catalog"})
    send(client, "u", "i3", "i4", "other", "nobody")
    events = client.get("/v1/users/u/events").json()["events"]
    assert [event["title"] for event in events] == ["Item 3", "Stored", "Not in the catalog", None]
