"""A wall clock that is set back or forward loses, refuses and reorders nothing, and no duration is measured with it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service_world import WALK, default_recommender, live, running, same_answer, save_model, send, stored_history, without_budget
from ssd4rec.service.feed import LiveFeed, Message
from ssd4rec.serving.recommender import Recommender

HOUR = 3600.0
Clock = list[float]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By how many seconds the clock of the service is ahead: its one entry."""
    ahead, right = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: right() + ahead[0])
    return ahead


@pytest.fixture(params=[-HOUR, HOUR], ids=["back", "forward"])
def step(request: pytest.FixtureRequest) -> float:
    """Seconds by which the clock is set."""
    return request.param


@pytest.fixture
def client(models: Path, store: str, clock: Clock) -> Iterator[TestClient]:
    """A service whose clock can be set."""
    assert clock == [0.0]
    with running(models, store, retention_days=30) as connected:
        without_budget(connected)
        yield connected


def test_events_stay_in_their_order(client: TestClient, clock: Clock, step: float, recommender: Recommender) -> None:
    """Without timestamps in the order of their arrival, with timestamps in that of these; repeats stay duplicates."""
    right, dated = time.time(), []
    for place, item in enumerate(WALK):
        clock[0] = step if 2 <= place < 5 else 0.0
        send(client, "u", item)
        event = {"user_id": "v", "item_id": item, "timestamp": right + place, "event_id": f"e{place}"}
        for accepted in (1, 0):
            counts = client.post("/v1/events", json={"events": [event]}).json()
            assert (counts["accepted"], counts["rejected"]) == (accepted, [])
        dated.append(item)
        for user in ("u", "v"):
            assert stored_history(client, user) == dated
            same_answer(client.get(f"/v1/users/{user}/recommendations").json(), recommender.recommend(dated))
    live(client, 2 * len(WALK), 2 * len(WALK) - 2)  # every event but the first of each user was ranked


def test_pages_and_repeated_requests_continue(client: TestClient, clock: Clock, step: float, recommender: Recommender) -> None:
    send(client, "u", *WALK[:3])
    body, key = {"user_id": "u", "k": 2}, {"Idempotency-Key": "once"}
    first = client.post("/v1/recommendations", json=body, headers=key).json()
    clock[0] = step
    assert client.post("/v1/recommendations", json=body, headers=key).json() == first
    send(client, "u", *WALK[3:])
    second = client.get(first["next"]).json()
    clock[0] = 0.0
    third = client.get(second["next"]).json()
    items = [item for page in (first, second, third) for item in page["items"]]
    same_answer({**first, "items": items}, recommender.recommend(WALK[:3], 6))


def test_retention_removes_nothing_that_is_new(client: TestClient, clock: Clock, step: float) -> None:
    send(client, "u", *WALK)
    answer = client.get("/v1/users/u/recommendations?k=2").json()
    client.get("/health/ready")
    clock[0] = step
    client.app.state.service.maintenance.remove_old()
    assert stored_history(client, "u") == WALK
    assert client.get(answer["next"]).status_code == 200


def test_the_rate_limit_does_not_follow_the_clock(models: Path, tmp_path: Path, clock: Clock, step: float) -> None:
    with running(models, f"sqlite:///{tmp_path / 'events.db'}", rate_limit=0.5) as client:
        statuses = []
        for _ in range(3):
            statuses.append(client.get("/v1/users/u/recommendations").status_code)
            clock[0] += step
        assert statuses == [200, 429, 429]  # an hour would have filled the bucket
        time.sleep(2.1)
        assert client.get("/v1/users/u/recommendations").status_code == 200


def test_an_experiment_counts_what_came_after_its_start(tmp_path: Path, store: str, clock: Clock, step: float) -> None:
    folder = tmp_path / "models"
    for version, seed in (("v1", None), ("v2", 1)):
        save_model(folder / version, default_recommender(), seed=seed)
    (folder / "active.json").write_text('{"version": "v1"}', encoding="utf-8")
    with running(folder, store) as client:
        without_budget(client)
        body = {"name": "e", "kind": "shadow", "treatment": "v2"}
        client.post("/v1/experiments", json=body).raise_for_status()
        send(client, "u", *WALK[:3])
        live(client, 3, 2)
        clock[0] = step
        send(client, "u", *WALK[3:])
        live(client, len(WALK), len(WALK) - 1)
        client.post("/v1/experiments/e/end").raise_for_status()
        (shown,) = client.get("/v1/experiments").json()["experiments"]
        assert shown["prequential"]["ranked_events"] == len(WALK) - 1


def test_an_erasure_lists_models_that_were_trained_before_the_clock_was_set_back(client: TestClient, clock: Clock) -> None:
    send(client, "u", *WALK)
    clock[0] = -HOUR
    assert client.delete("/v1/users/u").status_code == 204
    (erasure,) = client.get("/v1/erasures").json()["erasures"]
    assert len(erasure["models_trained_before"]) == 1


def test_the_live_view_continues(client: TestClient, clock: Clock, step: float) -> None:
    service = client.app.state.service
    feed = LiveFeed(service.engine)

    def around_the_step() -> None:  # before the next poll
        send(client, "u", "i1")
        clock[0] = step
        send(client, "v", "i2")

    async def follow() -> list[str]:
        shown: list[str] = []
        actions: list[Callable[[], object]] = [lambda: send(client, "u", "i0"), around_the_step]
        async for messages, _ in feed.messages(0.1):
            shown += [_item(message) for message in messages]
            if len(shown) >= 3:
                feed.close()
            elif actions:
                await asyncio.to_thread(actions.pop(0))
        return shown

    assert asyncio.run(asyncio.wait_for(follow(), 60)) == ["i0", "i1", "i2"]


def _item(message: Message) -> str:
    return str(message.values["item_id"])
