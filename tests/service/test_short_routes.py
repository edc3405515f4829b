"""The short way of the busiest requests: equal to the routes, which define the answers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from service_world import ITEMS, WALK, preset_recommender, running, send
from ssd4rec.service.app import create_app
from ssd4rec.service.middleware import short_routes
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.store.keys import create_key
from ssd4rec.service.user_state import ScoreJob
from ssd4rec.serving.recommender import Recommender

Two = tuple[TestClient, TestClient]
CHANGING = re.compile(r'"recommendation_id":"r[0-9a-f]{24}"|/v1/recommendations/r[0-9a-f]{24}/')
PATHS = ["/v1/users/u/recommendations", "/v1/users/%C3%A9%2F%25%20b/recommendations", "/v1/users/nobody/recommendations"]
QUERIES = ["", "k=3", "k=3&exclude_seen=false", "exclude_seen=false", "exclude_seen=true&k=4", "k=0", "k=2000", "k=x", "k=+3"]
QUERIES += [
    "k=1&k=2",
    "&k=3",
    "k=3&",
    "k=3exclude_seen=true",
    "exclude_seen=1",
    "other=1",
    "k=1000000000",
    "at=5",
    "k=3&at=1767200000",
]
ODD_PATHS = ["/v1/users//recommendations", f"/v1/users/{'u' * 300}/recommendations", "/v1/users/%00/recommendations"]
ODD_PATHS += ["/v1/users/%FF/recommendations", "/v1/users/%ED%A0%80/recommendations", "/v1/users/u/recommendations/"]
EVENT = {"user_id": "v", "item_id": "i3", "timestamp": 5}
BODIES = [
    json.dumps({"events": [EVENT]}).encode(),
    json.dumps({"events": [EVENT | {"event_id": "once"}, {"user_id": 7, "item_id": "i1"}, {"user_id": "v"}, 3]}).encode(),
    json.dumps({"events": []}).encode(),
    json.dumps({"events": [EVENT] * 1001}).encode(),
    json.dumps({"events": [EVENT], "more": 1}).encode(),
    json.dumps([EVENT]).encode(),
    b'{"events": [{"user_id": "v", "item_id": "i1", "value": NaN}]}',
    b'{"events": [{"user_id": "\\ud800", "item_id": "i1"}]}',
    b'{"events"',
    b"",
    b"\xff",
]


@pytest.fixture(scope="module")
def both(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """One service behind two applications: with the short ways, and without."""
    with running(models, f"sqlite:///{tmp_path_factory.mktemp('short') / 'events.db'}") as client:
        service = client.app.state.service
        slow = create_app(service.settings, service, short_routes=False)
        slow.state.service = service
        send(client, "u", *WALK)
        send(client, "é/% b", "i1", "unknown", "i2")
        yield client, TestClient(slow, "http://127.0.0.1", raise_server_exceptions=False, client=("127.0.0.1", 1))


def seen(response: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Return what two answers to the same request must share."""
    headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return response.status_code, headers, CHANGING.sub("", response.text)


def same(both: Two, method: str, address: str, **options: object) -> httpx.Response:
    """Check that both applications give the same answer, and return the short answer."""
    short, slow = (client.request(method, address, **options) for client in both)
    assert seen(short) == seen(slow), address
    return short


@pytest.mark.parametrize("query", QUERIES)
def test_recommendations(both: Two, query: str) -> None:
    for path in PATHS:
        same(both, "GET", f"{path}?{query}")


@pytest.mark.parametrize("path", ODD_PATHS)
def test_odd_paths(both: Two, path: str) -> None:
    same(both, "GET", path)


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
def test_other_methods_and_bodies(both: Two, method: str) -> None:
    same(both, method, PATHS[0])
    same(both, "GET", PATHS[0], content=b"{}")
    same(both, "GET", PATHS[0], content=b"{}", headers={"content-type": "application/json"})


@pytest.mark.parametrize("body", BODIES)
def test_events(both: Two, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    short, slow = (
        client.post("/v1/events", content=body.replace(b"once", f"once {place}".encode()), headers=headers)
        for place, client in enumerate(both)
    )
    assert seen(short) == seen(slow)
    same(both, "POST", "/v1/events?atomic=true", content=body, headers=headers)
    same(both, "POST", "/v1/events", content=body)


def test_keys_and_scopes(both: Two) -> None:
    service = both[0].app.state.service
    with service.engine.begin() as connection:
        _, key = create_key(connection, "events only", ("events",))
    service.keys._read_at = float("-inf")
    for headers in ({}, {"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"x-api-key": "wrong"}):
        same(both, "GET", PATHS[0], headers=headers)
        same(both, "POST", "/v1/events", json={"events": [EVENT]}, headers=headers)
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM api_keys")
    service.keys._read_at = float("-inf")


def test_the_usual_forms_take_the_short_way(both: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = []

    def counted(name: str) -> None:
        way = getattr(short_routes, name)

        async def call(*values: object) -> object:
            response = await way(*values)
            answered.append(response is not None)
            return response

        monkeypatch.setattr(short_routes, name, call)

    counted("recommendations")
    both[0].get(f"{PATHS[1]}?k=5&exclude_seen=false")
    both[0].get(PATHS[0])
    counted("events")
    both[0].post("/v1/events", json={"events": [EVENT]})
    assert answered == [True, True, False, True]


@pytest.mark.parametrize("kind", ["plain", "repeat logits", "fusion", "max_length"])
def test_products_equal_the_slow_scores(kind: str, recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ServedModel("v", Path(), recommender if kind == "plain" else preset_recommender(kind))
    generator = np.random.default_rng(0)
    hidden = generator.random(ITEMS) < 0.3
    jobs = []
    for length in (1, 2, 7, 30, 5):
        indices = generator.integers(0, ITEMS + 1, length)
        indices[0] = 1
        for exclude_seen, excluded in ((True, None), (False, hidden), (True, hidden)):
            jobs.append(ScoreJob(model.read(indices), 5, exclude_seen, excluded, only_known=False))
    for rows in (1, 4, 100):
        monkeypatch.setattr("ssd4rec.service.products.LEAST_ROWS", rows)
        monkeypatch.setattr("ssd4rec.service.products.BLOCK_ELEMENTS", 1)
        assert model._products is not None
        with torch.inference_mode():
            for some in (jobs[:1], jobs):
                short = torch.cat([scores.clone() for _, scores in model._candidates(some)])
                slow = torch.cat([scores.clone() for _, scores in model.slow_candidates(some)])
                np.testing.assert_allclose(short.numpy(), slow.numpy(), rtol=1e-6, atol=1e-6)


def test_an_answer_is_computed_once_for_a_state(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without live metrics, which read new events too, and then keep a state of their own."""
    with running(models, f"sqlite:///{tmp_path / 'events.db'}", prequential_share=0.0) as client:
        check_kept_answers(client, monkeypatch)


def check_kept_answers(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    model, scored = client.app.state.service.models.active.model, []
    score = ServedModel.score
    monkeypatch.setattr(ServedModel, "score", lambda self, jobs: scored.append(len(jobs)) or score(self, jobs))

    def items(address: str) -> list[dict[str, object]]:
        return client.get(address).json()["items"]

    send(client, "w", "i1", "i2")
    first = items("/v1/users/w/recommendations?k=4")
    assert items("/v1/users/w/recommendations?k=4") == first
    assert len(scored) == 1
    items("/v1/users/w/recommendations?k=5")  # another question
    send(client, "w", "i3")  # another state
    assert items("/v1/users/w/recommendations?k=4") != first
    assert len(scored) == 3
    best = items("/v1/users/w/recommendations?k=4")[0]["item_id"]
    client.put(f"/v1/items/{best}", json={"hidden": True}).raise_for_status()  # other items
    assert best not in [each["item_id"] for each in items("/v1/users/w/recommendations?k=4")]
    assert len(scored) == 4
    client.put(f"/v1/items/{best}", json={"available_from": 1}).raise_for_status()  # it may change at any time
    for _ in range(2):
        assert items("/v1/users/w/recommendations?k=4")[0]["item_id"] == best
    assert len(scored) == 6
    assert model.version == "first"


def test_answers_are_not_kept_where_the_settings_say_so(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score, scored = ServedModel.score, []
    with running(models, f"sqlite:///{tmp_path / 'events.db'}", keep_answers=False) as client:
        send(client, "u", *WALK)
        monkeypatch.setattr(ServedModel, "score", lambda self, jobs: scored.append(len(jobs)) or score(self, jobs))
        first, second = (client.get(PATHS[0]).json()["items"] for _ in range(2))
    assert (first, len(scored)) == (second, 2)
