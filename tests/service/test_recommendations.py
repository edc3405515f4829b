"""Answers are those of the library on the stored history."""

import random
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import served
import worlds
from served import HISTORY
from service_world import running, same_answer, save_model, send, stored_history
from ssd4rec.artifact import Artifact
from ssd4rec.config import DataConfig
from ssd4rec.data.split import training_interactions
from ssd4rec.fusion import PAIR_MODELS, ScoreFusion
from ssd4rec.serving.recommender import Recommender

ITEMS = [f"i{index}" for index in HISTORY]


def test_the_next_answer_reflects_every_event(client: TestClient, recommender: Recommender) -> None:
    for count, item in enumerate(ITEMS, start=1):
        send(client, "u1", item)
        answer = client.get("/v1/users/u1/recommendations", params={"k": 5}).json()
        same_answer(answer, recommender.recommend(ITEMS[:count], 5))


def test_a_late_event_is_read_in_its_place(client: TestClient, recommender: Recommender) -> None:
    for time, item in [(100, "i3"), (200, "i4"), (300, "i5")]:
        send(client, "u1", item, timestamp=time)
    same_answer(client.get("/v1/users/u1/recommendations").json(), recommender.recommend(["i3", "i4", "i5"]))
    send(client, "u1", "i9", timestamp=150)
    assert stored_history(client, "u1") == ["i3", "i9", "i4", "i5"]
    same_answer(client.get("/v1/users/u1/recommendations").json(), recommender.recommend(["i3", "i9", "i4", "i5"]))
    send(client, "u1", "i2", timestamp=300)  # at the time of the newest: after it
    assert stored_history(client, "u1") == ["i3", "i9", "i4", "i5", "i2"]
    same_answer(client.get("/v1/users/u1/recommendations").json(), recommender.recommend(["i3", "i9", "i4", "i5", "i2"]))


@pytest.mark.thorough
def test_random_writes_and_reads_of_many_users(client: TestClient, recommender: Recommender) -> None:
    chance = random.Random(0)  # noqa: S311 - not a secret
    for step in range(150):
        user = f"u{chance.randrange(4)}"
        events = [
            {
                "user_id": user,
                "item_id": f"i{chance.randrange(14)}",
                "timestamp": chance.randrange(1000),
                "event_id": f"{step}-{n}",
            }
            for n in range(chance.randrange(1, 4))
        ]
        assert client.post("/v1/events", json={"events": events}).json()["accepted"] == len(events)
        if chance.random() < 0.5:
            expected = recommender.recommend(stored_history(client, user), 6)
            same_answer(client.get(f"/v1/users/{user}/recommendations", params={"k": 6}).json(), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["several layers", "max_length", *PAIR_MODELS])
def test_other_models(kind: str, tmp_path: Path) -> None:
    recommender = _other(kind)
    save_model(tmp_path / "model", recommender)
    library = Recommender.load(tmp_path / "model")
    with running(tmp_path / "model", f"sqlite:///{tmp_path / 'events.db'}") as client:
        for count, item in enumerate(ITEMS, start=1):
            send(client, "u1", item)
            same_answer(client.get("/v1/users/u1/recommendations").json(), library.recommend(ITEMS[:count]))


def _other(kind: str) -> Recommender:
    if kind == "several layers":
        return served.recommender(layers=2)
    if kind == "max_length":
        return served.recommender_of(worlds.config().model_copy(update={"data": DataConfig(min_interactions=1, max_length=4)}))
    base = served.recommender(layers=1).artifact
    world = worlds.world(worlds.cycle())
    pairs = PAIR_MODELS[kind].fit(*training_interactions(world.histories, world.split.train), len(world.catalog))
    fusion = ScoreFusion(pairs, 0.7, -2.0)
    return Recommender(Artifact(base.model, base.catalog, base.config, {}, base.training_counts, fusion))


def test_requests_of_a_batch_have_their_own_filters(client: TestClient, recommender: Recommender) -> None:
    for user in range(5):
        send(client, f"u{user}", *ITEMS[: user + 1])
    requests = [
        {"user_id": "u0", "k": 3},
        {"user_id": "u1", "k": 12, "exclude_seen": False},
        {"user_id": "u2", "k": 4, "deny": ["i1", "i2"]},
        {"user_id": "u3", "k": 5, "allow": ["i6", "i7", "i8"]},
        {"history": ITEMS, "k": 2},
        {"user_id": "new", "k": 4},
        {"user_id": "u4", "k": 0},
        "nonsense",
    ]
    answers = client.post("/v1/recommendations/batch", json={"requests": requests}).json()["answers"]
    assert [answer["status"] for answer in answers] == [200] * 6 + [422] * 2
    same_answer(answers[0]["body"], recommender.recommend(ITEMS[:1], 3))
    same_answer(answers[1]["body"], recommender.recommend(ITEMS[:2], 12, exclude_seen=False))
    same_answer(answers[2]["body"], recommender.recommend(ITEMS[:3], 4, deny=["i1", "i2"]))
    same_answer(answers[3]["body"], recommender.recommend(ITEMS[:4], 5, allow=["i6", "i7", "i8"]))
    same_answer(answers[4]["body"], recommender.recommend(ITEMS, 2))
    same_answer(answers[5]["body"], recommender.recommend([], 4))
    assert answers[6]["body"]["code"] == answers[7]["body"]["code"] == "invalid_request"


def test_the_next_page_continues_the_same_answer(client: TestClient, recommender: Recommender) -> None:
    send(client, "u1", "i3", "i4", "i5")
    body = {"user_id": "u1", "k": 3, "deny": ["i0"]}
    first = client.post("/v1/recommendations", json=body).json()
    send(client, "u1", "i9")  # the page goes on from the history of the first answer
    second = client.get(first["next"]).json()
    third = client.get(second["next"].replace("k=3", "k=9")).json()
    everything = recommender.recommend(["i3", "i4", "i5"], 12, deny=["i0"])
    pages = [item for page in (first, second, third) for item in page["items"]]
    assert [item["item_id"] for item in pages] == [each.item for each in everything.items]
    assert [item["rank"] for item in pages] == list(range(1, len(pages) + 1))
    assert third["next"] is None
    assert third["warnings"] == ["only 2 candidates were left, 9 were requested"]
    assert client.get(first["next"]).json()["items"] == second["items"]


def test_as_of_reads_the_history_up_to_a_time(client: TestClient, recommender: Recommender) -> None:
    for time, item in [(100, "i3"), (200, "i4"), (300, "i5")]:
        send(client, "u1", item, timestamp=time)
    answer = client.post("/v1/recommendations", json={"user_id": "u1", "as_of": 200}).json()
    same_answer(answer, recommender.recommend(["i3", "i4"]))


def test_unknown_items(client: TestClient, recommender: Recommender) -> None:
    send(client, "u1", "i3", "nobody", "i4")
    skipped = client.post("/v1/recommendations", json={"user_id": "u1"}).json()
    same_answer(skipped, recommender.recommend(["i3", "nobody", "i4"]))
    assert skipped["warnings"][0] == "1 of 3 items of the history are not in the catalog and were skipped"
    popular = client.post("/v1/recommendations", json={"user_id": "u1", "unknown_items": "popular"}).json()
    same_answer(popular, recommender.recommend(["i3", "nobody", "i4"], unknown_items="popular"))
    refused = client.post("/v1/recommendations", json={"user_id": "u1", "unknown_items": "raise"})
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_items")


def test_a_new_user_is_given_popular_items(client: TestClient, recommender: Recommender) -> None:
    answer = client.get("/v1/users/nobody/recommendations").json()
    same_answer(answer, recommender.recommend([]))
    assert answer["source"] == "popular"
    assert answer["warnings"][0] == "the history is empty: these are the most popular items"


def test_context_is_stored_and_the_answer_says_so(client: TestClient) -> None:
    answer = client.post("/v1/recommendations", json={"history": ["i1"], "context": {"device": "phone"}}).json()
    assert answer["warnings"] == ["context is stored; the model does not read it yet"]


def test_a_repeat_with_the_same_key_is_given_the_same_answer(client: TestClient) -> None:
    send(client, "u1", "i3")
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/recommendations", json={"user_id": "u1"}, headers=headers)
    send(client, "u1", "i4")
    again = client.post("/v1/recommendations", json={"user_id": "u1"}, headers=headers)
    assert again.json() == first.json()
    other = client.post("/v1/recommendations", json={"user_id": "u1", "k": 3}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
