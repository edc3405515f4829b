"""Events: idempotent, each checked by itself, stored exactly."""

import time
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from service_world import same_answer, send, stored_history
from ssd4rec.service.ids import MICROSECONDS
from ssd4rec.service.store import append
from ssd4rec.serving.recommender import Recommender


def test_repeats_are_duplicates(client: TestClient) -> None:
    body = {"events": [{"event_id": f"e{n}", "user_id": f"u{n % 3}", "item_id": "i1"} for n in range(10)]}
    assert client.post("/v1/events", json=body).json() == {"accepted": 10, "duplicates": 0, "rejected": []}
    assert client.post("/v1/events", json=body).json() == {"accepted": 0, "duplicates": 10, "rejected": []}
    body["events"].append({"event_id": "e3", "user_id": "another", "item_id": "i1"})
    body["events"].append({"event_id": "new", "user_id": "u1", "item_id": "i2"})
    assert client.post("/v1/events", json=body).json() == {"accepted": 1, "duplicates": 11, "rejected": []}
    assert client.get("/v1/users/u1").json()["events"] == 4


def test_the_same_id_twice_in_one_request(client: TestClient) -> None:
    body = {"events": [{"event_id": "e", "user_id": "u", "item_id": "i1"}] * 3}
    assert client.post("/v1/events", json=body).json() == {"accepted": 1, "duplicates": 2, "rejected": []}
    assert stored_history(client, "u") == ["i1"]


def test_a_bad_event_does_not_cost_the_others(client: TestClient) -> None:
    now = time.time()
    events = [
        {"user_id": "u", "item_id": "i1"},
        {"user_id": "u"},
        {"user_id": "", "item_id": "i1"},
        {"user_id": "u", "item_id": "i1", "timestamp": now * 1000},
        {"user_id": "u", "item_id": "i1", "timestamp": now + 10**6},
        {"user_id": "u", "item_id": "i\x00", "timestamp": now},
        {"user_id": "u", "item_id": "i2", "colour": "red"},
        17,
        {"user_id": "u", "item_id": "i2"},
    ]
    answer = client.post("/v1/events", json={"events": events}).json()
    assert answer["accepted"] == 2
    assert [each["index"] for each in answer["rejected"]] == [1, 2, 3, 4, 5, 6, 7]
    assert "milliseconds" in answer["rejected"][2]["detail"]
    assert answer["rejected"][3]["code"] == "timestamp_in_future"
    assert stored_history(client, "u") == ["i1", "i2"]


def test_atomic_is_all_or_nothing(client: TestClient) -> None:
    events = [{"user_id": "u", "item_id": "i1"}, {"user_id": "u", "item_id": ""}]
    refused = client.post("/v1/events?atomic=true", json={"events": events})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/events/1"
    assert client.get("/v1/users/u").status_code == 404
    assert client.post("/v1/events?atomic=true", json={"events": events[:1]}).json()["accepted"] == 1


def test_events_come_back_as_they_were_sent(client: TestClient) -> None:
    event = {
        "event_id": "e1",
        "user_id": "u",
        "item_id": "i1",
        "type": "purchase",
        "timestamp": 1767200000.25,
        "value": 9.5,
        "recommendation_id": "r1",
        "properties": {"device": {"kind": "phone"}, "tags": ["a", None, True]},
    }
    assert client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
    (stored,) = client.get("/v1/users/u/events").json()["events"]
    assert stored == {name: value for name, value in event.items() if name != "user_id"} | {"title": "Item 1"}


@pytest.mark.parametrize("moment", ["2026-01-31T18:05:00Z", "2026-01-31T19:05:00+01:00", 1769882700])
def test_moments_may_be_numbers_or_iso_8601(client: TestClient, moment: object) -> None:
    send(client, "u", "i1", timestamp=moment)
    assert client.get("/v1/users/u/events").json()["events"][0]["timestamp"] == 1769882700


def test_an_event_without_a_timestamp_comes_after_all_others(client: TestClient) -> None:
    send(client, "u", "i1", timestamp=time.time() + 3600)  # the clock of the sender is ahead
    send(client, "u", "i2")
    assert stored_history(client, "u") == ["i1", "i2"]


IDS = [
    "ordinary",
    "a/b",
    "a%2Fb",
    "%",
    "ü",
    "日本語",
    "🎬",
    "with space",
    "..",
    "x/events",
    "?q=1#f",
    "+",
    "'; DROP TABLE users; --",
]


@pytest.mark.parametrize("user", IDS)
def test_ids_may_be_any_text(client: TestClient, user: str) -> None:
    send(client, user, "i1", user)
    path = quote(user, safe="") if user != ".." else "%2E%2E"
    assert client.get(f"/v1/users/{path}").json() == client.get(f"/v1/users/{path}").json() | {"user_id": user, "events": 2}
    assert [event["item_id"] for event in client.get(f"/v1/users/{path}/events").json()["events"]] == ["i1", user]
    assert client.get(f"/v1/users/{path}/recommendations").status_code == 200
    assert client.delete(f"/v1/users/{path}").status_code == 204
    assert client.get(f"/v1/users/{path}").status_code == 404


def test_an_integer_is_read_as_its_digits(client: TestClient) -> None:
    answer = client.post("/v1/events", json={"events": [{"user_id": 7, "item_id": 8}]})
    assert answer.json()["accepted"] == 1
    assert stored_history(client, "7") == ["8"]


def test_pages_of_events(client: TestClient) -> None:
    items = [f"i{n % 12}" for n in range(25)]
    for first in range(0, 25, 10):
        send(client, "u", *items[first : first + 10])
    seen, cursor = [], None
    for size in (10, 10, 5):
        page = client.get("/v1/users/u/events", params={"limit": 10} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["events"]) == size
        seen += [event["item_id"] for event in page["events"]]
        cursor = page["next"]
    assert (seen, cursor) == (items, None)
    newest = client.get("/v1/users/u/events", params={"limit": 3, "order": "desc"}).json()["events"]
    assert [event["item_id"] for event in newest] == items[:-4:-1]
    refused = client.get("/v1/users/u/events", params={"cursor": "nonsense"})
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")


def test_a_clock_that_steps_back_keeps_the_order(
    client: TestClient, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([1_800_000_000, 1_800_000_100, 1_799_990_000, 1_799_990_001, 1_800_000_200])
    monkeypatch.setattr(append, "now", lambda: next(moments) * MICROSECONDS)
    items = ["i3", "i4", "i5", "i9", "i1"]
    for item in items:
        send(client, "u", item)
        client.get("/v1/users/u/recommendations")
    assert stored_history(client, "u") == items
    same_answer(client.get("/v1/users/u/recommendations").json(), recommender.recommend(items))
    assert client.get("/v1/users/u").json()["last_timestamp"] == 1_800_000_200


STRANGE = ["ключ", "e\u0301", "👩‍👩‍👧", "\u202eabc", "a b\tc\n", "%2F/../", "\ud7ff\ue000", "0" * 256, "'; DROP TABLE users;--"]


def test_ids_of_any_unicode_in_every_place(client: TestClient) -> None:
    for text in STRANGE:
        assert send(client, text, text, "i3")["accepted"] == 2
        path = quote(text, safe="")
        assert stored_history(client, path) == [text, "i3"]
        assert client.get(f"/v1/users/{path}").json()["user_id"] == text
        assert client.put(f"/v1/items/{path}", json={"title": text}).json()["title"] == text
        answer = client.post("/v1/recommendations", json={"user_id": text, "deny": [text], "k": 2}).json()
        assert answer["source"] == "model"
        assert client.get("/v1/users", params={"prefix": text}).json()["users"][0]["user_id"] == text
        assert client.delete(f"/v1/users/{path}").status_code == 204
