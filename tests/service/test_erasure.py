"""Erasure, retention and what is left of a user."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

from service_world import running, same_answer, send, settings, stored_history
from ssd4rec.service.ids import now
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.removal import DAY, remove_old_answers, trim_user, users_to_trim
from ssd4rec.service.store.tables import metadata
from ssd4rec.serving.recommender import Recommender


@pytest.mark.thorough
def test_nothing_of_a_user_is_left(client: TestClient, store: str, recommender: Recommender) -> None:
    send(client, "mallory-the-user", "i3", "i4", properties={"note": "mallory-was-here"})
    send(client, "other", "i5")
    body = {"user_id": "mallory-the-user", "context": {"place": "mallory-home"}}
    first = client.post("/v1/recommendations", json=body, headers={"Idempotency-Key": "k"}).json()
    batch = {"requests": [{"user_id": "other"}, body]}
    client.post("/v1/recommendations/batch", json=batch, headers={"Idempotency-Key": "b"})
    assert client.get(first["next"]).status_code == 200
    assert client.delete("/v1/users/mallory-the-user").status_code == 204

    assert client.get("/v1/users/mallory-the-user").status_code == 404
    assert client.get("/v1/users/mallory-the-user/events").status_code == 404
    assert client.delete("/v1/users/mallory-the-user").status_code == 404
    assert client.get(first["next"]).status_code == 404
    cold = client.get("/v1/users/mallory-the-user/recommendations").json()
    same_answer(cold, recommender.recommend([]))
    assert stored_history(client, "other") == ["i5"]
    engine = create_engine(store)
    with engine.connect() as connection:
        for name in metadata.tables:
            for row in connection.execute(text(f"SELECT * FROM {name}")):  # noqa: S608 - our own names
                assert "mallory" not in repr(row), name
    engine.dispose()
    if store.startswith("sqlite"):
        path = Path(store.removeprefix("sqlite:///"))
        for file in path.parent.glob(f"{path.name}*"):
            assert b"mallory" not in file.read_bytes(), file.name


def test_an_erased_user_who_returns_starts_empty(client: TestClient, recommender: Recommender) -> None:
    send(client, "u", "i3", "i4", "i5")
    client.get("/v1/users/u/recommendations")
    client.delete("/v1/users/u")
    send(client, "u", "i9", "i1", "i2")
    same_answer(client.get("/v1/users/u/recommendations").json(), recommender.recommend(["i9", "i1", "i2"]))


def test_event_ids_of_an_erased_user_are_free_again(client: TestClient) -> None:
    send(client, "u", "i3", event_id="e")
    client.delete("/v1/users/u")
    assert send(client, "u", "i3", event_id="e")["accepted"] == 1


def test_erasures_name_the_models_that_were_trained_before(client: TestClient) -> None:
    send(client, "u", "i3", "i4")
    client.delete("/v1/users/u")
    (erasure,) = client.get("/v1/erasures").json()["erasures"]
    assert (erasure["events"], erasure["models_trained_before"]) == (2, ["first"])


@pytest.mark.thorough
def test_another_process_forgets_too(models: Path, store: str) -> None:
    with running(models, store) as one, running(models, store) as other:
        send(one, "u", "i3", "i4")
        assert other.get("/v1/users/u/recommendations").json()["source"] == "model"
        states = other.app.state.service.models.active.states
        assert len(states) == 1
        assert one.delete("/v1/users/u").status_code == 204
        assert other.get("/v1/users/u/recommendations").json()["source"] == "popular"
        assert len(states) == 0


def test_retention_by_count_and_age(models: Path, store: str, recommender: Recommender) -> None:
    old = now() / 1e6 - 40 * 86_400
    with running(models, store, retention_days=30, retention_events=3) as client:
        send(client, "many", "i1", "i2", "i3", "i4", "i5")
        send(client, "old", "i1", "i2", timestamp=old)
        send(client, "old", "i7", "i8")
        for user in ("many", "old"):
            client.get(f"/v1/users/{user}/recommendations")
        client.app.state.service.maintenance.remove_old()
        assert stored_history(client, "many") == ["i3", "i4", "i5"]
        assert stored_history(client, "old") == ["i7", "i8"]
        assert client.get("/v1/users/many").json()["events"] == 3
        for user, items in (("many", ["i3", "i4", "i5"]), ("old", ["i7", "i8"])):
            same_answer(client.get(f"/v1/users/{user}/recommendations").json(), recommender.recommend(items))
        send(client, "many", "i9")
        same_answer(client.get("/v1/users/many/recommendations").json(), recommender.recommend(["i3", "i4", "i5", "i9"]))


@pytest.mark.thorough
def test_old_recommendations_go(client: TestClient, store: str) -> None:
    answer = client.post("/v1/recommendations", json={"history": ["i1"], "k": 2}).json()
    assert client.get(answer["next"]).status_code == 200
    client.get("/health/ready")  # writes after everything that waits to be written
    engine = open_engine(store)
    with engine.begin() as connection:
        connection.execute(text("UPDATE recommendations SET created = created - :days"), {"days": 31 * DAY})
        assert remove_old_answers(connection, 30.0) == 2
        assert users_to_trim(connection, 1.0, 1) == []
        assert trim_user(connection, 12345, 1.0, 1) == 0
    engine.dispose()
    assert client.get(answer["next"]).status_code == 404


def test_settings_of_retention_are_checked(models: Path, store: str) -> None:
    assert settings(models, store, retention_events=1).retention_events == 1
